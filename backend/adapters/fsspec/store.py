"""One fsspec file system below one root: listed as a whole, and read file by file."""

import errno
import os
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from fsspec.core import url_to_fs

from backend.adapters.fsspec.artifact_cache import ArtifactCache
from backend.adapters.fsspec.failures import as_os_errors

DEPTH: Final = 3
"""``<model>/<version>/<file>``: nothing lies deeper."""

# What drivers say of a file's content in a listing. Asking for each file would take a question each.
_TELLING: Final = (
    *("size", "ETag", "etag", "md5Hash", "crc32c"),
    *("LastModified", "last_modified", "updated", "created", "mtime"),
)
# One attempt and few seconds for each: a look that fails is followed by the next one.
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "s3": {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 5, "read_timeout": 15}}
}
_LIST_A_TREE_AT_ONCE: Final = frozenset({"s3", "s3a"})

# s3fs closes its connections when it is collected, on whichever event loop happens to run then, and fails where that is
# another one than its own. A process opens one repository, so it is kept until the end.
_KEPT: Final[list[object]] = []

Path: TypeAlias = tuple[str, ...]
Told: TypeAlias = Mapping[str, Any]
Listing: TypeAlias = Mapping[Path, Told]
"""What the store says of each file, by the parts of its path below the root."""


class UnusableModelsUrl(ValueError):
    """No driver takes the URL."""


class Store:
    """Asks an fsspec file system, and remembers nothing of it between two questions: other processes change it.

    Args:
        url: the root, without credentials.
        cache: keeps artifacts here.

    Raises:
        UnusableModelsUrl: there is no driver for it, or it is not installed.
    """

    def __init__(self, url: str, cache: ArtifactCache) -> None:
        try:
            options = _OPTIONS.get(url.split("://", maxsplit=1)[0], {})
            self.fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            raise UnusableModelsUrl(
                "needs a driver that is not installed; the extra `s3` has the one for S3"
            ) from error
        except ValueError as error:
            raise UnusableModelsUrl("is not a URL that fsspec has a driver for") from error
        _KEPT.append(self.fs)
        self._root = str(root).rstrip("/")
        self._cache = cache
        self._small: dict[Path, tuple[tuple[object, ...], bytes]] = {}
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self._lists_at_once = bool(protocols & _LIST_A_TREE_AT_ONCE)

    def at(self, *path: str) -> str:
        """Return the file system's own spelling of a path below the root."""
        return "/".join((self._root, *path))

    def require_root(self) -> None:
        """Check that the root is there; a store without folders has it as soon as it answers."""
        if not self._lists_at_once:
            with as_os_errors():
                self.fs.ls(self._root, detail=False)

    def list(self, *below: str) -> Listing:
        """List the files below a folder. What cannot be listed fails all of it: half a store looks like a whole one."""
        start = self.at(*below)
        with as_os_errors():
            found = self.fs.find(start, detail=True) if self._lists_at_once else self._walk(start, DEPTH - len(below))
        cut = len(self._root) + 1
        return {tuple(path[cut:].split("/")): told for path, told in found.items()}

    def told(self, path: Path) -> Told:
        """Return what the store says of one file."""
        with as_os_errors():
            told: Told = self.fs.info(self.at(*path))
        return told

    def fetch(self, path: Path, told: Told, limit_bytes: int, sha256: str | None = None) -> bytes:
        """Return the content of a file of which the store has told, or a copy that has the digest."""
        if told.get("type") == "directory":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        _require_size(int(told.get("size") or 0), limit_bytes)
        kept = None if sha256 is None else self._cache.get(sha256)
        if kept is not None:
            return kept
        with as_os_errors():
            data = bytes(self.fs.cat_file(self.at(*path)))
        _require_size(len(data), limit_bytes)
        if sha256 is not None:
            self._cache.put(sha256, data)
        return data

    def fetch_small(self, path: Path, told: Told, limit_bytes: int) -> bytes:
        """Return the content of a file that is read at every look; fetched again when the store says something new."""
        mark = mark_of(path, told)
        known = self._small.get(path)
        if known is None or known[0] != mark:
            known = self._small[path] = (mark, self.fetch(path, told, limit_bytes))
        return known[1]

    def _walk(self, folder: str, depth: int) -> dict[str, Told]:
        # Not fsspec's own: it passes over what cannot be listed.
        try:
            entries = self.fs.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        found: dict[str, Told] = {}
        for told in entries:
            if told["type"] != "directory":
                found[told["name"]] = told
            elif depth > 1:
                found |= self._walk(told["name"], depth - 1)
        return found


def mark_of(path: Path, told: Told) -> tuple[object, ...]:
    """Return what is another one when the file's content is."""
    return (path[-1], *(str(told.get(key)) for key in _TELLING))


def _require_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
