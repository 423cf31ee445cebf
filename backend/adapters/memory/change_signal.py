"""How processes without Redis tell each other that something a cached credential depends on has changed.

The command line revokes a key in a process of its own, while the server that has the key cached runs in another. Each
announcement appends one byte to a file beside the database; the file's length is the count of all announcements. A
server looks at the length before it serves a key from its cache, which takes about a microsecond, and drops what it
has cached when somebody else has announced something.
"""

import os
from pathlib import Path
from typing import Protocol

from backend.domain.errors import EnforcementUnavailable

Position = tuple[int, int]


class ChangeSignal(Protocol):
    """A bell that several processes hear."""

    def ring(self) -> None:
        """Tell the others that something has changed, and has been committed."""
        ...

    def position(self) -> Position:
        """Return a value that is another one after each ring of somebody else's."""
        ...


class NoSignal:
    """Nobody else is there to hear, or they are told in another way."""

    def ring(self) -> None:
        """Tell nobody."""

    def position(self) -> Position:
        """Return always the same."""
        return (0, 0)


class FileSignal:
    """A file whose length counts the announcements of every process on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = os.fspath(path)
        self._own = 0

    def ring(self) -> None:
        """Append one byte: the kernel puts the bytes of several processes one after the other.

        Raises:
            EnforcementUnavailable: the file cannot be written, so other processes do not know yet.
        """
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(b".")
        except OSError as error:
            raise EnforcementUnavailable(retry_after_s=1) from error
        self._own += 1

    def position(self) -> Position:
        """Return which file it is and how many bytes of others it holds. One ``stat``, no read."""
        try:
            found = os.stat(self._name)  # noqa: PTH116  # a Path costs a microsecond more, at each prediction
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_size - self._own)
