"""Real models for the model service's tests: small, registered once per run, copied where a test damages them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from backend.model_service.registration import register

IRIS_NAMES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


@pytest.fixture(scope="session", autouse=True)
def compiled_loops_stay_on_their_thread() -> Iterator[None]:
    """Tiny data split over all cores takes seconds next to other test processes."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def iris_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 150 rows with their species, shuffled."""
    data = load_iris()
    frame = pd.DataFrame(data.data, columns=IRIS_NAMES).assign(species=data.target_names[data.target])
    path = tmp_path_factory.mktemp("samples") / "iris.csv"
    frame.sample(frac=1.0, random_state=3).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def registered_root(tmp_path_factory: pytest.TempPathFactory, iris_sample: Path) -> Path:
    """Two models: ``iris`` in two versions (logistic regression, forest), and ``forest`` in one. Read only."""
    root = tmp_path_factory.mktemp("models")
    data = load_iris()
    labels = data.target_names[data.target]
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, labels)
    forest = RandomForestClassifier(20, random_state=5, n_jobs=2).fit(data.data, labels)
    register(root, linear, name="iris", sample=iris_sample, target="species")
    register(root, forest, name="iris", sample=iris_sample, target="species")
    register(root, forest, name="forest", sample=iris_sample, target="species")
    return root


@pytest.fixture
def models(registered_root: Path, tmp_path: Path) -> Path:
    """A copy of the registered models that a test may damage."""
    root = tmp_path / "models"
    shutil.copytree(registered_root, root)
    return root


@pytest.fixture(scope="session")
def iris_rows() -> list[list[float]]:
    rows: list[list[float]] = load_iris().data.tolist()
    return rows


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    def write(frame: pd.DataFrame) -> Path:
        path = tmp_path / "sample.csv"
        frame.to_csv(path, index=False)
        return path

    return write


@pytest.fixture
def people() -> pd.DataFrame:
    """A table with a text, an integer with gaps, a number and a boolean, and something to predict from them."""
    generator = np.random.default_rng(11)
    count = 120
    frame = pd.DataFrame(
        {
            "colour": generator.choice(["blue", "green", "red"], count),
            "age": generator.integers(18, 90, count),
            "height": generator.normal(1.7, 0.1, count).round(3),
            "member": generator.choice([True, False], count),
        }
    )
    frame["spends"] = frame["age"] * 2.5 + (frame["colour"] == "red") * 40 + frame["height"]
    return frame
