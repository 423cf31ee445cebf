"""One server process of the tests: started on a free loopback port, watched, and ended by its pid."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

START_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0

LEASH = """
read -r _
kill -CONT "$1"; kill -INT "$1"
while kill -0 "$1"; do sleep 0.1; done
rm -rf "$2"
"""
"""Waits for the end of its input, which comes when the tests are killed before they could end the server."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """The account a server runs under; the tests' own by default."""

    user: str | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None


@dataclass(slots=True)
class Server:
    """A server process of ours, which a test may also pause, kill and start again on the same port."""

    url: str
    command: Sequence[str]
    folder: Path
    run_as: RunAs
    answers: Callable[[str], bool]
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _leash: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self.run_as.user,
            group=self.run_as.group,
            extra_groups=self.run_as.extra_groups,
            # Ctrl-C in the terminal is for the tests; they end the server.
            start_new_session=True,
        )
        self._leash = subprocess.Popen(
            ("sh", "-c", LEASH, "leash", str(self._process.pid), str(self.folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_WITHIN_S
        while not self.answers(self.url):
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            self.kill()
            raise ChildProcessError(f"{self.command[0]} did not start")

    def stop(self) -> None:
        """End it in an orderly way, or by force when that takes too long."""
        if self._process is not None:
            self.resume()
            # For PostgreSQL SIGINT is a fast shutdown; Redis ends on it as well.
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """End it like a power cut, with every process of its own."""
        if self._process is not None:
            _signal_family(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_WITHIN_S)
            self._process = None
        if self._leash is not None:
            self._leash.kill()
            self._leash.communicate()
            self._leash = None

    def pause(self) -> None:
        """Let it hang, with every process of its own: connections are still accepted, nothing is answered."""
        if self._process is not None:
            _signal_family(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        if self._process is not None:
            _signal_family(self._process.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again, on the same port, with what it had stored."""
        self.kill()
        self.start_again()

    def start_again(self) -> None:
        """Start it after a kill. A process of its own may be there a moment longer, and hold what it needs."""
        for attempts_left in range(19, -1, -1):
            try:
                self.start()
            except ChildProcessError:
                if not attempts_left:
                    raise
            else:
                return


def _signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and its children: the parent first, so that it starts no other meanwhile."""
    listed = subprocess.run(
        ("ps", "-e", "-o", "pid=,ppid="), check=True, capture_output=True, text=True, timeout=STOP_WITHIN_S
    )
    pairs = [line.split() for line in listed.stdout.splitlines()]
    for each in (pid, *(int(child) for child, parent in pairs if int(parent) == pid)):
        with suppress(ProcessLookupError):
            os.kill(each, number)


def running(prepare: Callable[[int], Server]) -> Iterator[Server]:
    """Start a server on a free port, and end it. A port may be taken before the server gets it: then another."""
    for attempts_left in (4, 3, 2, 1, 0):
        server = prepare(_free_port())
        try:
            server.start()
            break
        except ChildProcessError:
            if not attempts_left:
                raise
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
