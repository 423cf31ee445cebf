"""Predictions over HTTP, in both shapes."""

import asyncio
import json
from typing import Any

import pytest

from backend.domain.scopes import Scope
from tests.api.conftest import IRIS, Drain, World

pytestmark = pytest.mark.anyio

DIABETES = {
    "age": 59.0,
    "sex": "female",
    "bmi": 32.1,
    "bp": 101.0,
    "total_cholesterol": 157.0,
    "ldl": 93.2,
    "hdl": 38.0,
    "cholesterol_ratio": 4.0,
    "log_triglycerides": 4.8598,
    "glucose": 87.0,
}


def problem(answer: Any) -> tuple[int, str]:
    """Check what every problem document has to have; return the status and the code."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"].endswith(body["code"])
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["x-request-id"]
    assert {"title", "detail", "instance"} <= body.keys()
    return answer.status_code, body["code"]


def pointers(answer: Any) -> list[str]:
    return [each["pointer"] for each in answer.json()["errors"]]


async def test_a_classifier_answers_with_label_probabilities_and_usage(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live)
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("evt_")
    assert (body["model"], body["version"]) == ("iris", "1")
    [row] = body["predictions"]
    assert row["label"] == "setosa"
    assert set(row["probabilities"]) == {"setosa", "versicolor", "virginica"}
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert body["usage"] == {"units": 1, "cached_units": 0, "billable_units": 1}
    assert answer.headers["x-usage-units"] == "1"
    assert answer.headers["cache-status"] == "forecourt; fwd=miss"


async def test_a_regressor_answers_with_a_value(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live, [DIABETES], model="diabetes")
    assert answer.status_code == 200, answer.text
    [row] = answer.json()["predictions"]
    assert set(row) == {"value"}
    assert isinstance(row["value"], float)


async def test_named_and_positional_rows_are_the_same_question(world: World) -> None:
    tenant = await world.tenant()
    named = dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), IRIS[0], strict=True))
    first = (await world.predict(tenant.live, IRIS)).json()
    second = (await world.predict(tenant.live, [named])).json()
    assert first["predictions"] == second["predictions"]
    assert second["usage"]["cached_units"] == 1


async def test_the_path_may_name_model_version_and_alias(world: World) -> None:
    tenant = await world.tenant()
    for reference in ("iris", "iris@1", "iris@stable"):
        answer = await world.client.post(
            f"/v1/models/{reference}/predict", json={"inputs": IRIS}, headers=tenant.live.headers
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["label"] == "setosa"


async def test_probabilities_can_be_left_out(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live, parameters={"probabilities": False})
    assert answer.json()["predictions"] == [{"label": "setosa"}]


async def test_a_batch_computes_only_the_rows_nobody_asked_before(world: World) -> None:
    tenant = await world.tenant()
    rows = [[5.0 + index / 100, 3.5, 1.4, 0.2] for index in range(50)]
    before = rows_of(world)
    await world.predict(tenant.live, rows[:40])
    answer = await world.predict(tenant.live, rows)
    assert answer.json()["usage"] == {"units": 50, "cached_units": 40, "billable_units": 10}
    assert answer.headers["cache-status"] == "forecourt; fwd=miss"
    again = await world.predict(tenant.live, rows)
    assert again.json()["usage"] == {"units": 50, "cached_units": 50, "billable_units": 0}
    assert again.headers["cache-status"] == "forecourt; hit"
    assert again.json()["predictions"] == answer.json()["predictions"]
    assert [now - then for now, then in zip(rows_of(world), before, strict=True)] == [50, 90]


def rows_of(world: World) -> list[float]:
    """How many rows of iris the model has answered, and how many the cache has."""
    metrics: Any = world.resources.metrics
    of = {"model": "iris", "version": "1"}
    return [metrics.registry.get_sample_value(f"forecourt_model_{name}_total", of) for name in ("rows", "cached_rows")]


async def test_c1_a_cached_row_is_never_another_tenants_answer(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    await world.predict(first.live)
    answer = await world.predict(second.live)
    assert answer.json()["usage"]["cached_units"] == 0


async def test_c1_another_output_set_is_a_miss(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    answer = await world.predict(tenant.live, parameters={"probabilities": False})
    assert answer.json()["usage"]["cached_units"] == 0


async def test_test_keys_have_a_cache_of_their_own(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.test)
    answer = await world.predict(tenant.live)
    assert answer.json()["usage"] == {"units": 1, "cached_units": 0, "billable_units": 1}


async def test_c2_no_cache_computes_anew_and_no_store_leaves_nothing(world: World) -> None:
    tenant = await world.tenant()
    silent = await world.predict(tenant.live, headers={"Cache-Control": "no-store"})
    assert silent.json()["usage"]["cached_units"] == 0
    first = await world.predict(tenant.live)
    assert first.json()["usage"]["cached_units"] == 0, "no-store must not have stored"
    for anew in ("no-cache", "max-age=0", "Max-Age=0, no-transform"):
        forced = await world.predict(tenant.live, headers={"Cache-Control": anew})
        assert forced.json()["usage"]["cached_units"] == 0, anew
    assert (await world.predict(tenant.live)).json()["usage"]["cached_units"] == 1


async def test_k10_a_test_key_is_never_billed(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.test)
    assert answer.json()["usage"] == {"units": 1, "cached_units": 0, "billable_units": 0}


async def test_headers_say_what_is_left_to_the_unit(world: World) -> None:
    tenant = await world.tenant("free")
    answer = await world.predict(tenant.live, IRIS * 30)
    assert answer.headers["ratelimit-policy"] == '"key";q=60;w=60, "tenant";q=60;w=60'
    assert answer.headers["ratelimit"] == '"key";r=30;t=30, "tenant";r=30;t=30'
    assert answer.headers["x-quota-limit"] == "1000"
    assert answer.headers["x-quota-used"] == "30"
    assert answer.headers["x-quota-remaining"] == "970"
    assert answer.headers["x-quota-reset"].endswith("-01T00:00:00Z")


async def test_429_over_the_rate_limit(world: World) -> None:
    tenant = await world.tenant("free")
    key = await world.key(tenant, rate_per_minute=2)
    assert (await world.predict(key, IRIS * 2)).status_code == 200
    answer = await world.predict(key)
    assert problem(answer) == (429, "rate-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.json()["retry_after"] == int(answer.headers["retry-after"])
    assert answer.headers["ratelimit"].startswith('"key";r=0;t=')


async def test_a_key_with_a_limit_of_its_own_stops_before_its_tenant(world: World) -> None:
    tenant = await world.tenant()
    narrow = await world.key(tenant, rate_per_minute=2)
    assert (await world.predict(narrow, IRIS * 2)).status_code == 200
    assert problem(await world.predict(narrow)) == (429, "rate-limited")
    assert (await world.predict(tenant.live)).status_code == 200


async def test_l1_exactly_the_limit_of_four_times_as_many_concurrent_requests_passes(world: World) -> None:
    tenant = await world.tenant("free")
    since = Drain()
    answers = await asyncio.gather(*(world.predict(tenant.live) for _ in range(240)))
    granted = sum(answer.status_code == 200 for answer in answers)
    assert since.within(granted, 60, 60), "GCRA gives a row back each second"
    assert {problem(answer) for answer in answers if answer.status_code != 200} == {(429, "rate-limited")}


async def test_429_over_the_quota_of_a_key(world: World) -> None:
    tenant = await world.tenant()
    small = await world.key(tenant, monthly_quota=3)
    assert (await world.predict(small, IRIS * 3)).status_code == 200
    answer = await world.predict(small)
    assert problem(answer) == (429, "quota-exceeded")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-quota-remaining"] == "0"


async def test_a_refused_request_is_not_charged(world: World) -> None:
    tenant = await world.tenant()
    small = await world.key(tenant, monthly_quota=2)
    assert (await world.predict(small, [["x", 1, 2, 3]])).status_code == 422
    assert (await world.predict(small, IRIS * 3)).status_code == 429
    assert (await world.predict(small, IRIS * 2)).status_code == 200


async def test_a_replay_is_free_and_says_so(world: World) -> None:
    tenant = await world.tenant()
    headers = {"Idempotency-Key": "order-1"}
    first = await world.predict(tenant.live, headers=headers)
    second = await world.predict(tenant.live, headers=headers)
    assert second.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["x-usage-units"] == "0"
    assert len(await world.events(tenant)) == 1


async def test_422_idempotency_key_reused(world: World) -> None:
    tenant = await world.tenant()
    headers = {"Idempotency-Key": "order-1"}
    await world.predict(tenant.live, headers=headers)
    answer = await world.predict(tenant.live, [[6.0, 3.0, 4.0, 1.0]], headers=headers)
    assert problem(answer) == (422, "idempotency-key-reused")


async def test_an_idempotency_key_belongs_to_its_credential(world: World) -> None:
    tenant = await world.tenant()
    headers = {"Idempotency-Key": "order-1"}
    first = await world.predict(tenant.live, headers=headers)
    other = await world.predict(await world.key(tenant), headers=headers)
    assert other.json()["id"] != first.json()["id"]


async def test_a_refused_request_leaves_its_idempotency_key_free(world: World) -> None:
    tenant = await world.tenant()
    small = await world.key(tenant, rate_per_minute=1)
    headers = {"Idempotency-Key": "order-1"}
    assert (await world.predict(small, IRIS * 2, headers=headers)).status_code == 429
    assert (await world.predict(small, IRIS, headers=headers)).status_code == 200


async def test_404_model_not_found(world: World) -> None:
    tenant = await world.tenant()
    for name in ("nothing", "iris@9", "iris@nothing", "../iris", "IRIS", ""):
        assert problem(await world.predict(tenant.live, model=name)) == (404, "model-not-found"), name


async def test_403_model_not_allowed(world: World) -> None:
    tenant = await world.tenant()
    narrow = await world.key(tenant, models=("wine", "iris@1"))
    assert problem(await world.predict(narrow, [DIABETES], model="diabetes")) == (403, "model-not-allowed")
    assert (await world.predict(narrow)).status_code == 200, "iris@1 is what iris means"


async def test_l7_a_cached_answer_does_not_bypass_the_allow_list(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    narrow = await world.key(tenant, models=("wine",))
    assert problem(await world.predict(narrow)) == (403, "model-not-allowed")


async def test_403_insufficient_scope(world: World) -> None:
    tenant = await world.tenant()
    reader = await world.key(tenant, scopes=frozenset({Scope.MODELS_READ}))
    assert problem(await world.predict(reader)) == (403, "insufficient-scope")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([[5.1, 3.5, 1.4]], ["/inputs/0"]),
        ([IRIS[0], [5.1, 3.5, 1.4, 0.2, 1.0]], ["/inputs/1"]),
        ([["5.1", 3.5, 1.4, 0.2]], ["/inputs/0/0"]),
        ([[5.1, None, 1.4, True]], ["/inputs/0/1", "/inputs/0/3"]),
        ([{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4}], ["/inputs/0/petal_width"]),
        ([], ["/inputs"]),
        ([1], ["/inputs/0"]),
        (IRIS * 1001, ["/inputs"]),
    ],
)
async def test_422_schema_mismatch_points_at_the_place(world: World, inputs: Any, expected: list[str]) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live, inputs)
    assert problem(answer) == (422, "schema-mismatch")
    assert pointers(answer) == expected


async def test_422_an_unknown_category_is_pointed_at_and_not_repeated(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live, [DIABETES | {"sex": "c4ff3"}], model="diabetes")
    assert problem(answer) == (422, "schema-mismatch")
    assert pointers(answer) == ["/inputs/0/sex"]
    assert "c4ff3" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_422_numbers_that_are_none_are_pointed_at(world: World, number: str) -> None:
    tenant = await world.tenant()
    body = f'{{"model": "iris", "inputs": [[5.1, {number}, 1.4, 0.2]]}}'
    answer = await world.client.post("/v1/predict", content=body, headers=tenant.live.headers)
    assert problem(answer) == (422, "schema-mismatch")
    assert pointers(answer) == ["/inputs/0/1"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1, 2", b"\xff\xfe", b'{"model": "iris", "inputs": [[' + b"[" * 5000, b"nul"]
)
async def test_400_malformed_request(world: World, body: bytes) -> None:
    tenant = await world.tenant()
    answer = await world.client.post("/v1/predict", content=body, headers=tenant.live.headers)
    assert problem(answer) == (400, "malformed-request")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ({"inputs": IRIS}, "/model"),
        ({"model": "iris"}, "/inputs"),
        ({"model": 7, "inputs": IRIS}, "/model"),
        ({"model": "iris", "inputs": "rows"}, "/inputs"),
        ({"model": "iris", "inputs": IRIS, "parameters": {"probabilities": "yes"}}, "/parameters/probabilities"),
    ],
)
async def test_422_the_envelope_is_checked_too(world: World, body: Any, pointer: str) -> None:
    tenant = await world.tenant()
    answer = await world.client.post("/v1/predict", json=body, headers=tenant.live.headers)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize("field", ["tenant_id", "billable", "used", "role"])
async def test_a4_unknown_and_read_only_fields_are_refused_and_not_repeated(world: World, field: str) -> None:
    tenant = await world.tenant()
    extra: Any = {field: "me"}
    answer = await world.predict(tenant.live, **extra)
    assert problem(answer) == (422, "validation-failed")
    assert field not in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Deadline-Ms", "soon"), ("X-Deadline-Ms", "0"), ("X-Deadline-Ms", "-5"), ("Idempotency-Key", "x" * 256)],
)
async def test_422_headers_are_checked_too(world: World, header: str, value: str) -> None:
    tenant = await world.tenant()
    answer = await world.predict(tenant.live, headers={header: value})
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [f"/header/{header}"]


async def test_504_deadline_exceeded_is_not_charged(world: World) -> None:
    tenant = await world.tenant()
    small = await world.key(tenant, monthly_quota=1000)
    rows = [[17.0 + index / 1000] + [1.0] * 29 for index in range(900)]
    answer = await world.predict(small, rows, model="breast-cancer", headers={"X-Deadline-Ms": "1"})
    assert problem(answer) == (504, "deadline-exceeded")
    assert (await world.predict(small, rows[:100], model="breast-cancer")).status_code == 200


async def test_r1_every_answer_is_one_event_with_the_id_that_was_returned(world: World) -> None:
    tenant = await world.tenant()
    answers = [await world.predict(tenant.live, IRIS * count) for count in (1, 2, 3)]
    events = await world.events(tenant)
    assert [event["id"] for event in events] == [answer.json()["id"] for answer in answers]
    assert [event["units"] for event in events] == [1, 2, 3]
    assert [event["request_id"] for event in events] == [answer.headers["x-request-id"] for answer in answers]
    assert {event["reason"] for event in events} == {"live", "cache-hit"}
    assert {event["plan_version"] for event in events} == {1}


async def test_a_user_may_predict_with_an_access_token(world: World) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(tenant.owner_email)
    answer = await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=headers)
    assert answer.status_code == 200, answer.text
    [event] = await world.events(tenant)
    assert event["key_id"].startswith("usr_")


async def test_a3_tenant_ids_sent_by_the_caller_change_nothing(world: World) -> None:
    mine, other = await world.tenant(), await world.tenant()
    await world.predict(mine.live, headers={"X-Tenant-Id": other.id, "Tenant": other.slug})
    assert len(await world.events(mine)) == 1
    assert await world.events(other) == []


async def test_a_model_is_loaded_once_however_many_requests_come(world: World) -> None:
    tenant = await world.tenant()
    catalog: Any = world.resources.catalog
    before = catalog.loads
    for index in range(5):
        await world.predict(tenant.live, [[5.0 + index, 3.0, 1.0, 0.2]])
    assert catalog.loads == before


async def test_the_event_loop_turns_while_a_model_computes(world: World) -> None:
    """A blocking call in an async endpoint would hold up every other request until the model is done."""
    tenant = await world.tenant()
    rows = [[17.0 + index / 1000] + [1.0] * 29 for index in range(1000)]
    computing = asyncio.create_task(world.predict(tenant.live, rows, model="breast-cancer"))
    answered = 0
    while not computing.done():
        # Within one process nothing else would make this loop let others run.
        await asyncio.sleep(0)
        answer = await world.client.get("/livez")
        answered += not computing.done() and answer.status_code == 200
    assert (await computing).status_code == 200
    assert answered >= 3


async def test_request_ids_are_taken_over_when_they_are_safe(world: World) -> None:
    tenant = await world.tenant()
    good = await world.predict(tenant.live, headers={"X-Request-Id": "my-id_7"})
    assert good.headers["x-request-id"] == "my-id_7"
    bad = await world.predict(tenant.live, headers={"X-Request-Id": "my id\t<script>"})
    assert bad.headers["x-request-id"].startswith("req_")


async def test_l6_long_bodies_are_refused_before_they_are_read(world: World) -> None:
    tenant = await world.tenant()
    body = json.dumps({"model": "iris", "inputs": [[5.1, 3.5, 1.4, 0.2]] * 300_000}).encode()
    answer = await world.client.post("/v1/predict", content=body, headers=tenant.live.headers)
    assert problem(answer) == (413, "payload-too-large")


async def test_l6_a_body_of_unknown_length_is_cut_off(world: World) -> None:
    tenant = await world.tenant()
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 65536
            yield b" " * 65536

    answer = await world.client.post("/v1/predict", content=endless(), headers=tenant.live.headers)
    assert problem(answer) == (413, "payload-too-large")
    assert sent < 8 * 1024 * 1024


async def test_l6_compressed_bodies_are_refused(world: World) -> None:
    tenant = await world.tenant()
    headers = {**tenant.live.headers, "Content-Encoding": "gzip"}
    answer = await world.client.post("/v1/predict", content=b"\x1f\x8b", headers=headers)
    assert problem(answer) == (415, "unsupported-encoding")
