"""A question that is asked again with the same bytes is not read again, and gets the answer that it always would."""

import json
from typing import Any

import anyio
import pytest
from httpx import Response
from pydantic_core import from_json

from backend.api import questions
from backend.domain.admission import Standing
from backend.domain.ids import TenantId
from backend.domain.models import OutputOptions
from backend.domain.predictions import PredictionAnswer, Question
from backend.model_service.encoding import RowEncoder
from tests.api.conftest import IRIS, Key, World, a_new_number
from tests.api.test_predictions import DIABETES
from tests.contracts.ledgers import an_event

pytestmark = pytest.mark.anyio

HIT, MISS = "forecourt; hit", "forecourt; fwd=miss"


class Work:
    """What reading questions took: bodies parsed, and rows fitted to a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed = self.encoded = 0
        encode = RowEncoder.encode

        def counted_parse(*given: Any, **options: Any) -> Any:
            self.parsed += 1
            return from_json(*given, **options)

        def counted_encode(*given: Any) -> Any:
            self.encoded += 1
            return encode(*given)

        monkeypatch.setattr("backend.api.prediction_wire.from_json", counted_parse)
        monkeypatch.setattr(RowEncoder, "encode", counted_encode)

    def since(self, before: tuple[int, int]) -> tuple[int, int]:
        return self.parsed - before[0], self.encoded - before[1]

    @property
    def done(self) -> tuple[int, int]:
        return self.parsed, self.encoded


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


def a_new_row() -> list[float]:
    return [5.0 + a_new_number() / 1e6, 3.5, 1.4, 0.2]


async def asked(world: World, key: Key, rows: Any, **how: Any) -> tuple[str, Any]:
    """Return where the answer came from, and the answer."""
    answer = await world.predict(key, rows, **how)
    assert answer.status_code == 200, answer.text
    return answer.headers["cache-status"], answer.json()


async def test_what_the_cache_has_answered_is_read_once_more_and_then_never(world: World, work: Work) -> None:
    tenant, rows = await world.tenant(), [a_new_row(), a_new_row()]
    took, found = [], []
    for _ in range(5):
        before = work.done
        found.append(await asked(world, tenant.live, rows))
        took.append(work.since(before))
    assert took == [(1, 1), (1, 1), (0, 1), (0, 0), (0, 0)]
    assert [where for where, _ in found] == [MISS, HIT, HIT, HIT, HIT]
    assert len({json.dumps(answer["predictions"]) for _, answer in found}) == 1
    assert len({answer["id"] for _, answer in found}) == 5
    assert [answer["usage"]["cached_units"] for _, answer in found] == [0, 2, 2, 2, 2]
    events = await world.events(tenant)
    assert sorted(event["billable_units"] for event in events) == [0, 0, 0, 0, 2]


async def test_whoever_wants_nothing_of_the_cache_gets_nothing_of_it(world: World) -> None:
    tenant, rows = await world.tenant(), [a_new_row()]
    for _ in range(4):
        await asked(world, tenant.live, rows)
    for control in ("no-store", "no-cache", "max-age=0"):
        where, _ = await asked(world, tenant.live, rows, headers={"Cache-Control": control})
        assert where == MISS, control
    assert (await asked(world, tenant.live, rows))[0] == HIT


async def test_a_tenants_questions_and_a_test_keys_are_their_own(world: World) -> None:
    tenant, other, rows = await world.tenant(), await world.tenant(), [a_new_row()]
    for _ in range(4):
        await asked(world, tenant.live, rows)
    for key in (other.live, tenant.test):
        assert [(await asked(world, key, rows))[0] for _ in range(4)] == [MISS, HIT, HIT, HIT]
    assert (await asked(world, tenant.live, rows))[0] == HIT


async def test_the_same_body_is_another_question_to_another_model(world: World) -> None:
    tenant = await world.tenant()
    body = json.dumps({"inputs": [a_new_row()]})

    async def ask(model: str) -> Response:
        path = f"/v1/models/{model}/predict"
        answer = await world.client.post(path, content=body, headers=tenant.live.headers)
        await world.resources.predictions.settled()
        return answer

    for _ in range(4):
        assert (await ask("iris")).json()["model"] == "iris"
    assert (await ask("diabetes")).status_code == 422
    body = json.dumps({"inputs": [DIABETES]})
    for _ in range(4):
        assert (await ask("diabetes")).json()["model"] == "diabetes"
    assert (await ask("iris")).status_code == 422


async def test_a_repeated_question_under_an_idempotency_key_is_replayed(world: World) -> None:
    tenant, rows = await world.tenant(), [a_new_row()]
    for _ in range(4):
        await asked(world, tenant.live, rows)
    first, again = [await world.predict(tenant.live, rows, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    reused = await world.predict(tenant.live, [a_new_row()], headers={"Idempotency-Key": "k"})
    assert reused.json()["code"] == "idempotency-key-reused"


async def test_only_so_many_short_questions_are_kept(
    embedded_world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 2)
    tenant = await embedded_world.tenant()
    several = [[a_new_row()] for _ in range(4)]
    for rows in several * 3:
        await asked(embedded_world, tenant.live, rows)
    # Each was forgotten before it came again.
    before = work.done
    for rows in several:
        assert (await asked(embedded_world, tenant.live, rows))[0] == HIT
    assert work.since(before) == (4, 4)
    long = IRIS * (questions.LONGEST_BODY_BYTES // 10)
    for _ in range(3):
        await asked(embedded_world, tenant.live, long)
    before = work.done
    assert (await asked(embedded_world, tenant.live, long))[0] == HIT
    assert work.since(before) == (1, 1)


async def test_they_are_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FORGOTTEN_EVERY_S", 0.0)
    kept, tenant = questions.RepeatedQuestions(), TenantId("ten")
    question = Question("iris", IRIS, OutputOptions())
    event = an_event(tenant, units=1, cached_units=1, billable_units=0)
    found = PredictionAnswer(event, None, [b"{}"], Standing())  # type: ignore[arg-type]  # nobody looks at the model
    for _ in range(2):
        for body in (b"a", b"b"):
            kept.keep(tenant, None, body, question, found)
        assert kept.find(tenant, None, b"a") is kept.find(tenant, None, b"b") is question
        with anyio.fail_after(30):
            while kept.find(tenant, None, b"a") or kept.find(tenant, None, b"b"):
                await anyio.sleep(0)
