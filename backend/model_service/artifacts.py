"""Artifacts: fitted pipelines as bytes.

skops by default; joblib, which can run code, only where it is allowed.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from zipfile import BadZipFile, ZipFile

import joblib
import sklearn
import skops.io
from sklearn.exceptions import InconsistentVersionWarning
from skops.io.exceptions import UntrustedTypesFoundException

from backend.model_service.errors import ModelRefused
from backend.model_service.fitted import run_single_threaded
from backend.model_service.manifest import ArtifactFormat
from backend.model_service.releases import of_another_release, release_of
from backend.model_service.tree_bounds import check_trees
from backend.model_service.trusted_types import TRUSTED_TYPES

ARTIFACT_NAMES: Final = {ArtifactFormat.SKOPS: "model.skops", ArtifactFormat.JOBLIB: "model.joblib"}

_MAX_UNPACKED_BYTES: Final = 8 * 1024**3


def dump_artifact(model: object, artifact_format: ArtifactFormat) -> bytes:
    """Write a fitted pipeline."""
    if artifact_format is ArtifactFormat.SKOPS:
        data: bytes = skops.io.dumps(model)
        return data
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def load_artifact(data: bytes, artifact_format: ArtifactFormat, *, allow_pickle: bool) -> Any:
    """Read a fitted pipeline from bytes whose digest has been checked.

    Raises:
        ModelRefused: the format is not allowed, another release of scikit-learn wrote it, or the bytes hold what is not
            trusted or cannot be read.
    """
    if artifact_format is ArtifactFormat.JOBLIB and not allow_pickle:
        raise ModelRefused("The artifact is joblib, which can run code, and pickle is not allowed here.")
    try:
        with _of_this_release():
            model = _load_skops(data) if artifact_format is ArtifactFormat.SKOPS else joblib.load(io.BytesIO(data))
        check_trees(model)
        run_single_threaded(model)
    except ModelRefused:
        raise
    except UntrustedTypesFoundException as error:
        raise ModelRefused(f"The artifact holds types that are not trusted: {_untrusted(data)}.") from error
    except Exception as error:
        # Readers of foreign bytes raise anything; the class is enough for the operator and holds no content.
        raise ModelRefused(f"The artifact cannot be read ({type(error).__name__}).") from error
    return model


def untrusted_types(data: bytes) -> tuple[str, ...]:
    """Return the types in a skops file that are not on the list, sorted."""
    return tuple(name for name in skops.io.get_untrusted_types(data=data) if name not in TRUSTED_TYPES)


def _untrusted(data: bytes) -> str:
    return ", ".join(untrusted_types(data))


def _load_skops(data: bytes) -> Any:
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
    except BadZipFile as error:
        raise ModelRefused("The artifact is not a skops file, or is cut short.") from error
    if unpacked_bytes > _MAX_UNPACKED_BYTES:
        raise ModelRefused("The artifact unpacks to more than is allowed.")
    return skops.io.loads(data, trusted=list(TRUSTED_TYPES))


@contextmanager
def _of_this_release() -> Iterator[None]:
    """Refuse estimators that another release of scikit-learn wrote, as they say themselves while they are read."""
    this = re.escape(release_of(sklearn.__version__))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        warnings.filterwarnings(
            "ignore", rf"Trying to unpickle estimator \S+ from version {this}(\D|$)", InconsistentVersionWarning
        )
        try:
            yield
        except InconsistentVersionWarning as found:
            written = str(found.original_sklearn_version)
            raise ModelRefused(of_another_release("The artifact was written by", written)) from None
