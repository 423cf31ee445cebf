"""The pages that mailed links lead to: each posts its token to the route that takes it, and nowhere else."""

import re

import pytest

from tests.api.conftest import World
from tests.api.mailbox import letters_to

pytestmark = pytest.mark.anyio

PAGES = {
    "/accept-invitation": ("/v1/invitations/accept", "password"),
    "/confirm": ("/v1/auth/confirm", ""),
    "/reset-password": ("/v1/auth/reset", "new_password"),
}


@pytest.mark.parametrize("path", sorted(PAGES))
async def test_a_page_posts_to_a_route_that_takes_what_it_sends(embedded_world: World, path: str) -> None:
    answer = await embedded_world.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    found = re.search(r'data-target="([^"]*)" data-field="([^"]*)"', answer.text)
    assert found is not None
    assert found.groups() == PAGES[path]
    target, field = PAGES[path]
    document = (await embedded_world.client.get("/openapi.json")).json()
    reference = document["paths"][target]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert {"token", field} - {""} <= set(schema["properties"])
    assert set(schema["required"]) <= {"token", field}


@pytest.mark.parametrize("path", sorted(PAGES))
async def test_x5_a_page_runs_only_its_own_script_and_is_not_kept(embedded_world: World, path: str) -> None:
    answer = await embedded_world.client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert re.findall(r"<script[^>]*>([^<]*)</script>", answer.text) == [""]
    script = await embedded_world.client.get("/mailed-link.js")
    assert script.headers["content-type"].startswith("text/javascript")


async def test_p7_a_mailed_link_leads_to_its_page_with_the_token_behind_the_hash(world: World) -> None:
    tenant = await world.tenant()
    await world.client.post("/v1/auth/forgot", json={"email": tenant.owner_email})
    [letter] = await letters_to(world, tenant.owner_email)
    path = letter.link.removeprefix(world.resources.settings.public_url)
    assert (await world.client.get(path)).status_code == 200
