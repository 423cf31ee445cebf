"""A runner is made again at load, and must answer as scikit-learn again; of the manifest only its name counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from backend.model_service.artifacts import load_artifact
from backend.model_service.batch import BatchBuilder
from backend.model_service.encoding import RowEncoder
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import Candidate, Manifest, Verdict
from backend.model_service.onnx_conversion import convert
from backend.model_service.onnx_runner import ONNX
from backend.model_service.rebuilt import rebuild_runner
from backend.model_service.repository import ModelRepository
from backend.model_service.runner_kinds import FOLDED_LINEAR, TREELITE
from backend.model_service.runners import SCIKIT_LEARN, SklearnRunner
from backend.model_service.treelite_runner import TreeliteRunner


def loaded(root: Path, version: str) -> tuple[Manifest, Any]:
    repository = ModelRepository(root)
    manifest = repository.manifest("iris", version)
    return manifest, load_artifact(repository.artifact(manifest), manifest.format, allow_pickle=False)


def graph(manifest: Manifest, model: Any) -> bytes:
    return convert(model, manifest.task, BatchBuilder(manifest.inputs, manifest.container)).artifact


@pytest.mark.parametrize(("version", "name"), [("1", FOLDED_LINEAR), ("2", TREELITE), ("2", ONNX)])
def test_the_registered_runner_serves_and_its_time_is_measured_here(
    registered_root: Path, version: str, name: str
) -> None:
    manifest, model = loaded(registered_root, version)
    claimed = replace(manifest, runner=replace(manifest.runner, name=name, one_row_us=0.001))
    runner, choice = rebuild_runner(claimed, model, RowEncoder(manifest.inputs), graph(manifest, model))
    assert not isinstance(runner, SklearnRunner)
    assert choice.name == name
    assert choice.one_row_us > 0.5


def test_a_runner_that_cannot_be_made_falls_back_to_scikit_learn(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "1")
    swapped = replace(manifest, runner=replace(manifest.runner, name=TREELITE))
    runner, choice = rebuild_runner(swapped, model, RowEncoder(manifest.inputs))
    assert isinstance(runner, SklearnRunner)
    assert choice.name == SCIKIT_LEARN
    assert choice.reason.startswith("In place of treelite, which was registered: its last step is no ensemble")


def test_a_runner_that_answers_otherwise_falls_back_to_scikit_learn(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "1")
    model.steps[-1][1].predict_proba = lambda rows: [[1.0, 0.0, 0.0]] * len(rows)  # as if the library had changed
    runner, choice = rebuild_runner(manifest, model, RowEncoder(manifest.inputs))
    assert isinstance(runner, SklearnRunner)
    assert "does not answer as scikit-learn on the sample rows" in choice.reason


def test_a_runner_is_not_trusted_without_sample_rows(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "2")
    unsampled = replace(manifest, sample_rows=(), runner=replace(manifest.runner, name=TREELITE))
    runner, choice = rebuild_runner(unsampled, model, RowEncoder(manifest.inputs))
    assert isinstance(runner, SklearnRunner)
    assert "no sample rows" in choice.reason


def test_the_next_best_serves_in_place_of_a_graph_that_cannot_be_run_here(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "2")
    candidates = (
        Candidate(name=ONNX, verdict=Verdict.CHOSEN, reason="", one_row_us=9.0),
        Candidate(name=TREELITE, verdict=Verdict.SLOWER, reason="", one_row_us=40.0),
        Candidate(name=SCIKIT_LEARN, verdict=Verdict.SLOWER, reason="", one_row_us=900.0),
    )
    registered = replace(manifest, runner=replace(manifest.runner, name=ONNX, candidates=candidates))
    runner, choice = rebuild_runner(registered, model, RowEncoder(manifest.inputs), b"not a graph")
    assert isinstance(runner, TreeliteRunner)
    assert choice.name == TREELITE
    assert choice.reason.startswith(
        "In place of onnxruntime, which was registered: onnxruntime does not take its graph"
    )


def test_a_candidate_that_was_different_at_registration_is_no_next_best(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "2")
    different = (Candidate(name=TREELITE, verdict=Verdict.DIFFERENT, reason=""),)
    registered = replace(manifest, runner=replace(manifest.runner, name=ONNX, candidates=different))
    _, choice = rebuild_runner(registered, model, RowEncoder(manifest.inputs), b"not a graph")
    assert choice.name == SCIKIT_LEARN


def test_a_runner_without_its_graph_is_refused(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "2")
    with pytest.raises(ModelRefused, match="names no graph"):
        rebuild_runner(
            replace(manifest, runner=replace(manifest.runner, name=ONNX)), model, RowEncoder(manifest.inputs)
        )


def test_an_unknown_runner_is_refused(models: Path) -> None:
    path = models / "iris" / "1" / "manifest.json"
    document = orjson.loads(path.read_bytes())
    document["runner"]["name"] = "abacus"
    path.write_bytes(orjson.dumps(document))
    manifest, model = loaded(models, "1")
    with pytest.raises(ModelRefused, match="a runner that this release does not have"):
        rebuild_runner(manifest, model, RowEncoder(manifest.inputs))


def test_a_model_that_fails_on_its_own_sample_is_refused(registered_root: Path) -> None:
    manifest, model = loaded(registered_root, "1")
    model.steps[-1][1].coef_ = model.steps[-1][1].coef_[:, :2]
    for name in (FOLDED_LINEAR, SCIKIT_LEARN):
        named = replace(manifest, runner=replace(manifest.runner, name=name))
        with pytest.raises(ModelRefused, match=r"fails on its own sample rows \(ValueError\)"):
            rebuild_runner(named, model, RowEncoder(manifest.inputs))
