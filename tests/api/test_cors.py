"""Browsers on other origins: only those on the list, and never with credentials."""

from collections.abc import AsyncIterator

import pytest
from pydantic import ValidationError

from tests.api.conftest import World, embedded_settings, running

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"


@pytest.fixture(scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    settings = embedded_settings(tmp_path_factory.mktemp("cors"), cors_origins=PAGE)
    async with running(settings, "cors") as world:
        yield world


async def test_o8_an_origin_on_the_list_may_ask_and_read_the_limits(opened: World) -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    asked = await opened.client.options("/v1/predict", headers=headers)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in asked.headers
    tenant = await opened.tenant()
    answer = await opened.predict(tenant.live, headers={"Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "RateLimit" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://app.example.evil.example", "https://evil.example", "null"])
async def test_o8_other_origins_are_told_nothing(opened: World, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (
        await opened.client.options("/v1/predict", headers=headers),
        await opened.client.get("/livez", headers=headers),
    ):
        assert "access-control-allow-origin" not in answer.headers


async def test_o8_without_a_list_no_origin_is_allowed(world: World) -> None:
    answer = await world.client.get("/livez", headers={"Origin": PAGE})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", ["*", "https://*.example", "app.example", "https://app.example/path"])
def test_o8_wild_and_malformed_origins_are_refused_at_start(
    tmp_path_factory: pytest.TempPathFactory, origins: str
) -> None:
    with pytest.raises(ValidationError, match="origins"):
        embedded_settings(tmp_path_factory.mktemp("cors"), cors_origins=origins)
