"""A fitted pipeline before it is a model: as a file, what it predicts, and what it wants to be given."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from backend.domain.models import Task
from backend.model_service.artifacts import dump_artifact, load_artifact, untrusted_types
from backend.model_service.errors import ModelRefused, RegistrationError
from backend.model_service.manifest import ArtifactFormat, Container
from backend.model_service.sample import as_container

_PICKLE_SUFFIXES: Final = frozenset({".joblib", ".pkl", ".pickle"})


def load_pipeline_file(path: Path, *, allow_pickle: bool) -> Any:
    """Load a fitted pipeline from a ``.skops``, ``.joblib`` or ``.pkl`` file.

    Raises:
        RegistrationError: it cannot be read, or is pickle and that is not allowed.
    """
    suffix = path.suffix.lower()
    if suffix != ".skops" and suffix not in _PICKLE_SUFFIXES:
        raise RegistrationError("The pipeline must be a .skops, .joblib or .pkl file.")
    artifact_format = ArtifactFormat.SKOPS if suffix == ".skops" else ArtifactFormat.JOBLIB
    try:
        return load_artifact(path.read_bytes(), artifact_format, allow_pickle=allow_pickle)
    except OSError as error:
        raise RegistrationError(f"The pipeline file cannot be read ({type(error).__name__}).") from error
    except ModelRefused as refused:
        raise RegistrationError(refused.reason) from refused


def task_of(pipeline: Any) -> Task:
    """Return what a fitted pipeline predicts.

    Raises:
        RegistrationError: it is not fitted, or neither a classifier nor a regressor.
    """
    try:
        check_is_fitted(pipeline)
    except (TypeError, NotFittedError) as error:
        raise RegistrationError("The pipeline must be a scikit-learn estimator that has been fitted.") from error
    if is_classifier(pipeline):
        return Task.CLASSIFICATION
    if is_regressor(pipeline):
        return Task.REGRESSION
    raise RegistrationError("The pipeline is neither a classifier nor a regressor.")


def write_pipeline(pipeline: Any, *, allow_pickle: bool) -> tuple[ArtifactFormat, bytes]:
    """Write as skops, or as joblib where skops cannot and that is allowed.

    Raises:
        RegistrationError: naming what skops does not know.
    """
    try:
        data = dump_artifact(pipeline, ArtifactFormat.SKOPS)
        foreign = ", ".join(untrusted_types(data))
    except (TypeError, AttributeError, ValueError) as error:
        foreign = str(error)
    else:
        if not foreign:
            return ArtifactFormat.SKOPS, data
    if not allow_pickle:
        raise RegistrationError(
            f"skops cannot hold the pipeline without trusting what it does not know ({foreign}). "
            "Replace that step, or allow pickle models where you trust the file's whole history."
        )
    return ArtifactFormat.JOBLIB, dump_artifact(pipeline, ArtifactFormat.JOBLIB)


def container_of(pipeline: Any, frame: pd.DataFrame) -> Container:
    """Return a frame for what was fitted on names; else an array, unless only a frame will do."""
    if hasattr(pipeline, "feature_names_in_"):
        return Container.FRAME
    row = frame.head(1)
    only_frame = not _works(pipeline, row, Container.ARRAY) and _works(pipeline, row, Container.FRAME)
    return Container.FRAME if only_frame else Container.ARRAY


def predicts(pipeline: Any, frame: pd.DataFrame) -> bool:
    """Whether a pipeline predicts a frame, or its values, without failing and without NaN."""
    if hasattr(pipeline, "feature_names_in_"):
        return _works(pipeline, frame, Container.FRAME)
    return _works(pipeline, frame, Container.ARRAY) or _works(pipeline, frame, Container.FRAME)


def _works(pipeline: Any, frame: pd.DataFrame, container: Container) -> bool:
    try:
        answer = np.asarray(pipeline.predict(as_container(frame, container)))
    except Exception:  # noqa: BLE001 - whatever a pipeline raises, the answer is no
        return False
    return answer.dtype.kind != "f" or bool(np.isfinite(answer).all())
