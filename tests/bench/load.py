"""The load generator: compiled from ``load.c`` where there is a compiler, and in Python where there is none."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import Cores, pin

HERE = Path(__file__).parent
MARK = "########"
"""Stands in a request where a number goes that no other place gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of the generator. Only whole answers with a 2xx count as ``ok``."""

    answers: int
    ok: int
    refused: int
    failed: int
    broken: int
    seconds: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.ok / self.seconds

    @property
    def generator_share(self) -> float:
        """How busy the generator was: near 1 it, and not the server, is what was measured."""
        return self.cpu_s / self.seconds

    def require_clean(self, name: str) -> "Measured":
        """Refuse a run in which anything but answers came back: a refusal is fast, and would look like a success."""
        if not self.ok or self.ok != self.answers or self.broken:
            raise RuntimeError(
                f"{name}: {self.ok} of {self.answers} answers were good, {self.refused} refusals, "
                f"{self.failed} failures, {self.broken} broken connections"
            )
        return self


class LoadGenerator:
    """Runs load, one run at a time, on the cores that are not the server's."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self._cores = cores
        self._next_number = 0
        self.command, self.told = _command(folder)

    def run(
        self, port: int, requests: Sequence[bytes], *, connections: int, seconds: float, warmup_s: float = 0.5
    ) -> Measured:
        """Send requests in turn over so many connections, and wait for the outcome."""
        numbers = (warmup_s, seconds, self._next_number)
        process = subprocess.Popen(
            (*self.command, str(port), str(connections), *map(str, numbers)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=False,
        )
        pin(process.pid, self._cores.others)
        answer, _ = process.communicate(b"".join(_framed(requests)))
        if process.returncode:
            raise RuntimeError(f"the load generator ended with {process.returncode}")
        found = json.loads(answer)
        self._next_number = found.pop("next_number")
        return Measured(**found)


def http_request(port: int, path: str, body: bytes, *, content_type: str = "application/json", **headers: str) -> bytes:
    """Return a whole POST request."""
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {content_type}\r\n"
        f"{named}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _framed(requests: Iterable[bytes]) -> Iterable[bytes]:
    for request in requests:
        yield struct.pack("<I", len(request))
        yield request


def _command(folder: Path) -> tuple[tuple[str, ...], str]:
    compiler = next((found for name in ("cc", "gcc", "clang", "tcc") if (found := shutil.which(name))), None)
    if compiler is None:
        return (sys.executable, str(HERE / "load_in_python.py")), "Python on uvloop, as no C compiler is on PATH"
    source = (HERE / "load.c").read_bytes()
    program = folder / f"load-{hashlib.sha256(source).hexdigest()[:12]}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run((compiler, "-O2", "-o", str(made), str(HERE / "load.c")), check=True)
        made.rename(program)
    return (str(program),), f"load.c, compiled with {Path(compiler).name}"
