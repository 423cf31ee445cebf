"""The folder of models.

::

    <root>/<name>/<version>/manifest.json    with the artifact that it names, and manifest.sig where it is signed
    <root>/<name>/aliases.json
    <root>/<name>/unloaded.json              the versions that are kept from being served

What is read is verified: names are plain, nothing leads out of its folder, and signature and digest are compared
before any byte of a manifest or an artifact is parsed. What is written appears whole or not at all.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from backend.domain.models import is_model_name
from backend.model_service.aliases import Aliases, WeightedVersion, dump_aliases, parse_aliases
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import Manifest, is_version_name
from backend.model_service.manifest_reading import MAX_MANIFEST_BYTES, parse_manifest
from backend.model_service.signatures import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    IsSigned,
    check_signature,
    dump_signature,
    message_of,
)
from backend.model_service.unloaded import dump_versions, parse_versions

_MANIFEST: Final = "manifest.json"
_ALIASES: Final = "aliases.json"
_UNLOADED: Final = "unloaded.json"
_LOCK: Final = ".lock"
_MAX_ALIASES_BYTES: Final = 1024 * 1024
MAX_ARTIFACT_BYTES: Final = 4 * 1024**3

Fingerprint: TypeAlias = frozenset[tuple[str, int, int, int]]
"""The files of a version: name, inode, size, and time of change in ns."""


def version_order(version: str) -> tuple[int, int, str]:
    """Sort key of versions: by number where they are numbers (10 after 9), and after every text."""
    return (1, int(version), version) if version.isascii() and version.isdigit() else (0, 0, version)


class ModelRepository:
    """Reads and writes a folder of models. Blocking: call it from a thread."""

    def __init__(
        self, root: Path, *, max_artifact_bytes: int = MAX_ARTIFACT_BYTES, is_signed: IsSigned | None = None
    ) -> None:
        """Take the folder, and, where versions must be signed, the check of a signature."""
        self._root = root
        self._is_signed = is_signed
        self._max_artifact_bytes = max_artifact_bytes

    def names(self) -> tuple[str, ...]:
        """Return the models there are, sorted; folders that cannot be a model's are passed over."""
        return tuple(sorted(_folders(self._root, is_model_name)))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model, newest first."""
        return tuple(sorted(_folders(self._root / name, is_version_name), key=version_order, reverse=True))

    def require_readable(self) -> None:
        """Check that the folder is there.

        Raises:
            OSError: it cannot be listed. To :meth:`names` one that does not exist holds no models.
        """
        next(self._root.iterdir(), None)

    def fingerprint(self, name: str, version: str) -> Fingerprint:
        """Return what changes when a file of a version does, without reading any; empty where it cannot be listed."""
        try:
            return frozenset(_mark(path) for path in (self._root / name / version).iterdir())
        except OSError:
            return frozenset()

    def manifest(self, name: str, version: str) -> Manifest:
        """Read and check a manifest.

        Raises:
            ModelRefused: it is missing, too large, not signed by a trusted key, damaged, or another version's.
        """
        data = self._read(name, version, _MANIFEST, MAX_MANIFEST_BYTES, "manifest")
        if self._is_signed is not None:
            signature = self._read(name, version, SIGNATURE, MAX_SIGNATURE_BYTES, "manifest's signature")
            check_signature(data, signature, self._is_signed)
        manifest = parse_manifest(data)
        if (manifest.name, manifest.version) != (name, version):
            raise ModelRefused("The manifest names another model or version than its folder.")
        return manifest

    def artifact(self, manifest: Manifest) -> bytes:
        """Read an artifact and compare its digest; the bytes returned are the bytes compared.

        Raises:
            ModelRefused: it is missing, too large, leads out of its folder, or is not what was registered.
        """
        return self._compared(manifest, manifest.artifact, manifest.sha256, "artifact")

    def runner_artifact(self, manifest: Manifest) -> bytes | None:
        """Read the file of the runner's own, where it has one, and compare its digest.

        Raises:
            ModelRefused: as for the artifact.
        """
        own = manifest.runner.artifact
        return None if own is None else self._compared(manifest, own.name, own.sha256, "runner's artifact")

    def check(self, name: str, version: str) -> Manifest:
        """Check a version's signature, manifest and digests, and return the manifest.

        Raises:
            ModelRefused: one does not hold.
        """
        manifest = self.manifest(name, version)
        self.artifact(manifest)
        self.runner_artifact(manifest)
        return manifest

    def aliases(self, name: str) -> Aliases:
        """Read a model's aliases; a model without the file has none.

        Raises:
            ModelRefused: the file is damaged.
        """
        data = self._read_beside(name, _ALIASES, "aliases file")
        return {} if data is None else parse_aliases(data)

    def unloaded(self, name: str) -> frozenset[str]:
        """Read which versions of a model are kept from being served until they are loaded again.

        Raises:
            ModelRefused: the file is damaged.
        """
        data = self._read_beside(name, _UNLOADED, "file of unloaded versions")
        return frozenset() if data is None else parse_versions(data)

    def publish(self, manifest: Manifest, artifact: bytes, runner_artifact: bytes | None = None) -> None:
        """Write a new version: readers see all of it or none.

        Raises:
            FileExistsError: there is such a version. What was published is never overwritten.
        """
        folder = self._root / manifest.name
        folder.mkdir(parents=True, exist_ok=True)
        # A name with a leading dot is never a version, so a half-written one is invisible.
        staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
        try:
            _write_durably(staging / manifest.artifact, artifact)
            if manifest.runner.artifact is not None and runner_artifact is not None:
                _write_durably(staging / manifest.runner.artifact.name, runner_artifact)
            _write_durably(staging / _MANIFEST, manifest.to_json())
            staging.chmod(0o755)
            # Linux replaces an *empty* folder silently; a version's folder is never empty.
            staging.rename(folder / manifest.version)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if (folder / manifest.version).exists():
                raise FileExistsError(f"{manifest.name} has a version {manifest.version} already.") from error
            raise

    def sign(self, name: str, version: str, sign: Callable[[bytes], bytes]) -> None:
        """Write a version's signature, once the version itself has been found whole.

        Raises:
            ModelRefused: it is not.
        """
        self.check(name, version)
        manifest = self._read(name, version, _MANIFEST, MAX_MANIFEST_BYTES, "manifest")
        _replace(self._root / name / version / SIGNATURE, dump_signature(sign(message_of(manifest))))

    def set_alias(
        self, name: str, alias: str, targets: Sequence[WeightedVersion], *, existing_only: bool = False
    ) -> None:
        """Point an alias at versions, or at none to remove it, leaving the other aliases as they are.

        Raises:
            ModelRefused: the file that is there is damaged, or with ``existing_only`` there is no such version, or it
                is unloaded.
        """
        with self._changing(name):
            if existing_only:
                for target in targets:
                    self._require(name, target.version, unused=False)
            aliases = self.aliases(name) | {alias: tuple(targets)}
            kept = {alias: targets for alias, targets in aliases.items() if targets}
            _replace(self._root / name / _ALIASES, dump_aliases(kept))

    def set_unloaded(self, name: str, version: str, *, unloaded: bool) -> None:
        """Keep a version from being served, or let it be served again.

        Raises:
            ModelRefused: there is none, an alias points at it, or a file that is there is damaged.
        """
        with self._changing(name):
            if unloaded:
                self._require(name, version, unused=True)
            others = self.unloaded(name) - {version}
            now = others | {version} if unloaded else others
            _replace(self._root / name / _UNLOADED, dump_versions(sorted(now)))

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Change a model's files alone: other threads, processes and machines that ask for the same wait."""
        if not (self._root / name).is_dir():
            raise ModelRefused(f"There is no model {name}.")
        with (self._root / name / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield

    def remove(self, name: str, version: str) -> None:
        """Remove a version: readers see all of it or none.

        Raises:
            ModelRefused: there is none, or an alias points at it.
        """
        with self._changing(name):
            self._require(name, version, unused=True)
            leaving = Path(tempfile.mkdtemp(prefix=".leaving-", dir=self._root / name))
            (self._root / name / version).rename(leaving / version)
        shutil.rmtree(leaving)

    def _require(self, name: str, version: str, *, unused: bool) -> None:
        if version not in self.versions(name):
            raise ModelRefused(f"{name} has no version {version}.")
        if not unused and version in self.unloaded(name):
            raise ModelRefused(f"Version {version} is unloaded.")
        for alias, targets in self.aliases(name).items() if unused else ():
            if version in {target.version for target in targets}:
                raise ModelRefused(f"The alias {alias} points at version {version}.")

    def _read_beside(self, name: str, file_name: str, what: str) -> bytes | None:
        path = self._root / name / file_name
        try:
            if path.stat().st_size > _MAX_ALIASES_BYTES:
                raise ModelRefused(f"The {what} is larger than {_MAX_ALIASES_BYTES} bytes.")
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelRefused(f"The {what} cannot be read.") from error

    def _compared(self, manifest: Manifest, file_name: str, sha256: str, what: str) -> bytes:
        data = self._read(manifest.name, manifest.version, file_name, self._max_artifact_bytes, what)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelRefused(f"The {what}'s SHA-256 is not the one in the manifest.")
        return data

    def _read(self, name: str, version: str, file_name: str, limit_bytes: int, what: str) -> bytes:
        folder = self._root / name / version
        try:
            path = (folder / file_name).resolve(strict=True)
            # Mounted volumes are made of links: one is followed as long as it stays below the version.
            inside = path.is_relative_to(folder.resolve()) and path.is_relative_to(self._root.resolve())
            if not inside or not path.is_file():
                raise ModelRefused(f"The {what} is not a file in the version's own folder.")
            if path.stat().st_size > limit_bytes:
                raise ModelRefused(f"The {what} is larger than {limit_bytes} bytes.")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ModelRefused(f"The {what} is missing.") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
            raise ModelRefused(f"The {what} cannot be read.") from error


def _mark(path: Path) -> tuple[str, int, int, int]:
    # Of what a link leads to: mounted volumes swap the link.
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns


def _folders(parent: Path, accepts: Callable[[str], bool]) -> list[str]:
    try:
        return [entry.name for entry in parent.iterdir() if accepts(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _replace(path: Path, data: bytes) -> None:
    staging = path.with_name(f".{path.name}-{os.getpid()}")
    _write_durably(staging, data)
    staging.replace(path)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
