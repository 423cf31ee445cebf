"""Files of models behind a URL: ``s3://bucket/models``, or whatever else fsspec has a driver for.

::

    <url>/<model>/<version>/manifest.json    a version is there once its manifest is
    <url>/<model>/aliases.json, …            each replaced as a whole
    <url>/<model>/.lock                      whoever changes the model at the moment

Readers see all of a version or none, without renaming anything: its manifest is written last and removed first, and
names each file by its digest. Of changes at the same time each waits for the one before.

A look at the store is one question where the driver lists a whole tree at once, as S3's does. Artifacts are kept in a
local folder under their digest, so that a restart does not fetch them again. Which credentials, region and endpoint are
used is for the driver's own environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …), not for the URL.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final, Self

from backend.adapters.fsspec.artifact_cache import ArtifactCache
from backend.adapters.fsspec.failures import as_os_errors
from backend.adapters.fsspec.lease import Lease
from backend.adapters.fsspec.store import DEPTH, Listing, Store, mark_of
from backend.services.ports.model_files import Marks

MANIFEST: Final = "manifest.json"
LOCK: Final = ".lock"


class FsspecModelFiles:
    """Implements ``ModelFiles`` on a store; with a listing, the files as that one had them."""

    def __init__(self, store: Store, listing: Listing | None = None) -> None:
        self._store = store
        self._listing = listing

    @classmethod
    def open(cls, url: str, cache: ArtifactCache) -> Self:
        """Take a URL; nothing is asked yet.

        Raises:
            UnusableModelsUrl: there is no driver for it, or it is not installed.
        """
        return cls(Store(url, cache))

    def look(self) -> "FsspecModelFiles":
        """List the whole store once."""
        return FsspecModelFiles(self._store, self._store.list())

    def require_readable(self) -> None:
        """Return where the root is there."""
        self._store.require_root()

    def models(self) -> Sequence[str]:
        """Return what there are folders of."""
        return list(dict.fromkeys(path[0] for path in self._seen() if len(path) > 1))

    def versions(self, model: str) -> Sequence[str]:
        """Return a model's versions that have a manifest."""
        return [path[1] for path in self._seen(model) if len(path) == DEPTH and (path[0], path[2]) == (model, MANIFEST)]

    def marks(self, model: str, version: str) -> Marks:
        """Return what the store says of each file of a version."""
        try:
            listing = self._seen(model, version)
        except OSError:
            return frozenset()
        return frozenset(mark_of(path, told) for path, told in listing.items() if path[:2] == (model, version))

    def read(self, *path: str, limit_bytes: int, sha256: str | None = None) -> bytes:
        """Return a file's content, from the store or the copy here; one that was not listed is not asked for."""
        if self._listing is None:
            return self._store.fetch(path, self._store.told(path), limit_bytes, sha256)
        told = self._listing.get(path)
        if told is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if len(path) < DEPTH:
            return self._store.fetch_small(path, told, limit_bytes)
        return self._store.fetch(path, told, limit_bytes, sha256)

    def add(self, model: str, version: str, files: Sequence[tuple[str, bytes]]) -> None:
        """Write a version's files one after the other, the manifest last."""
        with self.changing(model):
            if version in FsspecModelFiles(self._store).versions(model):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            try:
                for name, data in files:
                    self.replace(model, version, name, data=data)
            except OSError:
                # Nobody sees it without its manifest; what cannot be removed now is written over by the next attempt.
                with suppress(OSError):
                    self.remove(model, version)
                raise

    def replace(self, *path: str, data: bytes) -> None:
        """Write one file."""
        with as_os_errors():
            self._store.fs.pipe_file(self._store.at(*path), data)

    def remove(self, model: str, version: str) -> None:
        """Remove a version's files one after the other, the manifest first."""
        paths = sorted(self._store.list(model, version), key=lambda path: (path[-1] != MANIFEST, path))
        for path in paths:
            with as_os_errors():
                self._store.fs.rm_file(self._store.at(*path))

    def changing(self, model: str) -> AbstractContextManager[None]:
        """Hold the model's lock."""
        return Lease(self._store.fs, self._store.at(model, LOCK)).held()

    def _seen(self, *below: str) -> Listing:
        return self._store.list(*below) if self._listing is None else self._listing
