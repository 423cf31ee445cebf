"""A bounded pool of processes that hash passwords.

A thread would not do, though argon2 releases the interpreter lock: it has to take the lock again after each hash, and
one that stands behind all others for the processor keeps everybody waiting for as long as it holds it. A process may
stand behind the others, and holds nothing of theirs.

They are started when there is first need of them, and kept. None is given a secret of the server's.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from backend.domain.errors import Overloaded, Unavailable

log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("password_process.py")
NICENESS = 19
_OUR_SETTINGS = "FORECOURT_"
_ATTEMPTS = 2


class HashingError(ValueError):
    """This password cannot be hashed, or that is no hash to compare with; the text quotes neither."""


class PasswordProcesses:
    """Puts questions to processes of its own, each to one that is free.

    Args:
        most: processes at a time.
        most_asking: questions at a time, those that wait for a process included.
        within_s: how long one may take, with its wait.
    """

    def __init__(self, *, most: int, most_asking: int, within_s: float) -> None:
        self._turns = asyncio.Semaphore(most)
        self._most_asking = most_asking
        self._within_s = within_s
        self._asking = 0
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False

    @property
    def pids(self) -> set[int]:
        """Return the ids of the processes there are."""
        return {process.pid for process in (*self._idle, *self._busy)}

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a question; ``password_process.py`` says what they look like.

        Raises:
            HashingError: it cannot be answered.
            Overloaded: too many others ask, or it took too long.
            Unavailable: the processes do not run.
        """
        line = json.dumps(question, ensure_ascii=False).encode() + b"\n"
        if self._asking >= self._most_asking:
            raise Overloaded("Too many passwords are being checked at the moment.")
        self._asking += 1
        try:
            async with asyncio.timeout(self._within_s), self._turns:
                answer = await self._answer(line)
        except TimeoutError:
            raise Overloaded("Checking the password took too long.") from None
        finally:
            self._asking -= 1
        if "error" in answer:
            raise HashingError(f"the password cannot be hashed or compared: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the processes. Whoever still waits for one is refused."""
        self._closed = True
        for process in self._busy:
            # Its socket is being waited on, and is closed by who does.
            process.kill()
        while self._idle:
            self._idle.pop().end()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        for _ in range(_ATTEMPTS):
            process = self._free_process()
            try:
                answer = await process.ask(line)
            except ConnectionError:
                self._busy.discard(process)
                status = process.end()
                if not self._closed:
                    log.warning("a password process ended by itself", extra={"cause": f"exit status {status}"})
                continue
            except BaseException:
                # Nobody waits for its answer any more, and the next question must not get that one.
                self._busy.discard(process)
                process.end()
                raise
            self._busy.discard(process)
            if self._closed:
                process.end()
            else:
                self._idle.append(process)
            return answer
        raise Unavailable("Passwords cannot be checked at the moment.")

    def _free_process(self) -> "_Process":
        if self._closed:
            raise Overloaded("The server is shutting down.")
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                break
            log.warning("a password process had ended by itself", extra={"cause": f"exit status {process.end()}"})
        else:
            try:
                process = _Process()
            except OSError as error:
                log.exception("a password process does not start")
                raise Unavailable("Passwords cannot be checked at the moment.") from error
        self._busy.add(process)
        return process


class _Process:
    """One process, and our end of the socket it listens to."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            self._socket.setblocking(False)
            self._process = subprocess.Popen(  # noqa: S603
                # No folder of the project gets in front of the standard library's modules.
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={name: value for name, value in os.environ.items() if not name.startswith(_OUR_SETTINGS)},
                # Ctrl+C reaches every process of a terminal's group, and ours ends when the server says so.
                process_group=0,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        # Before it has done anything: its start gives way to the predictions as well.
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Return the answer to one question; ``ConnectionError`` when the process has ended."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, line)
        received = b""
        while not received.endswith(b"\n"):
            part = await loop.sock_recv(self._socket, 65_536)
            if not part:
                raise ConnectionResetError
            received += part
        answer: dict[str, Any] = json.loads(received)
        return answer

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> int:
        """End the process at once, it has nothing to lose; return its exit status."""
        self._socket.close()
        self.kill()
        return self._process.wait()
