"""Four small models on data that scikit-learn ships, one per kind of pipeline that people bring.

================  =============================================  ======================================
iris              scaler and logistic regression, on arrays      classes, named inputs from the header
breast-cancer     a forest of 100 trees, on arrays               30 inputs, the usual size of a model
wine              hist-boosting, on arrays                       several classes
diabetes          columns and gradient boosting, on a frame      a number; an integer and a category
================  =============================================  ======================================

They take the way of every other model: written to a file, read back, compared, measured, published.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from backend.demo import MODELS
from backend.model_service.artifacts import dump_artifact
from backend.model_service.manifest import ArtifactFormat
from backend.model_service.native_threads import one_native_thread
from backend.model_service.registration import Registered, register
from backend.model_service.repository import ModelRepository
from backend.services.ports.model_files import ModelFiles

_SEED: Final = 20
_HELD_OUT: Final = 0.25

_IRIS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
_DIABETES = {
    "s1": "total_cholesterol",
    "s2": "ldl",
    "s3": "hdl",
    "s4": "cholesterol_ratio",
    "s5": "log_triglycerides",
    "s6": "glucose",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """A fitted pipeline, and rows that it has not seen, with the truth in column ``target``."""

    pipeline: Any
    held_out: pd.DataFrame
    target: str


def train_demo_models(root: Path | ModelFiles, workdir: Path, progress: Callable[[str], None]) -> list[Registered]:
    """Train and register the demo models that are not in the folder yet.

    Args:
        root: the folder of models.
        workdir: where the pipelines and their held-out rows are written on the way, for the reader to look at.
        progress: called with one line per model.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    repository = ModelRepository(root)
    registered = []
    for name, fit in _DEMOS.items():
        if not repository.versions(name):
            with one_native_thread():  # on so few rows threads cost more than they give
                fitted = fit()
            registered.append(_register(root, workdir, name, fitted))
            progress(_line(registered[-1]))
    return registered


def _register(root: Path | ModelFiles, workdir: Path, name: str, fitted: _Fitted) -> Registered:
    artifact = workdir / f"{name}.skops"
    artifact.write_bytes(dump_artifact(fitted.pipeline, ArtifactFormat.SKOPS))
    sample = workdir / f"{name}.csv"
    fitted.held_out.to_csv(sample, index=False)
    return register(root, artifact, name=name, sample=sample, target=fitted.target, alias="stable")


def _line(registered: Registered) -> str:
    manifest = registered.manifest
    metric = "accuracy" if "accuracy" in manifest.metrics else "r2"
    rows = manifest.metrics["held_out_rows"]
    return f"{manifest.name}@{manifest.version}: {metric} {manifest.metrics[metric]:.3f} on {rows:.0f} held-out rows"


def _iris() -> _Fitted:
    data = load_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return _classifier(pipeline, data, _IRIS, target="species")


def _breast_cancer() -> _Fitted:
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    return _classifier(RandomForestClassifier(100, random_state=_SEED), data, names, target="diagnosis")


def _wine() -> _Fitted:
    data = load_wine()
    names = [name.replace("/", "_") for name in data.feature_names]
    return _classifier(HistGradientBoostingClassifier(random_state=_SEED), data, names, target="cultivar")


def _classifier(pipeline: Any, data: Any, names: list[str], *, target: str) -> _Fitted:
    """Fit on plain arrays, as most notebooks do; the names of the inputs come from the sample's header."""
    labels = data.target_names[data.target]
    rows, held_out, known, truth = train_test_split(
        data.data, labels, test_size=_HELD_OUT, stratify=labels, random_state=_SEED
    )
    pipeline.fit(rows, known)
    return _Fitted(
        pipeline=pipeline, held_out=pd.DataFrame(held_out, columns=names).assign(**{target: truth}), target=target
    )


def _diabetes() -> _Fitted:
    data = load_diabetes(as_frame=True, scaled=False)
    frame = data.frame.rename(columns=_DIABETES).rename(columns={"target": "progression"})
    frame["age"] = frame["age"].astype(np.int64)
    frame["sex"] = frame["sex"].map({1.0: "female", 2.0: "male"})
    rows, held_out = train_test_split(frame, test_size=_HELD_OUT, random_state=_SEED)
    columns = ColumnTransformer(
        [("sex", OneHotEncoder(drop="if_binary", sparse_output=False), ["sex"])], remainder=StandardScaler()
    )
    pipeline = make_pipeline(columns, GradientBoostingRegressor(random_state=_SEED))
    pipeline.fit(rows.drop(columns="progression"), rows["progression"])
    return _Fitted(pipeline=pipeline, held_out=held_out, target="progression")


_DEMOS: Final[dict[str, Callable[[], _Fitted]]] = dict(
    zip(MODELS, (_iris, _breast_cancer, _wine, _diabetes), strict=True)
)
