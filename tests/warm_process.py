"""Python processes without the seconds that their imports take.

A test that starts ``forecourt`` twenty times waits for one thing: the same two thousand modules, imported twenty
times. Here a parent imports them once, and each process is a fork of it: with a pid, a session, an environment,
signals, sockets and an end of its own, so all that a test may do to a process it may do to this one. It runs what
``python -m`` would, as ``__main__``. What it cannot show is how a process imports: tests that are about that start one
of their own.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.warm_parent import MESSAGE

PROJECT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "backend.cli",
    "backend.main",
    "backend.demo.models",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvicorn.lifespan.on",
    "tests.contracts.closing",
)
"""What processes of these tests import sooner or later."""


class WarmProcess:
    """One process, as far as these tests need it like :class:`subprocess.Popen`. Its standard input is empty."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self.args = (module, *arguments)
        self.returncode: int | None = None
        self._waiting = threading.Lock()
        wanted = {"module": module, "arguments": arguments, "cwd": str(PROJECT), "environment": dict(env)}
        self._line, theirs = socket.socketpair()
        with theirs:
            PARENT.fork((stdout.fileno(), stderr.fileno(), theirs.fileno()))
        self._line.sendall(json.dumps(wanted).encode() + b"\n")
        self._words = self._line.makefile("rb")
        word = self._words.readline()
        if not word:
            raise ChildProcessError("the parent of warm processes did not start")
        self.pid = int(word)

    def poll(self) -> int | None:
        """Return the exit code, if it has ended: minus the signal, if it died of one."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        code = self._look(timeout)
        while code is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            code = self._look(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is still somebody to get it."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, within_s: float | None) -> int | None:
        with self._waiting:
            if self.returncode is None and select.select([self._line], [], [], within_s)[0]:
                word = self._words.readline()
                if not word:
                    raise ChildProcessError("the parent of warm processes has ended")
                self.returncode = int(word)
                self._words.close()
                self._line.close()
            return self.returncode


def cold_process(
    module: str, *arguments: str, env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start the same with nothing imported, as anybody does who is not a test."""
    return subprocess.Popen(
        (sys.executable, "-m", module, *arguments),
        cwd=PROJECT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run_warm(
    module: str, *arguments: str, env: Mapping[str, str], within_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run a process that ends by itself; return what it said. One that does not end in time is killed.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = WarmProcess(module, *arguments, env=env, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(within_s)
        finally:
            process.send_signal(signal.SIGKILL)
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode())
        return subprocess.CompletedProcess(process.args, code, *said)


class _Parent:
    """The parent's process, started when the first child is wanted."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._control: socket.socket | None = None
        self._starting = threading.Lock()

    def fork(self, descriptors: Sequence[int]) -> None:
        with self._starting:
            if self._control is None:
                self._control = self._start()
            socket.send_fds(self._control, [MESSAGE], descriptors)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                (sys.executable, "-m", "tests.warm_parent", str(theirs.fileno()), *self._modules),
                cwd=PROJECT,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(_end, ours, process)
        return ours


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """It ends by itself when nobody is left to ask it: also when the tests were killed."""
    control.close()
    process.wait()


PARENT = _Parent(IMPORTED)
