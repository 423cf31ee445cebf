"""A question that is asked again with the same bytes is not read again, and gets the answer that it always would."""

import asyncio
import json
import sys
from types import FrameType
from typing import Any, Self

import anyio
import pytest
from httpx import Response

from backend.api.prediction_wire import read_question
from backend.api.questions import LONGEST_BODY_BYTES, RepeatedQuestions
from backend.domain.admission import Standing, StoredAnswer
from backend.domain.ids import TenantId
from backend.domain.models import OutputOptions
from backend.domain.predictions import PredictionAnswer, Question, ReplayedAnswer
from backend.model_service.encoding import RowEncoder
from tests.api.conftest import IRIS, Key, World, a_new_number
from tests.api.test_predictions import DIABETES
from tests.contracts.ledgers import an_event

pytestmark = pytest.mark.anyio

TENANT = TenantId("ten_a")
REPLAYED = ReplayedAnswer(answer=StoredAnswer(status=200, body=b"{}"), standing=Standing())
HIT, MISS = "forecourt; hit", "forecourt; fwd=miss"


class Work:
    """How often something was read: bodies parsed, and rows fitted to a model."""

    def __init__(self) -> None:
        self.parsed = self.encoded = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self.parsed += frame.f_code is read_question.__code__
            self.encoded += frame.f_code is RowEncoder.encode.__code__


def a_new_row() -> list[float]:
    return [5.0 + a_new_number() / 1e6, 3.5, 1.4, 0.2]


async def asked(world: World, key: Key, rows: Any, **how: Any) -> tuple[str, Any]:
    """Return where the answer came from, and the answer."""
    answer = await world.predict(key, rows, **how)
    assert answer.status_code == 200, answer.text
    return answer.headers["cache-status"], answer.json()


async def test_what_the_cache_has_answered_is_read_once_more_and_then_never(world: World) -> None:
    tenant, rows = await world.tenant(), [a_new_row(), a_new_row()]
    took, found = [], []
    for _ in range(5):
        with Work() as work:
            found.append(await asked(world, tenant.live, rows))
        took.append((work.parsed, work.encoded))
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


async def test_what_several_ask_again_at_once_is_booked_as_it_turns_out(world: World) -> None:
    """Their events are made before it is known where the rows come from."""
    tenant, rows = await world.tenant(), [a_new_row(), a_new_row()]
    told = [(await asked(world, tenant.live, rows))[1] for _ in range(4)]
    for headers, where, billable in (({}, HIT, 0), ({"Cache-Control": "no-cache"}, MISS, 2), ({}, HIT, 0)):
        found = await asyncio.gather(*[asked(world, tenant.live, rows, headers=headers) for _ in range(5)])
        assert [(each, answer["usage"]["billable_units"]) for each, answer in found] == [(where, billable)] * 5
        told += [answer for _, answer in found]
    counted = ("units", "cached_units", "billable_units")
    booked = {event["id"]: {name: event[name] for name in counted} for event in await world.events(tenant)}
    assert booked == {answer["id"]: answer["usage"] for answer in told}


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


def kept_by(questions: RepeatedQuestions, *bodies: bytes, cached_units: int = 1) -> list[bool]:
    """Have bodies answered, of one row each; return for each whether it is remembered then."""
    event = an_event(TENANT, units=1, cached_units=cached_units)
    answer = PredictionAnswer(event, None, [b"{}"], Standing())  # type: ignore[arg-type]  # nobody looks at the model
    for body in bodies:
        questions.keep(TENANT, None, body, Question("iris", IRIS, OutputOptions()), answer)
    return [questions.find(TENANT, None, body) is not None for body in bodies]


async def test_only_so_many_short_ones_that_the_cache_answered_are_kept() -> None:
    assert kept_by(RepeatedQuestions(most=2), b"a", b"b", b"c", b"d") == [False, False, True, True]
    assert kept_by(RepeatedQuestions(), *[b"x" * (LONGEST_BODY_BYTES + more) for more in (0, 1)]) == [True, False]
    assert kept_by(RepeatedQuestions(), b"a", cached_units=0) == [False]
    questions = RepeatedQuestions()
    questions.keep(TENANT, None, b"a", Question("iris", IRIS, OutputOptions()), REPLAYED)
    assert questions.find(TENANT, None, b"a") is None


async def test_they_are_forgotten_after_a_while() -> None:
    questions = RepeatedQuestions(forgotten_every_s=0.0)
    for _ in range(2):
        assert kept_by(questions, b"a", b"b") == [True, True]
        with anyio.fail_after(30):
            while questions.find(TENANT, None, b"a") or questions.find(TENANT, None, b"b"):
                await anyio.sleep(0)
