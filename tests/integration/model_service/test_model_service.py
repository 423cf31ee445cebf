"""The shared service: loaded once, resolved by reference; a bad version is alone; together is as one by one."""

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pytest

from backend.domain.errors import ModelNotFound, ModelUnavailable, Overloaded, SchemaMismatch
from backend.domain.health import HealthStatus
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import LaneLimits, ModelService
from backend.model_service.aliases import WeightedVersion
from backend.model_service.answers import AnswerWriter
from backend.model_service.artifacts import load_artifact
from backend.model_service.comparison import TOLERANCE
from backend.model_service.encoding import RowEncoder
from backend.model_service.lanes import Lanes
from backend.model_service.loading import Loader
from backend.model_service.manifest import ArtifactFormat, Manifest, Row
from backend.model_service.repository import ModelRepository
from backend.model_service.runners import Columns
from backend.model_service.served import LoadedModel
from backend.model_service.shelf import Shelf
from backend.services.ports import HealthProbe, ModelCatalog

pytestmark = pytest.mark.anyio

WITH = OutputOptions()


@asynccontextmanager
async def serving(root: Path, **options: Any) -> AsyncIterator[ModelService]:
    service = await ModelService.open(root, **options)
    try:
        yield service
    finally:
        await service.aclose()


def resolve(service: ModelService, text: str) -> LoadedModel:
    return service.resolve(ModelRef.parse(text))


async def predict(service: ModelService, reference: str, inputs: Sequence[object], share: str = "a") -> list[Any]:
    model = resolve(service, reference)
    rows = model.encode(inputs)
    answers = await model.run(rows, range(rows.count), WITH, share=share)
    return [orjson.loads(answer) for answer in answers]


def names(catalog: ModelCatalog) -> list[str]:
    return [summary.name for summary in catalog.list()]


async def lines(service: HealthProbe) -> dict[str, tuple[HealthStatus, str]]:
    return {line.name: (line.status, line.detail) for line in await service.check()}


async def test_it_is_a_catalog_and_a_health_probe(registered_root: Path) -> None:
    async with serving(registered_root) as service:
        assert names(service) == ["forest", "iris"]
        assert list(await lines(service)) == ["model:forest", "model:iris"]


async def test_answers_are_the_pipelines_own(registered_root: Path, iris_rows: list[list[float]]) -> None:
    repository = ModelRepository(registered_root)
    data = repository.artifact(repository.manifest("iris", "2"))
    pipeline = load_artifact(data, ArtifactFormat.SKOPS, allow_pickle=False)
    async with serving(registered_root) as service:
        answers = await predict(service, "iris@2", iris_rows)
    assert [answer["label"] for answer in answers] == pipeline.predict(np.array(iris_rows)).tolist()
    probabilities = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(np.array(iris_rows)), atol=TOLERANCE)


async def test_answers_come_in_the_order_of_the_indices(registered_root: Path, iris_rows: list[list[float]]) -> None:
    async with serving(registered_root) as service:
        model = resolve(service, "iris")
        rows = model.encode(iris_rows)
        everything = await model.run(rows, range(rows.count), WITH, share="a")
        chosen = await model.run(rows, [140, 3, 77, 3], WITH, share="a")
    assert chosen == [everything[140], everything[3], everything[77], everything[3]]


async def test_probabilities_are_left_out_on_request(registered_root: Path, iris_rows: list[list[float]]) -> None:
    async with serving(registered_root) as service:
        model = resolve(service, "iris")
        rows = model.encode(iris_rows[:1])
        assert await model.run(rows, [0], OutputOptions(probabilities=False), share="a") == [b'{"label":"setosa"}']


async def test_many_callers_at_once_get_what_each_gets_alone(
    registered_root: Path, iris_rows: list[list[float]]
) -> None:
    requests = [iris_rows[at : at + 1 + at % 3] for at in range(147)]
    async with serving(registered_root) as service:
        alone = [await predict(service, "forest", request) for request in requests]
        together = await asyncio.gather(
            *(predict(service, "forest", request, share=str(at % 5)) for at, request in enumerate(requests))
        )
    assert together == alone


async def test_models_are_loaded_once_however_many_requests_come(
    registered_root: Path, iris_rows: list[list[float]]
) -> None:
    async with serving(registered_root) as service:
        assert service.loads == 3
        first = resolve(service, "iris")
        for row in iris_rows[:20]:
            await predict(service, "iris", [row])
        assert resolve(service, "iris") is first
        assert service.loads == 3


async def test_nothing_is_read_from_disk_to_answer(models: Path, iris_rows: list[list[float]]) -> None:
    async with serving(models) as service:
        shutil.rmtree(models)
        assert (await predict(service, "iris", iris_rows[:1]))[0]["label"] == "setosa"


@pytest.mark.parametrize(
    ("reference", "version"), [("iris", "2"), ("iris@1", "1"), ("iris@2", "2"), ("iris@beta", "1"), ("forest", "1")]
)
async def test_a_reference_is_a_name_a_version_or_an_alias(models: Path, reference: str, version: str) -> None:
    ModelRepository(models).set_alias("iris", "beta", [WeightedVersion("1", 1)])
    async with serving(models) as service:
        assert resolve(service, reference).info.version == version


@pytest.mark.parametrize("reference", ["nothing", "iris@3", "iris@stable", "forest@2"])
async def test_an_unknown_reference_is_not_found(registered_root: Path, reference: str) -> None:
    async with serving(registered_root) as service:
        with pytest.raises(ModelNotFound):
            resolve(service, reference)


async def test_stable_is_what_a_bare_name_means(models: Path) -> None:
    ModelRepository(models).set_alias("iris", "stable", [WeightedVersion("1", 1)])
    async with serving(models) as service:
        assert resolve(service, "iris").info.version == "1"
        assert {summary.name: summary.default_version for summary in service.list()} == {"iris": "1", "forest": "1"}


async def test_a_weighted_alias_means_its_heaviest_version(models: Path) -> None:
    (models / "iris" / "aliases.json").write_bytes(b'{"canary": {"2": 5, "1": 95}}')
    async with serving(models) as service:
        assert resolve(service, "iris@canary").info.version == "1"


async def test_version_ten_is_newer_than_version_nine(models: Path) -> None:
    repository = ModelRepository(models)
    manifest = repository.manifest("iris", "1")
    for version in ("9", "10"):
        repository.publish(replace(manifest, version=version), repository.artifact(manifest))
    async with serving(models) as service:
        assert resolve(service, "iris").info.version == "10"
        summary = service.list()[1]
        assert [info.version for info in summary.versions] == ["10", "9", "2", "1"]


def damage(models: Path, name: str, version: str) -> None:
    path = models / name / version / "model.skops"
    path.write_bytes(path.read_bytes()[:-1])


async def test_a_damaged_version_is_recorded_and_the_others_serve(models: Path, iris_rows: list[list[float]]) -> None:
    damage(models, "iris", "2")
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable) as caught:
            resolve(service, "iris@2")
        assert "SHA" not in caught.value.detail
        # Nobody said stable, so the newest that works.
        assert resolve(service, "iris").info.version == "1"
        assert (await predict(service, "forest", iris_rows[:1]))[0]["label"] == "setosa"
        summary = service.list()[1]
        assert summary.failed == {"2": "The artifact's SHA-256 is not the one in the manifest."}
        assert summary.default_version == "1"
        status, detail = (await lines(service))["model:iris"]
        assert status is HealthStatus.DEGRADED
        assert "version 2" in detail
        assert str(models) not in detail
        assert (await lines(service))["model:forest"] == (HealthStatus.OK, "")
        assert service.loads == 2


async def test_a_damaged_stable_version_is_not_silently_replaced(models: Path) -> None:
    ModelRepository(models).set_alias("iris", "stable", [WeightedVersion("2", 1)])
    damage(models, "iris", "2")
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable):
            resolve(service, "iris")
        with pytest.raises(ModelUnavailable):
            resolve(service, "iris@stable")
        assert resolve(service, "iris@1").info.version == "1"
        assert service.list()[1].default_version is None


async def test_a_model_whose_every_version_is_damaged_is_unavailable_not_unknown(models: Path) -> None:
    damage(models, "forest", "1")
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable):
            resolve(service, "forest")
        assert (await lines(service))["model:forest"][0] is HealthStatus.DEGRADED
        assert resolve(service, "iris").info.version == "2"


async def test_damaged_aliases_leave_only_versions_to_ask_for(models: Path) -> None:
    (models / "iris" / "aliases.json").write_text("{")
    async with serving(models) as service:
        for reference in ("iris", "iris@stable"):
            with pytest.raises(ModelUnavailable):
                resolve(service, reference)
        assert resolve(service, "iris@2").info.version == "2"
        assert (await lines(service))["model:iris"][0] is HealthStatus.DEGRADED


async def test_an_alias_of_a_version_that_does_not_exist_is_told(models: Path) -> None:
    ModelRepository(models).set_alias("iris", "beta", [WeightedVersion("77", 1)])
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable):
            resolve(service, "iris@beta")
        assert (await lines(service))["model:iris"] == (
            HealthStatus.DEGRADED,
            "alias beta points at version 77, which does not serve",
        )


def rewrite(models: Path, manifest: Manifest) -> None:
    (models / manifest.name / manifest.version / "manifest.json").write_bytes(manifest.to_json())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda manifest: replace(manifest, labels=("a", "b", "c")), "labels are not the manifest's"),
        (lambda manifest: replace(manifest, inputs=manifest.inputs[:2]), "one value per input"),
        (lambda manifest: replace(manifest, sample_rows=(("x",) * 4,)), "sample rows do not fit"),
        (
            lambda manifest: replace(manifest, inputs=manifest.inputs[:2], sample_rows=((1.0, 2.0),)),
            "fails on its own sample rows",
        ),
        (lambda manifest: replace(manifest, runner=replace(manifest.runner, name="abacus")), "does not have"),
        (
            lambda manifest: replace(
                manifest, inputs=(replace(manifest.inputs[0], categories=("x",)), *manifest.inputs[1:])
            ),
            "not of its feature's type",
        ),
    ],
)
async def test_a_manifest_that_does_not_fit_its_model_is_refused(models: Path, change: Any, reason: str) -> None:
    rewrite(models, change(ModelRepository(models).manifest("iris", "2")))
    async with serving(models) as service:
        assert reason in service.list()[1].failed["2"]
        assert resolve(service, "iris").info.version == "1"


async def test_a_pickle_model_is_refused_unless_it_is_allowed(models: Path, iris_rows: list[list[float]]) -> None:
    repository = ModelRepository(models)
    manifest = repository.manifest("forest", "1")
    model = load_artifact(repository.artifact(manifest), manifest.format, allow_pickle=False)
    path = models / "forest" / "1" / "model.joblib"
    joblib.dump(model, path)
    digest = sha256(path.read_bytes()).hexdigest()
    rewrite(models, replace(manifest, format=ArtifactFormat.JOBLIB, artifact="model.joblib", sha256=digest))
    async with serving(models) as service:
        assert "pickle is not allowed" in service.list()[0].failed["1"]
    async with serving(models, allow_pickle=True) as service:
        assert (await predict(service, "forest", iris_rows[:1]))[0]["label"] == "setosa"


async def test_rows_are_checked_by_the_model(registered_root: Path) -> None:
    async with serving(registered_root, max_rows=2) as service:
        with pytest.raises(SchemaMismatch) as caught:
            resolve(service, "iris").encode([{"sepal_length": 1}])
        assert [error.pointer for error in caught.value.errors] == [
            "/inputs/0/sepal_width",
            "/inputs/0/petal_length",
            "/inputs/0/petal_width",
        ]
        with pytest.raises(SchemaMismatch):
            resolve(service, "iris").encode([[1, 2, 3, 4]] * 3)


async def test_rows_of_another_model_are_not_predicted(registered_root: Path, iris_rows: list[list[float]]) -> None:
    async with serving(registered_root) as service:
        rows = resolve(service, "iris@1").encode(iris_rows[:1])
        with pytest.raises(ValueError, match="another model"):
            await resolve(service, "iris@2").run(rows, [0], WITH, share="a")


async def test_a_folder_that_does_not_exist_serves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "nowhere") as service:
        assert service.list() == ()
        with pytest.raises(ModelNotFound):
            resolve(service, "iris")


async def test_limits_that_refuse_every_large_request_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must fit"):
        await ModelService.open(tmp_path, max_rows=100, limits=LaneLimits(max_share_rows=50))


async def test_a_closed_service_refuses_and_says_so(registered_root: Path, iris_rows: list[list[float]]) -> None:
    service = await ModelService.open(registered_root)
    await service.aclose()
    with pytest.raises(Overloaded):
        await predict(service, "iris", iris_rows[:1])
    assert (await lines(service))["models"][0] is HealthStatus.DOWN


async def test_a_shutdown_is_unready_first_then_refuses_then_finishes_then_stops(registered_root: Path) -> None:
    manifest = ModelRepository(registered_root).manifest("iris", "1")
    manifest = replace(manifest, runner=replace(manifest.runner, one_row_us=900.0))
    runner, lanes, before = Held(), Lanes(LaneLimits()), set(threading.enumerate())
    model = behind(manifest, runner, lanes)
    loader = Loader(ModelRepository(registered_root), lanes, allow_pickle=False, max_rows=10)
    service = ModelService({"iris": Shelf(versions={"1": model}, failed={})}, lanes, loader)
    lanes.start()
    rows = model.encode([[1, 2, 3, 4], [1, 2, 3, 5]])
    running = asyncio.create_task(model.run(rows, [0], WITH, share="a"))
    assert await asyncio.to_thread(runner.started.wait, 10)
    queued = asyncio.create_task(model.run(rows, [1], WITH, share="a"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(service.aclose())
    await asyncio.sleep(0)
    assert (await lines(service))["models"] == (HealthStatus.DOWN, "takes no predictions")
    with pytest.raises(Overloaded, match="not taking predictions"):
        await model.run(rows, [0], WITH, share="b")
    assert not any(task.done() for task in (running, queued, closing))
    runner.gate.set()
    assert [await running, await queued] == [[b'{"label":"held"}']] * 2
    await closing
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("model-")}


class Held:
    """A runner whose first batch waits for its gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        self.started.set()
        assert self.gate.wait(10)
        return Columns(labels=["held"] * len(rows))


def behind(manifest: Manifest, runner: Any, lanes: Lanes) -> LoadedModel:
    return LoadedModel(manifest, RowEncoder(manifest.inputs), runner, AnswerWriter(()), lanes)


async def test_a_stuck_model_is_down_in_the_health_and_well_again_when_it_returns(registered_root: Path) -> None:
    manifest = ModelRepository(registered_root).manifest("iris", "1")
    manifest = replace(manifest, runner=replace(manifest.runner, one_row_us=900.0))
    runner = Held()
    lanes = Lanes(LaneLimits(stuck_after_s=0.05))
    model = behind(manifest, runner, lanes)
    loader = Loader(ModelRepository(registered_root), lanes, allow_pickle=False, max_rows=10)
    service = ModelService({"iris": Shelf(versions={"1": model}, failed={})}, lanes, loader)
    others = set(threading.enumerate())
    lanes.start()
    assert await lines(service) == {"model:iris": (HealthStatus.OK, "")}
    with pytest.raises(ModelUnavailable):
        await model.run(model.encode([[1, 2, 3, 4]]), [0], WITH, share="a")
    assert (await lines(service))["model:iris"][0] is HealthStatus.DOWN
    with pytest.raises(Overloaded):
        await model.run(model.encode([[1, 2, 3, 4]]), [0], WITH, share="a")
    runner.gate.set()
    for thread in threading.enumerate():
        if thread.name == "model-worker-1" and thread not in others:
            await asyncio.to_thread(thread.join, 10)
    assert await lines(service) == {
        "model:iris": (HealthStatus.DEGRADED, "version 1: a prediction failed within the last minute")
    }
    assert await model.run(model.encode([[1, 2, 3, 4]]), [0], WITH, share="a") == [b'{"label":"held"}']
    await service.aclose()


class Here:
    """A runner that notes on which thread it was called."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        self.threads.append(threading.current_thread().name)
        if rows[0][0] == 13.0:
            raise ValueError("unlucky")
        return Columns(labels=["here"] * len(rows))


async def test_a_few_rows_of_a_fast_runner_are_computed_on_the_event_loop(registered_root: Path) -> None:
    manifest = ModelRepository(registered_root).manifest("iris", "1")
    fast = replace(manifest, runner=replace(manifest.runner, one_row_us=2.0))
    runner = Here()
    lanes = Lanes(LaneLimits())
    model = behind(fast, runner, lanes)
    with pytest.raises(Overloaded):
        await model.run(model.encode([[1, 2, 3, 4]]), [0], WITH, share="a")
    lanes.start()
    few = model.encode([[1, 2, 3, 4]])
    many = model.encode([[1, 2, 3, at] for at in range(30)])
    assert await model.run(few, [0], WITH, share="a") == [b'{"label":"here"}']
    await model.run(many, range(30), WITH, share="a")
    assert runner.threads == [threading.current_thread().name, "model-worker-1"]
    with pytest.raises(ModelUnavailable) as caught:
        await model.run(model.encode([[13, 2, 3, 4]]), [0], WITH, share="a")
    assert "unlucky" not in caught.value.detail
    await lanes.aclose()


@pytest.mark.parametrize("name", ["scikit-learn", "onnxruntime"])
async def test_what_may_run_an_estimators_own_code_is_never_computed_on_the_event_loop(
    registered_root: Path, name: str
) -> None:
    manifest = ModelRepository(registered_root).manifest("iris", "1")
    runner, lanes = Here(), Lanes(LaneLimits())
    model = behind(replace(manifest, runner=replace(manifest.runner, name=name, one_row_us=2.0)), runner, lanes)
    lanes.start()
    assert await model.run(model.encode([[1, 2, 3, 4]]), [0], WITH, share="a") == [b'{"label":"here"}']
    assert runner.threads == ["model-worker-1"]
    await lanes.aclose()


async def test_an_alias_with_weights_gives_a_caller_the_same_version_each_time(models: Path) -> None:
    ModelRepository(models).set_alias("iris", "canary", [WeightedVersion("1", 1), WeightedVersion("2", 1)])
    async with serving(models) as service:
        reference = ModelRef("iris", "canary")
        callers = [f"ten_a:key_{at}" for at in range(50)]
        first = [service.resolve(reference, caller).info.version for caller in callers]
        assert set(first) == {"1", "2"}
        assert [service.resolve(reference, caller).info.version for caller in callers] == first


POOLS = """
import threading
import numpy, scipy.linalg, sklearn.ensemble, treelite
from threadpoolctl import threadpool_info
from backend.model_service.native_threads import one_native_thread

def work():
    one_native_thread()
    print(sorted({(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}))

worker = threading.Thread(target=work)
worker.start()
worker.join()
"""


LOADS = """
import sys
from pathlib import Path
from threadpoolctl import threadpool_info
from backend.model_service.lane_limits import LaneLimits
from backend.model_service.lanes import Lanes
from backend.model_service.loading import Loader
from backend.model_service.repository import ModelRepository

loader = Loader(ModelRepository(Path(sys.argv[1])), Lanes(LaneLimits()), allow_pickle=False, max_rows=10)
found, shelves = set(), {}
for _ in range(2):
    shelves = loader.load(shelves)
    assert shelves["iris"].versions
    found |= {(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}
print(sorted(found))
"""


@pytest.mark.parametrize("script", [POOLS, LOADS], ids=["worker", "loader"])
async def test_native_code_keeps_to_the_thread_that_calls_it(registered_root: Path, script: str) -> None:
    """From the first model on, and for good: a load that ended and gave threads back would give them to all."""
    # A process of its own: while a test run holds a limit, threadpoolctl lets no other thread set one.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(registered_root),
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert printed.decode().strip() == "[('blas', 1), ('openmp', 1)]"
