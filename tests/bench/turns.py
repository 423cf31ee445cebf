"""Turns of several askers at once, each in a process of its own: starts ``paced.py`` and reads what came of it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

PACED = Path(__file__).with_name("paced.py")
ENDS_WITHIN_S = 60.0
"""After a turn: as long as the server may take for what was under way, and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one process asks for a turn; with ``per_s`` ``None`` every connection always has a request under way."""

    port: int
    requests: Sequence[bytes]
    connections: int
    per_s: float | None

    def job(self, seconds: float) -> str:
        """Return it as ``paced.py`` reads it."""
        texts = [request.decode() for request in self.requests]
        how = {"port": self.port, "connections": self.connections, "per_s": self.per_s, "seconds": seconds}
        return json.dumps({**how, "requests": texts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of it: answers by their status, and their latencies in microseconds."""

    statuses: Mapping[str, int]
    latencies_us: Sequence[int]

    def require(self, name: str, *statuses: str) -> "Asked":
        """Refuse a turn with other answers than these, or without one of them.

        Raises:
            RuntimeError: it says what came back.
        """
        if set(self.statuses) != set(statuses):
            wanted = " and ".join(statuses)
            raise RuntimeError(f"{name}: the answers were {dict(self.statuses)}, and should have been {wanted}")
        return self

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())

    @property
    def p50_ms(self) -> float:
        return median(self.latencies_us) / 1000

    @property
    def p99_ms(self) -> float:
        return quantiles(self.latencies_us, n=100, method="inclusive")[-1] / 1000


def ask_together(asks: Sequence[Ask], seconds: float) -> list[Asked]:
    """Ask all at the same time, for so long, and wait for the last answer."""
    with ExitStack() as stack:
        askers = [stack.enter_context(_asker(ask, seconds)) for ask in asks]
        for asker in askers:
            if asker.stdout is None or asker.stdout.readline() != "ready\n":
                raise ChildProcessError(f"{PACED.name} ended before its turn: is the server gone?")
        for asker in askers:
            _tell(asker, "go")
        return [_outcome(asker, seconds) for asker in askers]


@contextmanager
def _asker(ask: Ask, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    command = (sys.executable, str(PACED))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _tell(process, ask.job(seconds))
            yield process
        finally:
            process.kill()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _outcome(process: "subprocess.Popen[str]", seconds: float) -> Asked:
    said, _ = process.communicate(timeout=seconds + ENDS_WITHIN_S)
    if process.returncode:
        raise ChildProcessError(f"{PACED.name} ended with {process.returncode}")
    return Asked(**json.loads(said))
