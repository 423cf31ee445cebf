"""The other side of ``tests.warm_process``: imports everything once, then forks a process for each that is wanted.

    python -m tests.warm_parent DESCRIPTOR MODULE...

The descriptor is a Unix socket. Each message on it brings three descriptors: the new process's standard output and
standard error, and a line of its own, which says what to run, and is told its pid and in the end its exit code. The
parent ends when the socket does. It has one thread and runs nothing of what it imports.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from typing import Any

MESSAGE = b"fork"


class Parent:
    """Forks, and reaps. It returns in the new process, and leaves in the old one."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines: dict[int, socket.socket] = {}
        self._ended, self._ending = socket.socketpair()
        self._ended.setblocking(False)
        self._ending.setblocking(False)

    def await_birth(self) -> dict[str, Any]:
        """Serve until the other side is gone. Return what to run, in a process that is new."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ending.fileno(), warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._control, self._ended], [], [])
            if self._ended in ready:
                self._ended.recv(4096)
                self._reap()
            if self._control in ready:
                message, descriptors, _, _ = socket.recv_fds(self._control, len(MESSAGE), 3)
                if not message:
                    # Without a word to those who are left: whoever started them ends them.
                    os._exit(0)
                wanted = self._fork(*descriptors)
                if wanted is not None:
                    return wanted

    def _fork(self, output: int, errors: int, descriptor: int) -> dict[str, Any] | None:
        line = socket.socket(fileno=descriptor)
        with line.makefile("rb") as words:
            wanted: dict[str, Any] = json.loads(words.readline())
        pid = os.fork()
        if pid:
            self._lines[pid] = line
            os.close(output)
            os.close(errors)
            line.sendall(b"%d\n" % pid)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (line, self._control, self._ended, self._ending, *self._lines.values()):
            each.close()
        _become(wanted, output, errors)
        return wanted

    def _reap(self) -> None:
        while self._lines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._lines.pop(pid) as line:
                try:
                    line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                except OSError:
                    # Nobody wants to know any more.
                    continue


def _become(wanted: dict[str, Any], output: int, errors: int) -> None:
    """Be what a process is that was started by itself."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    tempfile.tempdir = None
    sys.argv = [wanted["module"], *wanted["arguments"]]


def main(descriptor: str, *modules: str) -> None:
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wanted = Parent(socket.socket(fileno=int(descriptor))).await_birth()
    # As ``python -m`` does it, to its very end: exit codes, tracebacks and what runs at exit are the interpreter's.
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
