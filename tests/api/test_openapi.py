"""The OpenAPI document: valid, complete and typed for each model. Whether it is true is asked in ``test_fuzz.py``."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema_rs import validator_for
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from backend.api.deps.callers import asks_who_calls
from backend.api.router import PUBLIC
from backend.domain.scopes import TENANT_SCOPES
from tests.api.conftest import World
from tests.routes import served_routes

pytestmark = pytest.mark.anyio

MODELS = {"iris", "wine", "breast-cancer", "diabetes"}
METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}
PROBLEM = "application/problem+json"
FORMS = {"/v1/auth/token", "/v1/auth/revoke"}
"""The OAuth endpoints use RFC 6749's errors."""


@pytest.fixture
async def document(embedded_world: World) -> dict[str, Any]:
    answer = await embedded_world.client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield method, path, operation


async def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    absolute = copy.deepcopy(document)
    # Relative references are allowed (section 4.6); the published JSON schema knows them by their absolute form only.
    for name in ("tokenUrl", "refreshUrl"):
        absolute["components"]["securitySchemes"]["Login"]["flows"]["password"][name] = "https://api.example/token"
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(absolute)] == []


async def test_it_is_the_same_in_both_shapes(world: World, document: dict[str, Any]) -> None:
    assert (await world.client.get("/openapi.json")).json() == document


async def test_it_is_made_once_for_the_models_that_are_loaded(world: World) -> None:
    """It takes a quarter of a second, and anybody may ask for it."""
    assert world.app.openapi() is world.app.openapi()


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = re.findall(r"'\$ref': '([^']+)'", repr(document))
    assert found
    for reference in set(found):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


async def test_every_schema_is_used(document: dict[str, Any]) -> None:
    used = set(re.findall(r"#/components/schemas/([^']+)'", repr(document)))
    assert document["components"]["schemas"].keys() == used


async def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


async def test_every_operation_has_a_summary_a_description_and_a_tag(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for name in ("summary", "description", "tags"):
            assert operation.get(name), (method, path, name)


# Complete


async def test_every_route_stands_in_the_document(embedded_world: World, document: dict[str, Any]) -> None:
    served = list(served_routes(embedded_world.app))
    described = {(path, method.upper()) for method, path, _ in operations(document)}
    left_out = {route.path for route in served if (route.path, route.method) not in described}
    pages = {"/accept-invitation", "/confirm", "/reset-password", "/mailed-link.js"}
    assert left_out == {"/docs", "/docs/start.js", "/docs/static/{name}", *pages}
    typed = described - {(route.path, route.method) for route in served}
    assert typed == {(f"/v1/models/{model}/predict", "POST") for model in MODELS}


async def test_a_route_that_asks_who_calls_says_so_and_a_public_one_does_not(
    embedded_world: World, document: dict[str, Any]
) -> None:
    documented = [route for route in served_routes(embedded_world.app) if route.is_documented]
    assert len(documented) > 10
    for route in documented:
        operation = document["paths"][route.path][route.method.lower()]
        closed = asks_who_calls(route.dependant)
        assert closed is (route.path not in PUBLIC), route
        assert ("security" in operation) is closed, route
        if closed:
            assert operation["responses"].keys() >= {"401", "403"}, route


async def test_the_security_schemes_are_those_that_the_routes_name(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    for _, path, operation in operations(document):
        named = {name for choice in operation.get("security", []) for name in choice}
        assert named in (set(), set(schemes)), path
    assert schemes["ApiKey"] | {"description": ""} == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "",
    }
    assert schemes["Bearer"]["scheme"] == "bearer"
    flow = schemes["Login"]["flows"]["password"]
    assert flow["tokenUrl"] == "/v1/auth/token"
    assert flow["scopes"].keys() == TENANT_SCOPES


async def test_every_route_lists_its_errors_as_problem_documents(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        refused = {status: body for status, body in operation["responses"].items() if status[0] in "45"}
        assert refused.keys() >= {"400", "405", "413", "422", "500", "503"}, (method, path)
        for status, answer in refused.items():
            assert answer["description"], (path, status)
            if path in FORMS and status in {"400", "401", "429"}:
                assert "application/json" in answer["content"], (path, status)
                continue
            assert answer["content"].keys() == {PROBLEM}, (path, status)
            for code, example in answer["content"][PROBLEM]["examples"].items():
                value = example["value"]
                assert (value["code"], value["status"]) == (code, int(status))
                assert value["type"].endswith(code)


async def test_the_codes_of_the_contract_stand_where_they_can_happen(document: dict[str, Any]) -> None:
    def codes(method: str, path: str) -> set[str]:
        answers = document["paths"][path][method]["responses"].values()
        return {code for answer in answers for code in answer.get("content", {}).get(PROBLEM, {}).get("examples", {})}

    assert codes("post", "/v1/predict") >= {
        *("malformed-request", "key-in-url", "invalid-credentials", "key-expired", "key-revoked"),
        *("insufficient-scope", "model-not-allowed", "ip-not-allowed", "tenant-suspended", "model-not-found"),
        *("payload-too-large", "schema-mismatch", "idempotency-key-reused", "idempotency-in-progress"),
        *("rate-limited", "quota-exceeded", "concurrency-exceeded", "overloaded", "enforcement-unavailable"),
        *("metering-unavailable", "model-unavailable", "deadline-exceeded"),
    }
    assert codes("post", "/v1/api-keys") >= {"scope-exceeds-grantor", "key-limit-reached", "validation-failed"}
    assert "not-found" in codes("get", "/v1/api-keys/{key_id}")
    for path in ("events", "summary", "export"):
        assert "usage-expired" in codes("get", f"/v1/usage/{path}"), path


# Typed for each model


async def test_every_model_has_a_path_of_its_own_with_its_own_types(document: dict[str, Any]) -> None:
    typed = {path.split("/")[3] for path in document["paths"] if re.fullmatch(r"/v1/models/[^{}/]+/predict", path)}
    assert typed == MODELS
    body = document["paths"]["/v1/models/diabetes/predict"]["post"]["requestBody"]["content"]["application/json"]
    named, positional = body["schema"]["properties"]["inputs"]["items"]["anyOf"]
    assert named["properties"]["sex"]["enum"] == ["female", "male"]
    assert named["properties"]["bmi"]["type"] == "number"
    assert named["additionalProperties"] is False
    assert positional["minItems"] == positional["maxItems"] == len(named["properties"])
    assert "model" not in body["schema"]["properties"], "it stands in the path"


@pytest.mark.parametrize("model", sorted(MODELS))
async def test_the_examples_of_a_model_work_and_are_answered_as_described(world: World, model: str) -> None:
    tenant = await world.tenant()
    document = (await world.client.get("/openapi.json")).json()
    operation = document["paths"][f"/v1/models/{model}/predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    promised = operation["responses"]["200"]["content"]["application/json"]["schema"]
    answered = validator_for({**promised, "components": document["components"]})
    requests = validator_for({**schema, "components": document["components"]})
    assert len(schema["examples"]) == 2, "by name and by position"
    for example in schema["examples"]:
        assert requests.is_valid(example)
        answer = await world.client.post(f"/v1/models/{model}/predict", json=example, headers=tenant.live.headers)
        assert answer.status_code == 200, answer.text
        assert [error.message for error in answered.iter_errors(answer.json())] == []
    assert not requests.is_valid({"inputs": [[1, 2]]})


async def test_what_a_models_schema_takes_with_its_parameters_is_taken(world: World) -> None:
    tenant = await world.tenant()
    document = (await world.client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/models/iris/predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    requests = validator_for({**schema, "components": document["components"]})
    body = {**schema["examples"][0], "parameters": {"probabilities": False}}
    assert requests.is_valid(body)
    assert not requests.is_valid({**body, "parameters": {"probabilities": "no"}})
    assert not requests.is_valid({**body, "tenant_id": "x"})
    answer = await world.client.post("/v1/models/iris/predict", json=body, headers=tenant.live.headers)
    assert answer.json()["predictions"] == [{"label": "versicolor"}]
