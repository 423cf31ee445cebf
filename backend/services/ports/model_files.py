"""Where versions of models are kept: files two folders below a root, on a disk or behind a URL."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

Marks: TypeAlias = frozenset[tuple[object, ...]]
"""What changes when a file of a version does: of each its name, and what the store says of its content."""


class ModelFiles(Protocol):
    """Files below a root: ``<model>/<version>/<file>``, and ``<model>/<file>`` beside the versions.

    Names are those that :mod:`backend.domain.models` lets pass: the caller has checked them. Everything blocks. Every
    method raises ``OSError`` where the store cannot be asked, in bounded time.
    """

    def look(self) -> "ModelFiles":
        """Return the files as they are now, for reading many of them with few questions to the store."""
        ...

    def require_readable(self) -> None:
        """Return where the root can be listed. To :meth:`models` one that does not exist holds none."""
        ...

    def models(self) -> Sequence[str]:
        """Return the names of the folders below the root."""
        ...

    def versions(self, model: str) -> Sequence[str]:
        """Return the names of the folders below a model."""
        ...

    def marks(self, model: str, version: str) -> Marks:
        """Return the marks of a version's files, without reading any; none where they cannot be listed."""
        ...

    def read(self, *path: str, limit_bytes: int, sha256: str | None = None) -> bytes:
        """Return a file's content.

        Args:
            path: model, version where it is a version's, and name.
            limit_bytes: what is larger is not read.
            sha256: what its digest should be, in hex: a copy that has it may be returned. The caller compares.

        Raises:
            FileNotFoundError: there is none.
            OSError: with ``errno.EFBIG`` for one that is too large, ``errno.EXDEV`` for one that leads out of its
                folder.
        """
        ...

    def add(self, model: str, version: str, files: Sequence[tuple[str, bytes]]) -> None:
        """Write a version: readers see it once its last file is there, and then all of it.

        Raises:
            FileExistsError: there is such a version.
        """
        ...

    def replace(self, *path: str, data: bytes) -> None:
        """Write one file: readers see the old one or the new one."""
        ...

    def remove(self, model: str, version: str) -> None:
        """Remove a version: readers see all of it or none."""
        ...

    def changing(self, model: str) -> AbstractContextManager[None]:
        """Hold a model alone for a change of what is beside its versions: who asks for the same waits."""
        ...
