"""Artifacts that were fetched, kept in a local folder under their digest.

What is kept is compared with its digest whenever it is read: a damaged copy is fetched again. Several processes may
share the folder. A folder that cannot be written keeps nothing, and stops nobody.
"""

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)


class ArtifactCache:
    """A folder of artifacts, up to a number of bytes; the ones read longest ago go first.

    Args:
        folder: made when the first artifact comes.
        limit_bytes: what is kept at the most; 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def get(self, sha256: str) -> bytes | None:
        """Return the content with a digest, if it is kept and whole."""
        path = self._folder / sha256
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            logger.warning("a kept artifact is damaged and fetched again")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # read last
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep content, if it has the digest and there is room."""
        if len(data) > self._limit_bytes or hashlib.sha256(data).hexdigest() != sha256:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            handle, staging = tempfile.mkstemp(prefix=".incoming-", dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(staging).replace(self._folder / sha256)
            except OSError:
                Path(staging).unlink(missing_ok=True)
                raise
        except OSError as error:
            logger.warning("an artifact cannot be kept in the local folder: %s", type(error).__name__)

    def _make_room(self, size: int) -> None:
        kept = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                kept.append((status.st_mtime_ns, status.st_size, path))
        held = sum(size for _, size, _ in kept)
        for _, own, path in sorted(kept):
            if held + size <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            held -= own
