"""The repository of models: a folder, or a URL with the same files below it.

::

    <root>/<name>/<version>/manifest.json    with the artifact that it names, and manifest.sig where it is signed
    <root>/<name>/aliases.json
    <root>/<name>/unloaded.json              the versions that are kept from being served

What is read is verified: names are plain, nothing leads out of its folder, and signature and digest are compared
before any byte of a manifest or an artifact is parsed. What is written appears whole or not at all: a version's
manifest is its last file.
"""

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backend.domain.models import is_model_name
from backend.model_service.aliases import Aliases, WeightedVersion, dump_aliases, parse_aliases
from backend.model_service.errors import ModelRefused, ModelUnreadable
from backend.model_service.local_files import LocalModelFiles
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
from backend.services.ports.model_files import Marks, ModelFiles

_MANIFEST: Final = "manifest.json"
_ALIASES: Final = "aliases.json"
_UNLOADED: Final = "unloaded.json"
_MAX_ALIASES_BYTES: Final = 1024 * 1024
MAX_ARTIFACT_BYTES: Final = 4 * 1024**3


def version_order(version: str) -> tuple[int, int, str]:
    """Sort key of versions: by number where they are numbers (10 after 9), and after every text."""
    return (1, int(version), version) if version.isascii() and version.isdigit() else (0, 0, version)


class ModelRepository:
    """Reads and writes models. Blocking: call it from a thread.

    What is asked of the store itself, and not of one file, raises ``OSError`` where it does not answer.
    """

    def __init__(
        self,
        root: Path | ModelFiles,
        *,
        max_artifact_bytes: int = MAX_ARTIFACT_BYTES,
        is_signed: IsSigned | None = None,
    ) -> None:
        """Take the folder or another store, and, where versions must be signed, the check of a signature."""
        self._files: ModelFiles = LocalModelFiles(root) if isinstance(root, Path) else root
        self._is_signed = is_signed
        self._max_artifact_bytes = max_artifact_bytes

    def look(self) -> "ModelRepository":
        """Return the repository as it is now, for reading much of it with few questions to the store."""
        seen = self._files.look()
        return ModelRepository(seen, max_artifact_bytes=self._max_artifact_bytes, is_signed=self._is_signed)

    def names(self) -> tuple[str, ...]:
        """Return the models there are, sorted; folders that cannot be a model's are passed over."""
        return tuple(sorted(filter(is_model_name, self._files.models())))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model, newest first."""
        return tuple(sorted(filter(is_version_name, self._files.versions(name)), key=version_order, reverse=True))

    def require_readable(self) -> None:
        """Check that the root is there.

        Raises:
            OSError: it cannot be listed. To :meth:`names` one that does not exist holds no models.
        """
        self._files.require_readable()

    def fingerprint(self, name: str, version: str) -> Marks:
        """Return what changes when a file of a version does, without reading any; empty where it cannot be listed."""
        return self._files.marks(name, version)

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
        files = [(manifest.artifact, artifact)]
        if manifest.runner.artifact is not None and runner_artifact is not None:
            files.append((manifest.runner.artifact.name, runner_artifact))
        try:
            self._files.add(manifest.name, manifest.version, [*files, (_MANIFEST, manifest.to_json())])
        except FileExistsError as error:
            raise FileExistsError(f"{manifest.name} has a version {manifest.version} already.") from error

    def sign(self, name: str, version: str, sign: Callable[[bytes], bytes]) -> None:
        """Write a version's signature, once the version itself has been found whole.

        Raises:
            ModelRefused: it is not.
        """
        self.check(name, version)
        manifest = self._read(name, version, _MANIFEST, MAX_MANIFEST_BYTES, "manifest")
        self._files.replace(name, version, SIGNATURE, data=dump_signature(sign(message_of(manifest))))

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
            self._files.replace(name, _ALIASES, data=dump_aliases(kept))

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
            self._files.replace(name, _UNLOADED, data=dump_versions(sorted(now)))

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Change a model's files alone: other threads, processes and machines that ask for the same wait."""
        if name not in self.names():
            raise ModelRefused(f"There is no model {name}.")
        with self._files.changing(name):
            yield

    def remove(self, name: str, version: str) -> None:
        """Remove a version: readers see all of it or none.

        Raises:
            ModelRefused: there is none, or an alias points at it.
        """
        with self._changing(name):
            self._require(name, version, unused=True)
            self._files.remove(name, version)

    def _require(self, name: str, version: str, *, unused: bool) -> None:
        if version not in self.versions(name):
            raise ModelRefused(f"{name} has no version {version}.")
        if not unused and version in self.unloaded(name):
            raise ModelRefused(f"Version {version} is unloaded.")
        for alias, targets in self.aliases(name).items() if unused else ():
            if version in {target.version for target in targets}:
                raise ModelRefused(f"The alias {alias} points at version {version}.")

    def _read_beside(self, name: str, file_name: str, what: str) -> bytes | None:
        try:
            return self._files.read(name, file_name, limit_bytes=_MAX_ALIASES_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(error, what, _MAX_ALIASES_BYTES) from error

    def _compared(self, manifest: Manifest, file_name: str, sha256: str, what: str) -> bytes:
        data = self._read(manifest.name, manifest.version, file_name, self._max_artifact_bytes, what, sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelRefused(f"The {what}'s SHA-256 is not the one in the manifest.")
        return data

    def _read(
        self, name: str, version: str, file_name: str, limit_bytes: int, what: str, sha256: str | None = None
    ) -> bytes:
        try:
            return self._files.read(name, version, file_name, limit_bytes=limit_bytes, sha256=sha256)
        except OSError as error:
            raise _refusal(error, what, limit_bytes) from error


def _refusal(error: OSError, what: str, limit_bytes: int) -> ModelRefused:
    if isinstance(error, FileNotFoundError):
        return ModelRefused(f"The {what} is missing.")
    if error.errno == errno.EFBIG:
        return ModelRefused(f"The {what} is larger than {limit_bytes} bytes.")
    if error.errno == errno.EXDEV:
        return ModelRefused(f"The {what} is not a file in the version's own folder.")
    return ModelUnreadable(f"The {what} cannot be read.")
