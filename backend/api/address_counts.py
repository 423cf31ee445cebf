"""Where slowapi's counts lie: in this process, with no thread behind them.

The library's own memory storage starts a thread for about each request, to forget what has expired. Its start holds
the event loop up for as long as all the rest of a small request. Here a count forgets when it is next asked, and the
least recently seen address goes when there are too many.
"""

import time
from collections import OrderedDict, deque

from limits.storage import MovingWindowSupport, Storage

SCHEME = "moving-windows"
MOST_ADDRESSES = 100_000


class MovingWindows(Storage, MovingWindowSupport):
    """The instants of the latest requests, by what is counted. It knows moving windows only.

    Args:
        uri: as the library found this storage by it; says nothing.
        wrap_exceptions: the library's own.
        most: addresses that are remembered.
    """

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012  # the library's own declaration

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, most: int = MOST_ADDRESSES) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._most = most
        self._windows: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What may go wrong here: nothing of its own."""
        return ValueError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` requests if that leaves no more than ``limit`` in the last ``expiry`` seconds."""
        now_s = time.time()
        window = self._window(key, now_s - expiry)
        if len(window) + amount > limit:
            return False
        window.extend([now_s] * amount)
        self._windows[key] = window
        self._windows.move_to_end(key)
        if len(self._windows) > self._most:
            self._windows.popitem(last=False)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002  # the library's
        """Return the instant of the oldest request that still counts, and how many there are."""
        now_s = time.time()
        window = self._window(key, now_s - expiry)
        return (window[0] if window else now_s), len(window)

    def _window(self, key: str, since_s: float) -> deque[float]:
        window = self._windows.get(key)
        if window is None:
            return deque()
        while window and window[0] < since_s:
            window.popleft()
        return window

    def clear(self, key: str) -> None:
        """Forget what was counted under a name."""
        self._windows.pop(key, None)

    def reset(self) -> int:
        """Forget everything; return how many names that were."""
        forgotten = len(self._windows)
        self._windows.clear()
        return forgotten

    def check(self) -> bool:
        """Whether it works: it is this process's memory."""
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not counted here."""
        raise NotImplementedError("moving windows only")

    def get(self, key: str) -> int:
        """Fixed windows are not counted here."""
        raise NotImplementedError("moving windows only")

    def get_expiry(self, key: str) -> float:
        """Fixed windows are not counted here."""
        raise NotImplementedError("moving windows only")
