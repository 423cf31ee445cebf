"""Files of models in a local folder."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from backend.services.ports.model_files import Marks

_LOCK: Final = ".lock"
_OF_A_VERSION: Final = 3


class LocalModelFiles:
    """Implements ``ModelFiles`` on a folder; nothing that is read leads out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def look(self) -> Self:
        """Return itself: asking a disk costs little."""
        return self

    def require_readable(self) -> None:
        """Return where the folder can be listed."""
        next(self._root.iterdir(), None)

    def models(self) -> Sequence[str]:
        """Return the folders below the root."""
        return _folders(self._root)

    def versions(self, model: str) -> Sequence[str]:
        """Return the folders below a model."""
        return _folders(self._root / model)

    def marks(self, model: str, version: str) -> Marks:
        """Return name, inode, size and time of change in ns of a version's files."""
        try:
            return frozenset(_mark(path) for path in (self._root / model / version).iterdir())
        except OSError:
            return frozenset()

    def read(self, *path: str, limit_bytes: int, sha256: str | None = None) -> bytes:  # noqa: ARG002 - it is near
        """Return a file's content; a version's file has to be one below its own folder."""
        found = self._inside(*path) if len(path) == _OF_A_VERSION else self._root.joinpath(*path)
        if found.stat().st_size > limit_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return found.read_bytes()

    def add(self, model: str, version: str, files: Sequence[tuple[str, bytes]]) -> None:
        """Write a version beside the others and rename it into its place."""
        folder = self._root / model
        folder.mkdir(parents=True, exist_ok=True)
        # A name with a leading dot is never a version, so a half-written one is invisible.
        staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
        try:
            for name, data in files:
                _write_durably(staging / name, data)
            staging.chmod(0o755)
            # Linux replaces an *empty* folder silently; a version's folder is never empty.
            staging.rename(folder / version)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if (folder / version).exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            raise

    def replace(self, *path: str, data: bytes) -> None:
        """Write a file beside the old one and rename it into its place."""
        target = self._root.joinpath(*path)
        staging = target.with_name(f".{target.name}-{os.getpid()}")
        _write_durably(staging, data)
        staging.replace(target)

    def remove(self, model: str, version: str) -> None:
        """Rename a version out of sight, and remove it there."""
        leaving = Path(tempfile.mkdtemp(prefix=".leaving-", dir=self._root / model))
        (self._root / model / version).rename(leaving / version)
        shutil.rmtree(leaving)

    @contextmanager
    def changing(self, model: str) -> Iterator[None]:
        """Hold a lock that other threads, processes and machines wait for."""
        with (self._root / model / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield

    def _inside(self, model: str, version: str, name: str) -> Path:
        folder = self._root / model / version
        try:
            path = (folder / name).resolve(strict=True)
        except RuntimeError as error:  # a loop of links, before Python 3.13
            raise OSError(errno.EIO, "a loop of links") from error
        # Mounted volumes are made of links: one is followed as long as it stays below the version.
        inside = path.is_relative_to(folder.resolve()) and path.is_relative_to(self._root.resolve())
        if not inside or not path.is_file():
            raise OSError(errno.EXDEV, "not a file in its own folder")
        return path


def _mark(path: Path) -> tuple[str, int, int, int]:
    # Of what a link leads to: mounted volumes swap the link.
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns


def _folders(parent: Path) -> list[str]:
    try:
        return [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
