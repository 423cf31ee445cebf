"""The demo models train in seconds, go the way of every model, and serve."""

import time
from pathlib import Path

import orjson
import pytest

from backend.demo.models import train_demo_models
from backend.domain.models import FeatureType, ModelRef, OutputOptions
from backend.model_service import ModelService, Registered

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Registered], list[str]]:
    folder = tmp_path_factory.mktemp("demo")
    lines: list[str] = []
    started_s = time.perf_counter()
    registered = train_demo_models(folder / "models", folder / "work", lines.append)
    assert time.perf_counter() - started_s < 60  # about two on an idle machine; this only catches a hang
    return folder, registered, lines


def test_four_models_are_trained_and_each_is_told_in_a_line(trained: tuple[Path, list[Registered], list[str]]) -> None:
    _, registered, lines = trained
    assert [each.manifest.name for each in registered] == ["iris", "breast-cancer", "wine", "diabetes"]
    assert [line.split(":")[0] for line in lines] == ["iris@1", "breast-cancer@1", "wine@1", "diabetes@1"]
    assert all("held-out rows" in line for line in lines)


def test_their_held_out_metrics_are_kept(trained: tuple[Path, list[Registered], list[str]]) -> None:
    metrics = {each.manifest.name: each.manifest.metrics for each in trained[1]}
    for name in ("iris", "breast-cancer", "wine"):
        assert metrics[name]["accuracy"] > 0.9
    assert metrics["diabetes"]["r2"] > 0.3


def test_models_that_are_there_are_left_alone(trained: tuple[Path, list[Registered], list[str]]) -> None:
    folder, _, _ = trained
    lines: list[str] = []
    assert train_demo_models(folder / "models", folder / "work", lines.append) == []
    assert lines == []


async def test_every_model_serves_its_own_examples(trained: tuple[Path, list[Registered], list[str]]) -> None:
    folder, registered, _ = trained
    service = await ModelService.open(folder / "models")
    for each in registered:
        model = service.resolve(ModelRef(each.manifest.name, "stable"))
        rows = model.encode([{feature.name: feature.example for feature in model.info.inputs}])
        [answer] = await model.run(rows, [0], OutputOptions(), share="a")
        document = orjson.loads(answer)
        if each.manifest.labels is None:
            assert document["value"] > 0
        else:
            assert document["label"] in each.manifest.labels
            assert list(document["probabilities"]) == list(each.manifest.labels)
    await service.aclose()


def test_the_diabetes_model_takes_an_integer_and_a_category(
    trained: tuple[Path, list[Registered], list[str]],
) -> None:
    inputs = {feature.name: feature for feature in trained[1][3].manifest.inputs}
    assert inputs["age"].type is FeatureType.INTEGER
    assert inputs["sex"].categories == ("female", "male")
