"""A pipeline as a graph: served where it answers as scikit-learn, never where it is silently wrong, never unchecked."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from backend.adapters.db.migrations import PROJECT
from backend.domain.models import Feature, FeatureType, ModelRef, OutputOptions, Task
from backend.model_service import ModelService, register
from backend.model_service.batch import BatchBuilder
from backend.model_service.comparison import TOLERANCE
from backend.model_service.errors import ModelRefused, RunnerUnsuited
from backend.model_service.gate import choose_runner
from backend.model_service.manifest import Candidate, Container, Manifest, Row, RunnerArtifact, Verdict
from backend.model_service.onnx_conversion import convert
from backend.model_service.onnx_runner import NOT_INSTALLED, ONNX, ONNX_FILE, OnnxRunner
from backend.model_service.repository import ModelRepository
from backend.model_service.runners import Columns, SklearnRunner

GENERATOR = np.random.default_rng(3)
CANCER = load_breast_cancer()
IRIS = load_iris()
SAME = {Verdict.CHOSEN, Verdict.SLOWER}
WITH, WITHOUT = OutputOptions(), OutputOptions(probabilities=False)


def task_of(model: Any) -> Task:
    return Task.CLASSIFICATION if hasattr(model, "classes_") else Task.REGRESSION


def builder_of(data: Any) -> BatchBuilder:
    gaps = np.asarray(np.isnan(data).any(axis=0))
    inputs = [Feature(name=f"f{at}", type=FeatureType.FLOAT, nullable=bool(gaps[at])) for at in range(data.shape[1])]
    return BatchBuilder(inputs, Container.ARRAY)


def rows_of(data: Any) -> list[Row]:
    return [tuple([None if np.isnan(cell) else cell for cell in row]) for row in data.tolist()]


def tried(model: Any, data: Any) -> Candidate:
    """What the gate says of the graph alone."""
    builder = builder_of(data)
    found, _ = choose_runner(model, task_of(model), builder, builder.inputs, rows_of(data), runners={ONNX: convert})
    return found.candidates[0]


def converted(model: Any, data: Any) -> OnnxRunner:
    return convert(model, task_of(model), builder_of(data))


def difference(model: Any, data: Any) -> float:
    columns = converted(model, data).predict(rows_of(data), WITH)
    if columns.values is not None:
        return float(np.abs(columns.values - model.predict(data)).max())
    if list(columns.labels or ()) != model.predict(data).tolist():
        return float("inf")
    return (
        float(np.abs(columns.probabilities - model.predict_proba(data)).max())
        if columns.probabilities is not None
        else 0
    )


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=20, random_state=0)),
        make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=20, random_state=0)),
        make_pipeline(StandardScaler(), LinearRegression()),
        make_pipeline(StandardScaler(), SVC()),
        RandomForestClassifier(20, random_state=0),
        RandomForestRegressor(20, random_state=0),
        GradientBoostingClassifier(n_estimators=20, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
        DecisionTreeClassifier(random_state=0),
    ],
    ids=lambda model: type(model[-1] if hasattr(model, "steps") else model).__name__,
)
@pytest.mark.filterwarnings("ignore")  # that a network does not converge in 20 rounds is not the subject
def test_what_converts_answers_as_scikit_learn(model: Any) -> None:
    model.fit(CANCER.data, CANCER.target)
    found = tried(model, CANCER.data[:60])
    assert found.verdict in SAME, found
    assert difference(model, CANCER.data) < TOLERANCE


@pytest.mark.parametrize(
    "labels", [IRIS.target, IRIS.target_names[IRIS.target], IRIS.target > 0], ids=["numbers", "texts", "booleans"]
)
def test_labels_are_spelled_as_the_pipeline_spells_them(labels: Any) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS.data, labels)
    found = converted(model, IRIS.data).predict(rows_of(IRIS.data), WITHOUT)
    assert found.probabilities is None
    assert list(found.labels or ()) == model.predict(IRIS.data).tolist()
    assert {type(label) for label in found.labels or ()} == {type(label) for label in labels.tolist()}


# -- the cases in which converters are known to be silently wrong ----------------------------------------------------


def holed(data: Any) -> Any:
    copy = data.copy()
    copy[GENERATOR.random(copy.shape) < 0.2] = np.nan
    return copy


def is_safe(model: Any, sample: Any, unseen: Any) -> bool:
    """Whether the graph is out, or right about rows that the gate has not seen."""
    return tried(model, sample).verdict not in SAME or difference(model, unseen) < TOLERANCE


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor])
def test_a_forest_trained_with_gaps_is_out_or_right(kind: Any) -> None:
    data = holed(CANCER.data)
    model = kind(15, random_state=0).fit(data[:300], CANCER.target[:300])
    assert difference(model, data[300:]) > TOLERANCE, "the converter has learnt it: this test shows nothing any more"
    assert tried(model, data[:100]).verdict is Verdict.DIFFERENT


def test_hist_boosting_with_categories_is_out_or_right() -> None:
    data = np.column_stack([GENERATOR.integers(0, 12, 400), GENERATOR.normal(size=400)]).astype(np.float64)
    truth = (data[:, 0] % 3 == 0) ^ (data[:, 1] > 0)
    model = HistGradientBoostingClassifier(categorical_features=[0], max_iter=20).fit(data, truth)
    assert is_safe(model, data[:100], data)


@pytest.mark.parametrize("kind", [HistGradientBoostingClassifier, HistGradientBoostingRegressor])
def test_hist_boosting_at_the_edges_of_its_bins_is_out_or_right(kind: Any) -> None:
    model = kind(max_iter=20).fit(CANCER.data, CANCER.target)
    edges = np.concatenate([each.nodes["num_threshold"] for stage in model._predictors for each in stage])
    on_edges = CANCER.data[:60].copy()
    on_edges[np.arange(60), np.arange(60) % 30] = np.resize(edges[np.isfinite(edges)], 60)
    assert is_safe(model, CANCER.data[:60], on_edges)


def test_single_precision_before_a_split_is_found() -> None:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(30, random_state=0)).fit(CANCER.data, CANCER.target)
    found = tried(model, CANCER.data[:60])
    assert found.verdict is Verdict.DIFFERENT, "the scaler computes in float32, which moves rows over a threshold"


class Asked:
    """Answers in scikit-learn's place, and notes for which rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        self.rows += rows
        return Columns(labels=[1] * len(rows), probabilities=np.full((len(rows), 2), 0.5))


def test_rows_on_the_fence_are_scikit_learns() -> None:
    data = np.array([[0.0], [0.0], [1.0], [1.0]])
    model = RandomForestClassifier(10, random_state=0, max_features=None, bootstrap=False).fit(data, [0, 1, 1, 1])
    asked = Asked()
    graph = converted(model, data).artifact
    runner = OnnxRunner(graph, model, Task.CLASSIFICATION, asked, builder_of(data), runtime=onnxruntime)
    found = runner.predict([(0.0,), (1.0,)], WITH)
    assert asked.rows == [(0.0,)]  # as many votes for one class as for the other
    assert list(found.labels or ()) == [1, 1]
    assert found.probabilities is not None
    assert np.asarray(found.probabilities).tolist() == [[0.5, 0.5], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make_pipeline(PolynomialFeatures(2), RandomForestClassifier(3)), "cannot be probed"),
        (BaggingClassifier(n_estimators=2), "in a place where their splits cannot be probed"),
        (AdaBoostClassifier(n_estimators=2), "in a place where their splits cannot be probed"),
    ],
)
def test_trees_whose_splits_cannot_be_probed_are_not_tried(model: Any, reason: str) -> None:
    model.fit(IRIS.data, IRIS.target)
    with pytest.raises(RunnerUnsuited, match=reason):
        converted(model, IRIS.data)


def test_words_are_not_split_by_other_rules() -> None:
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["a word", "another"], [0, 1])
    builder = BatchBuilder([Feature(name="text", type=FeatureType.STRING)], Container.ARRAY)
    with pytest.raises(RunnerUnsuited, match="by other rules"):
        convert(model, Task.CLASSIFICATION, builder)


def test_columns_of_several_types_are_one_graph(tmp_path: Path, people: pd.DataFrame) -> None:
    columns = ColumnTransformer(
        [("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"]), ("scale", StandardScaler(), ["age", "height"])]
    )
    people["spends"] = np.where(people["spends"] > people["spends"].median(), "much", "little")
    model = make_pipeline(columns, MLPClassifier((4,), max_iter=5_000, random_state=0))
    model.fit(people.drop(columns="spends"), people["spends"])
    sample = tmp_path / "people.csv"
    people.to_csv(sample, index=False)
    manifest = register(tmp_path / "m", model, name="spending", sample=sample, target="spends").manifest
    found = next(each for each in manifest.runner.candidates if each.name == ONNX)
    assert found.verdict in SAME, found


# -- the graph as a file ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, iris_sample: Path) -> Path:
    """A folder with a model for which nothing but the graph is faster. Read only."""
    root = tmp_path_factory.mktemp("network")
    model = make_pipeline(StandardScaler(), SVC()).fit(IRIS.data, IRIS.target_names[IRIS.target])
    register(root, model, name="net", sample=iris_sample, target="species")
    return root


@pytest.fixture
def own(network: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    subprocess.run(["cp", "-r", str(network), str(folder)], check=True)
    return folder


def test_the_chosen_graph_lies_beside_the_pipeline_under_a_digest_of_its_own(own: Path) -> None:
    manifest = ModelRepository(own).manifest("net", "1")
    assert manifest.runner.name == ONNX
    data = ModelRepository(own).runner_artifact(manifest)
    assert data is not None
    assert manifest.runner.artifact == RunnerArtifact(name=ONNX_FILE, sha256=sha256(data).hexdigest())
    assert {"skl2onnx", "onnxruntime"} <= manifest.library_versions.keys()


def folder_of(own: Path) -> Path:
    return own / "net" / "1"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "runner's artifact's SHA-256 is not"),
        (lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]), "runner's artifact's SHA-256 is not"),
        (lambda path: path.unlink(), "runner's artifact is missing"),
    ],
    ids=["truncated", "tampered", "missing"],
)
def test_a_damaged_graph_is_refused_before_it_is_parsed(own: Path, damage: Any, reason: str) -> None:
    damage(folder_of(own) / ONNX_FILE)
    with pytest.raises(ModelRefused, match=reason):
        ModelRepository(own).check("net", "1")
    service = asyncio.run(opened(own))
    assert reason in service.list()[0].failed["1"]


async def opened(root: Path) -> ModelService:
    service = await ModelService.open(root)
    await service.aclose()
    return service


def test_an_oversized_graph_is_not_read(own: Path) -> None:
    manifest = ModelRepository(own).manifest("net", "1")
    small = ModelRepository(own, max_artifact_bytes=100)
    with pytest.raises(ModelRefused, match="larger than 100 bytes"):
        small.runner_artifact(manifest)


def test_a_graph_is_served_with_one_thread_and_as_it_was_registered(own: Path) -> None:
    async def labels() -> list[bytes]:
        service = await ModelService.open(own)
        model = service.resolve(ModelRef.parse("net"))
        assert model.info.runner == ONNX
        rows = model.encode(IRIS.data.tolist())
        answers = await model.run(rows, range(rows.count), WITH, share="a")
        await service.aclose()
        return answers

    pipeline = make_pipeline(StandardScaler(), SVC()).fit(IRIS.data, IRIS.target_names[IRIS.target])
    assert asyncio.run(labels()) == [b'{"label":"%s"}' % name.encode() for name in pipeline.predict(IRIS.data)]
    runner = converted(pipeline, IRIS.data)
    options = runner._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_without_the_extra_nothing_is_converted_or_run() -> None:
    model = LogisticRegression(max_iter=1_000).fit(IRIS.data, IRIS.target)
    builder = builder_of(IRIS.data)
    with pytest.raises(RunnerUnsuited, match="the extra `onnx` is not installed"):
        convert(model, Task.CLASSIFICATION, builder, converter=None)
    reference = SklearnRunner(model, Task.CLASSIFICATION, builder)
    with pytest.raises(RunnerUnsuited, match="the extra `onnx` is not installed"):
        OnnxRunner(b"", model, Task.CLASSIFICATION, reference, builder, runtime=None)


WITHOUT_THE_EXTRA = """
import asyncio, sys
from pathlib import Path
sys.modules.update({"onnxruntime": None, "skl2onnx": None})
from backend.domain.models import ModelRef
from backend.model_service import ModelService

async def main():
    service = await ModelService.open(Path(sys.argv[1]))
    info = service.resolve(ModelRef.parse("net")).info
    print(info.runner, "|", info.runner_reason)
    await service.aclose()

asyncio.run(main())
"""


def test_a_version_with_a_graph_is_served_without_the_extra_and_says_why(own: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, str(own)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.strip() == (
        f"scikit-learn | In place of onnxruntime, which was registered: {NOT_INSTALLED}."
    ), ended.stderr


def test_a_graph_that_answers_otherwise_does_not_serve(own: Path) -> None:
    manifest = ModelRepository(own).manifest("net", "1")
    other = make_pipeline(StandardScaler(), SVC()).fit(IRIS.data, IRIS.target_names[(IRIS.target + 1) % 3])
    graph = converted(other, IRIS.data).artifact
    swapped: Manifest = replace(
        manifest,
        version="2",
        runner=replace(manifest.runner, artifact=RunnerArtifact(name=ONNX_FILE, sha256=sha256(graph).hexdigest())),
    )
    ModelRepository(own).publish(swapped, ModelRepository(own).artifact(manifest), graph)
    info = asyncio.run(opened(own)).resolve(ModelRef.parse("net@2")).info
    assert info.runner != ONNX
    assert "does not answer as scikit-learn on the sample rows" in info.runner_reason


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    """Where it does, it keeps the name that it reports under in the temporary folder."""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    script = "import backend.model_service.onnx_conversion, onnxruntime"
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
    script = "import onnxruntime"
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, env=environment, check=True)
    assert list(tmp_path.iterdir()) != [], "nothing to see any more: find another way to tell"
