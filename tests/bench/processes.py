"""A server under measurement: started on its core, waited for, watched, ended by its pid."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.machine import Cores, cpu_s, memory_mb, pin
from tests.server_process import LEASH

START_WITHIN_S = 120.0
END_WITHIN_S = 30.0


class Served:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def memory_mb(self) -> float:
        return memory_mb(self.pid)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str], port: int, *, cores: Cores, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Start a server on its core, and end it with all that it started.

    Raises:
        ChildProcessError: it ended before it served; its last words are in the message.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # onnxruntime would report to its maker.
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **(environment or {})},
            start_new_session=True,
        )
    pin(process.pid, cores.server)
    # Should this process be killed, the server must not stay.
    leash = subprocess.Popen(
        ("sh", "-c", LEASH, "leash", str(process.pid), str(log)), stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        _await_answer(process, port, log)
        yield Served(process, port)
    finally:
        leash.kill()
        leash.communicate()
        _end(process)


def python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _await_answer(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_WITHIN_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(0.05)
            raise ChildProcessError(f"the server ended with {code}: {log.read_text(errors='replace')[-2000:]}")
        if time.monotonic() > deadline_s:
            raise ChildProcessError(f"the server did not serve: {log.read_text(errors='replace')[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_WITHIN_S)
