"""A lock that is a file in a store: whoever creates it holds it, and whoever finds it waits.

Creating a file only where there is none is one step on S3 (``If-None-Match: *``) and in memory. A store that does not
know it holds the lock less than strictly; readers are right either way, since each file is replaced as a whole. A lock
says until when it holds, so that a process that was killed does not hold it for ever.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep, time
from typing import Any, Final

from backend.adapters.fsspec.failures import as_os_errors

LEASE_S: Final = 60.0
"""How long a change may take, and how far two clocks may be apart, at the most."""
WAIT_S: Final = 15.0

_RETRY_S: Final = 0.1
_MAX_BYTES: Final = 100


class Lease:
    """The lock at one path.

    Args:
        fs: an fsspec file system.
        path: the lock's file.
        wait_s: how long to wait for who holds it.
        now: seconds since the epoch.
    """

    def __init__(self, fs: Any, path: str, *, wait_s: float = WAIT_S, now: Callable[[], float] = time) -> None:
        self._fs = fs
        self._path = path
        self._wait_s = wait_s
        self._now = now
        self._token = secrets.token_hex(8)
        self._refused: OSError | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            TimeoutError: somebody else holds it for too long.
            OSError: the store cannot be asked, or takes no files from us.
        """
        ends_at_s = monotonic() + self._wait_s
        with as_os_errors():
            while not self._take():
                if monotonic() >= ends_at_s:
                    raise self._refused or TimeoutError("another change of this model takes too long")
                sleep(_RETRY_S)
        try:
            yield
        finally:
            # It ends by itself where the store does not answer any more.
            with suppress(Exception):
                if self._holder()[0] == self._token:
                    self._fs.rm_file(self._path)

    def _take(self) -> bool:
        content = f"{self._token} {self._now() + LEASE_S:.0f}".encode()
        try:
            self._fs.pipe_file(self._path, content, mode="create")
        except PermissionError:
            raise
        except OSError as error:
            # Drivers differ in how they say that there is one. One that repeats a question may find its own.
            holder, until_s = self._holder()
            self._refused = None if holder else error
            if holder and until_s < self._now():
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path)
            return holder == self._token
        return True

    def _holder(self) -> tuple[str, float]:
        try:
            holder, until = bytes(self._fs.cat_file(self._path))[:_MAX_BYTES].decode().split()
            return holder, float(until)
        except FileNotFoundError:
            return "", 0.0
        except ValueError:
            return "?", 0.0  # not ours, and worth nothing
