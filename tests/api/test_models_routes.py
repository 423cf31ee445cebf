"""Models over HTTP, in both shapes: what is served, and what it takes and gives."""

import re
from typing import Any

import pytest

from backend.domain.scopes import Role, Scope
from tests.api.conftest import World
from tests.api.test_predictions import problem

pytestmark = pytest.mark.anyio

IRIS_INPUTS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


async def read(world: World, path: str = "") -> Any:
    tenant = await world.tenant()
    answer = await world.client.get(f"/v1/models{path}", headers=tenant.live.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_model_is_listed_by_name(world: World) -> None:
    body = await read(world)
    assert [model["name"] for model in body["data"]] == ["breast-cancer", "diabetes", "iris", "wine"]
    assert (body["has_more"], body["next_cursor"]) == (False, None)
    assert body["data"][2] == await read(world, "/iris")


async def test_a_model_tells_its_task_its_typed_inputs_and_its_versions(world: World) -> None:
    body = await read(world, "/iris")
    assert (body["name"], body["default_version"], body["task"]) == ("iris", "1", "classification")
    assert [each["name"] for each in body["inputs"]] == IRIS_INPUTS
    assert {each["type"] for each in body["inputs"]} == {"float"}
    assert body["aliases"] == {"stable": "1"}
    assert body["unavailable_versions"] == []
    [version] = body["versions"]
    assert version["labels"] == ["setosa", "versicolor", "virginica"]
    for name in ("task", "inputs", "runner", "metrics"):
        assert body[name] == version[name], "the model's are those of its default version"


async def test_a_version_tells_where_it_comes_from_and_how_it_runs(world: World) -> None:
    body = await read(world, "/iris/versions/1")
    assert body == (await read(world, "/iris"))["versions"][0]
    assert re.fullmatch(r"[0-9a-f]{64}", body["sha256"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["created_at"])
    assert body["runner"]["name"]
    assert body["runner"]["reason"]
    assert body["format"] == "skops"
    assert "scikit-learn" in body["library_versions"]


async def test_a_versions_metrics_were_measured_on_held_out_data(world: World) -> None:
    for model in (await read(world))["data"]:
        assert model["metrics"], model["name"]
        assert all(isinstance(value, float | int) for value in model["metrics"].values())
    iris = await read(world, "/iris")
    assert any(0.8 < value <= 1 for value in iris["metrics"].values())


async def test_a_regressor_has_no_labels_and_its_categories_are_told(world: World) -> None:
    [version] = (await read(world, "/diabetes"))["versions"]
    assert (version["task"], version["labels"]) == ("regression", None)
    inputs = {each["name"]: each for each in version["inputs"]}
    assert inputs["sex"]["type"] == "string"
    assert set(inputs["sex"]["categories"]) == {"female", "male"}
    assert inputs["age"]["categories"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/IRIS",
        "/iris@1",
        "/iris/versions/2",
        "/iris/versions/stable",
        "/iris/versions/01",
        "/nothing/versions/1",
        "/..%2Firis",
        "/%2e%2e",
        "/iris/versions/..%2F1",
        "/' OR '1'='1",
    ],
)
async def test_404_model_not_found(world: World, path: str) -> None:
    tenant = await world.tenant()
    answer = await world.client.get(f"/v1/models{path}", headers=tenant.live.headers)
    assert answer.status_code == 404, answer.text
    assert problem(answer)[1] in {"model-not-found", "not-found"}


@pytest.mark.parametrize("path", ["", "/iris", "/iris/versions/1"])
async def test_403_insufficient_scope(world: World, path: str) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=frozenset({Scope.PREDICT}))
    answer = await world.client.get(f"/v1/models{path}", headers=key.headers)
    assert problem(answer) == (403, "insufficient-scope")
    billing = await world.log_in(await world.member(tenant, Role.BILLING))
    assert problem(await world.client.get(f"/v1/models{path}", headers=billing)) == (403, "insufficient-scope")
    viewer = await world.log_in(await world.member(tenant, Role.VIEWER))
    assert (await world.client.get(f"/v1/models{path}", headers=viewer)).status_code == 200


async def test_nothing_tells_where_a_model_lies(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/models", headers=tenant.live.headers)
    assert "/models/" not in answer.text
    assert ".skops" not in answer.text
