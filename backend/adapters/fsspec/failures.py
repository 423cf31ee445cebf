"""What drivers raise, as ``OSError``: not all of theirs are."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Make every failure inside an ``OSError``. The text is the class alone: a driver's may quote keys and addresses.

    Raises:
        OSError: the driver's own, or one in its place.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, type(error).__name__) from error
