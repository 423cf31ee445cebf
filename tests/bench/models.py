"""The models that are measured, trained once, and rows to ask them: the same for every server.

==  ==========================================================================================
A   scaler and logistic regression, 4 floats
B   a forest of 100 trees, 20 floats
C   mixed columns: numbers that are scaled, texts that are one-hot encoded, gradient boosting
F   the same forest as B, where no accelerator may take scikit-learn's place
==  ==========================================================================================
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from backend.model_service.registration import register
from tests.bench.load import MARK

SAMPLE_ROWS = 100
ROWS = 500
"""Distinct rows to ask; with a number of its own in its first feature no request repeats another's."""

_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A fitted pipeline and rows for it: lists, or objects where columns have names that matter."""

    pipeline: Any
    frame: pd.DataFrame
    by_name: bool = False

    def rows(self, count: int) -> list[str]:
        """Return rows as JSON, each with a mark in its first feature."""
        texts = []
        for _, row in self.frame.sample(count, replace=True, random_state=_SEED).iterrows():
            values = [value if isinstance(value, str) else round(float(value), 3) for value in row]
            first, *others = values
            marked = f"{float(first):.3f}{MARK}"
            if not self.by_name:
                texts.append(f"[{', '.join([marked, *map(json.dumps, others)])}]")
                continue
            names = [json.dumps(name) for name in self.frame.columns]
            pairs = zip(names, [marked, *map(json.dumps, others)], strict=True)
            texts.append("{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}")
        return texts


def _linear() -> Trained:
    data = load_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(data.data, data.target)
    return Trained(pipeline=pipeline, frame=_positive(data.data))


def _forest() -> Trained:
    features, labels = make_classification(2_000, 20, n_informative=10, random_state=_SEED)
    pipeline = RandomForestClassifier(100, random_state=_SEED, n_jobs=1).fit(features, labels)
    return Trained(pipeline=pipeline, frame=_positive(features))


def _mixed() -> Trained:
    chance = np.random.default_rng(_SEED)
    frame = pd.DataFrame(
        {
            "amount": chance.gamma(2.0, 50.0, 2_000).round(2),
            "age": chance.integers(18, 90, 2_000).astype(float),
            "country": chance.choice(["at", "de", "fr", "it", "us"], 2_000),
            "channel": chance.choice(["app", "branch", "web"], 2_000),
        }
    )
    labels = (frame["amount"] + 2 * frame["age"] + 40 * (frame["country"] == "us") > 180).astype(int)
    numbers, texts = ["amount", "age"], ["country", "channel"]
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("texts", OneHotEncoder(sparse_output=False), texts)]
    )
    pipeline = make_pipeline(columns, GradientBoostingClassifier(random_state=_SEED)).fit(frame, labels)
    return Trained(pipeline=pipeline, frame=frame, by_name=True)


def _positive(features: Any) -> pd.DataFrame:
    # A mark behind -0.000 would make the same row of different numbers' signs.
    frame = pd.DataFrame(features, columns=[f"x{place}" for place in range(features.shape[1])])
    frame["x0"] = frame["x0"].abs() + 0.001
    return frame


TRAINED: dict[str, Callable[[], Trained]] = {"a": _linear, "b": _forest, "c": _mixed, "f": _forest}
KEPT_ON_SCIKIT_LEARN = frozenset({"f"})


class ModelFolder:
    """All models on disk: a folder for ours, and one joblib file each for the others."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self._files = folder / "joblib"
        self._trained: dict[str, Trained] = {}

    def joblib(self, name: str) -> Path:
        return self._files / f"{name}.joblib"

    def trained(self, name: str) -> Trained:
        return self._trained[name]

    def train(self, say: Callable[[str], None], names: Collection[str] = TRAINED) -> None:
        """Train and register models; registration chooses each model's runner by measuring."""
        self._files.mkdir(parents=True)
        for name in names:
            trained = self._trained[name] = TRAINED[name]()
            joblib.dump(trained.pipeline, self.joblib(name))
            sample = self._files / f"{name}.csv"
            trained.frame.head(SAMPLE_ROWS).to_csv(sample, index=False)
            registered = register(self.repository, trained.pipeline, name=name, sample=sample)
            runner = registered.manifest.runner.name
            if name in KEPT_ON_SCIKIT_LEARN:
                runner = _keep_on_scikit_learn(self.repository / name / "1" / "manifest.json")
            say(f"model {name}: served by {runner}")


def _keep_on_scikit_learn(manifest: Path) -> str:
    content = json.loads(manifest.read_text())
    content["runner"]["name"] = "scikit-learn"
    manifest.write_text(json.dumps(content))
    return "scikit-learn, by force"
