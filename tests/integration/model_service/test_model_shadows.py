"""A shadow target gets the rows of the others after their answers, and nothing that it does reaches a caller."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeRegressor

from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.domain.errors import FieldError, SchemaMismatch
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService, register
from backend.model_service.aliases import SHADOW, WeightedVersion, parse_aliases
from backend.model_service.encoding import RowEncoder, TypedRows
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import Row
from backend.model_service.meters import ShadowMeter
from backend.model_service.repository import ModelRepository
from backend.model_service.shadows import Shadow, ShadowWorker

pytestmark = pytest.mark.anyio

WITH = OutputOptions()
BOUND_S = 30.0


class Watched:
    """A service with its metrics."""

    def __init__(self, service: ModelService, metrics: PrometheusMetrics) -> None:
        self.service = service
        self._metrics = metrics

    async def predict(self, reference: str, rows: Sequence[object]) -> list[bytes]:
        model = self.service.resolve(ModelRef.parse(reference))
        encoded = model.encode(rows)
        answers = await model.run(encoded, range(encoded.count), WITH, share="a")
        assert await asyncio.to_thread(self.service._shadows.settled, BOUND_S)
        return answers

    def rows(self, outcome: str, *, version: str = "1", shadow: str = "2", model: str = "iris") -> float | None:
        labels = {"model": model, "version": version, "shadow": shadow, "outcome": outcome}
        return self._metrics.registry.get_sample_value("forecourt_model_shadow_rows_total", labels)

    def difference(self, suffix: str) -> float | None:
        labels = {"model": "iris", "version": "1", "shadow": "2"}
        return self._metrics.registry.get_sample_value(f"forecourt_model_shadow_difference_{suffix}", labels)


@asynccontextmanager
async def watching(root: Path, shadow: str | None = "2") -> AsyncIterator[Watched]:
    repository = ModelRepository(root)
    repository.set_alias("iris", "stable", [WeightedVersion("1", 1)])
    if shadow is not None:
        repository.set_alias("iris", SHADOW, [WeightedVersion(shadow, 1)])
    metrics = PrometheusMetrics()
    service = await ModelService.open(root, metrics=metrics)
    try:
        yield Watched(service, metrics)
    finally:
        await service.aclose()


async def test_what_was_answered_is_computed_again_and_compared(models: Path, iris_rows: list[list[float]]) -> None:
    async with watching(models) as watched:
        answers = await watched.predict("iris", iris_rows)
        own = await watched.predict("iris@2", iris_rows)
        different = sum(
            orjson.loads(one)["label"] != orjson.loads(other)["label"] for one, other in zip(answers, own, strict=True)
        )
        assert 0 < different < 20, "a linear model and a forest do not agree on all of iris"
        assert (watched.rows("agreed"), watched.rows("differed")) == (150 - different, different)
        assert watched.difference("count") == 150
        assert (watched.difference("sum") or 0) > 0.1
        assert watched.rows("agreed", version="2") is None, "the shadow has none itself"
        assert [watched.rows(each) for each in ("failed", "unfit", "dropped")] == [0, 0, 0]


async def test_without_the_alias_nothing_runs_twice_and_it_comes_and_goes_while_serving(
    models: Path, iris_rows: list[list[float]]
) -> None:
    async with watching(models, shadow=None) as watched:
        await watched.predict("iris", iris_rows[:5])
        assert watched.rows("agreed") is None
        repository = ModelRepository(models)
        repository.set_alias("iris", SHADOW, [WeightedVersion("2", 1)])
        await watched.service.refresh()
        await watched.predict("iris", iris_rows[:5])
        assert watched.rows("agreed") == 5
        repository.set_alias("iris", SHADOW, [])
        await watched.service.refresh()
        await watched.predict("iris", iris_rows[:5])
        assert watched.rows("agreed") == 5


async def test_a_shadow_with_other_inputs_is_unfit_and_one_of_another_order_is_not(
    models: Path, tmp_path: Path, iris_rows: list[list[float]], iris_sample: Path
) -> None:
    narrow = tmp_path / "narrow.csv"
    narrow.write_text("petal_width\n0.2\n1.4\n")
    data = load_iris()
    register(models, DummyClassifier().fit(data.data[:, :1], data.target), name="iris", sample=narrow)
    async with watching(models, shadow="3") as watched:
        answers = await watched.predict("iris", iris_rows[:4])
        assert len(answers) == 4
        assert watched.rows("unfit", shadow="3") == 4


async def test_a_regressor_agrees_where_its_value_is_the_same(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("a\n1.5\n2.5\n3.5\n")
    data = [[1.5], [2.5], [3.5]]
    root = tmp_path / "m"
    for truth in ([1, 2, 3], [1, 2, 9]):
        register(root, DecisionTreeRegressor().fit(data, truth), name="iris", sample=sample)
    async with watching(root) as watched:
        assert await watched.predict("iris", data) == [b'{"value":1.0}', b'{"value":2.0}', b'{"value":3.0}']
        assert (watched.rows("agreed"), watched.rows("differed")) == (2, 1)
        assert watched.difference("sum") == 6


# -- a shadow that misbehaves ----------------------------------------------------------------------------------------


class Target:
    """A shadow of which a test decides what it does."""

    def __init__(self, does: Callable[[Sequence[Row]], Sequence[bytes]]) -> None:
        self._does = does

    def encode(self, inputs: Sequence[object]) -> TypedRows:
        return TypedRows(RowEncoder.__new__(RowEncoder), [tuple(row.values()) for row in inputs])  # type: ignore[attr-defined]

    def compute(self, rows: Sequence[Row], options: OutputOptions) -> Sequence[bytes]:
        return self._does(rows)


class Shadowed:
    """A shadow of one column, and what is counted of it."""

    def __init__(self, does: Callable[[Sequence[Row]], Sequence[bytes]], *, max_waiting_rows: int = 10) -> None:
        self._metrics = PrometheusMetrics()
        self.worker = ShadowWorker(max_waiting_rows=max_waiting_rows)
        meter = ShadowMeter.of(self._metrics, model="m", version="1", shadow="2")
        self.shadow = Shadow(Target(does), names=["x"], label="m@2", meter=meter, worker=self.worker)

    def offer(self, *values: float) -> None:
        self.shadow.offer([(value,) for value in values], WITH, [b'{"value":1.0}'] * len(values))

    def rows(self, outcome: str) -> float | None:
        labels = {"model": "m", "version": "1", "shadow": "2", "outcome": outcome}
        return self._metrics.registry.get_sample_value("forecourt_model_shadow_rows_total", labels)

    def settle(self) -> None:
        assert self.worker.settled(BOUND_S)


def raising(error: BaseException) -> Callable[[Sequence[Row]], Sequence[bytes]]:
    def does(rows: Sequence[Row]) -> Sequence[bytes]:
        raise error

    return does


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        (raising(ValueError("secret")), "failed"),
        (raising(SystemExit(1)), "failed"),
        (raising(SchemaMismatch(errors=(FieldError("/inputs/0", "no"),))), "unfit"),
        (lambda rows: [], "failed"),
        (lambda rows: [b"{"] * len(rows), "failed"),
        (lambda rows: [b'{"label":"a"}'] * len(rows), "differed"),
        (lambda rows: [b'{"value":1.0}'] * len(rows), "agreed"),
    ],
    ids=["raises", "exits", "refuses", "too few", "no JSON", "another kind", "well"],
)
async def test_whatever_it_does_is_counted_and_the_next_one_runs(
    does: Callable[[Sequence[Row]], Sequence[bytes]], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    shadowed = Shadowed(does)
    for _ in range(2):
        shadowed.offer(1.0, 2.0)
        shadowed.settle()
    assert shadowed.rows(outcome) == 4
    assert "secret" not in caplog.text
    shadowed.worker.close()


async def test_one_that_is_behind_is_left_out_and_one_that_hangs_keeps_nobody() -> None:
    entered, released = threading.Event(), threading.Event()

    def hang(rows: Sequence[Row]) -> Sequence[bytes]:
        entered.set()
        released.wait()
        return [b'{"value":1.0}'] * len(rows)

    shadowed = Shadowed(hang, max_waiting_rows=10)
    shadowed.offer(1.0)
    assert entered.wait(BOUND_S)
    for _ in range(13):
        shadowed.offer(1.0)  # returns at once, however long the other hangs
    shadowed.offer(*[1.0] * 11)  # more than there is room for
    assert shadowed.rows("dropped") == 3 + 11
    released.set()
    shadowed.settle()
    assert shadowed.rows("agreed") == 11
    shadowed.worker.close()


async def test_a_worker_that_was_closed_takes_nothing_and_does_not_wait_for_one_that_hangs() -> None:
    entered, released = threading.Event(), threading.Event()

    def hang(rows: Sequence[Row]) -> Sequence[bytes]:
        entered.set()
        released.wait()
        return []

    shadowed = Shadowed(hang)
    shadowed.offer(1.0)
    assert entered.wait(BOUND_S)
    shadowed.worker.close()
    shadowed.offer(1.0)
    assert shadowed.rows("dropped") == 1
    released.set()


def test_the_alias_names_one_version() -> None:
    assert parse_aliases(b'{"shadow": "4"}') == {"shadow": (WeightedVersion("4", 1),)}
    with pytest.raises(ModelRefused, match="must be one version"):
        parse_aliases(b'{"shadow": {"4": 1, "5": 1}}')
