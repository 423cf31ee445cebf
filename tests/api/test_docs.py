"""The documentation page: it needs no internet, and its policy lets nothing else in.

The page itself is looked at in a real browser where a ``chromium`` is on PATH; everywhere else by its references.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import PASSWORD, World
from tests.api.listening import base_url_of, listening
from tests.api.test_predictions import problem
from tests.browser import CHROMIUM, browsing

pytestmark = pytest.mark.anyio


class References(HTMLParser):
    """What a page refers to, and what runs inside it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "action", "data"}]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


async def test_everything_the_page_refers_to_is_ours_and_there(world: World) -> None:
    answer = await world.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = References(answer.text)
    assert len(page.references) >= 4
    for reference in page.references:
        assert reference.startswith("/"), reference
        assert not reference.startswith("//"), reference
        found = await world.client.get(reference)
        assert found.status_code == 200, reference
        assert len(found.content) > 100, reference


async def test_nothing_runs_inside_the_page_itself(world: World) -> None:
    assert References((await world.client.get("/docs")).text).inline == []


async def test_the_script_asks_our_own_document_and_no_validator(world: World) -> None:
    script = (await world.client.get("/docs/start.js")).text
    assert re.findall(r'url: "([^"]+)"', script) == ["/openapi.json"]
    assert "validatorUrl: null" in script
    assert "http" not in script


async def test_the_style_sheet_fetches_nothing_from_elsewhere(world: World) -> None:
    sheet = (await world.client.get("/docs/static/swagger-ui.css")).text
    fetched = re.findall(r"url\(\s*['\"]?([^'\")]{1,60})", sheet)
    assert all(each.startswith(("data:", "#")) for each in fetched), fetched
    assert "@import" not in sheet


async def test_x5_the_policy_of_the_page_lets_nothing_in_but_its_own(world: World) -> None:
    policy = (await world.client.get("/docs")).headers["content-security-policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == ["'self'"]
    assert rules["connect-src"] == ["'self'"]
    assert rules["frame-ancestors"] == ["'none'"]
    assert rules["base-uri"] == ["'none'"]
    assert rules["form-action"] == ["'none'"]
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/docs/start.js", "text/javascript"),
        ("/docs/static/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/static/swagger-ui.css", "text/css"),
        ("/docs/static/favicon.png", "image/png"),
    ],
)
async def test_files_have_their_type_and_browsers_may_not_guess_another(
    world: World, path: str, content_type: str
) -> None:
    answer = await world.client.get(path)
    assert answer.headers["content-type"].split(";")[0] == content_type
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2F__init__.py", "../__init__.py", "swagger-ui.css%00", "SWAGGER-UI.CSS", "%2Fetc%2Fpasswd"],
)
async def test_404_for_any_other_file(world: World, name: str) -> None:
    answer = await world.client.get(f"/docs/static/{name}")
    assert problem(answer)[0] in {400, 404}


needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH to look at the page with")


@needs_a_browser
async def test_a_browser_without_internet_shows_every_route(embedded_world: World, tmp_path: Path) -> None:
    document = (await embedded_world.client.get("/openapi.json")).json()
    async with listening(embedded_world.app) as server, browsing(f"{base_url_of(server)}/docs", tmp_path) as page:
        shown = await page.run("""
            await see("button", "Authorize");
            await see("[data-path]");
            return [...document.querySelectorAll("[data-path]")].map(each => each.dataset.path);
        """)
        assert set(shown) == set(document["paths"])
        assert page.complaints == [], "the page does nothing that its own policy forbids"


# Opens the dialogue, and waits until it has closed again.
AUTHORIZE = """
    await press("button.authorize", "Authorize");
    const boxes = () => [...document.querySelectorAll(".auth-container")];
    const box = await until(() => boxes().find(each => each.textContent.includes("%(scheme)s")), "box");
    %(fill)s
    await press("button", "Authorize", box);
    await see("button", "Logout", box);
    await press(".close-modal");
"""
# Tries a route out, and returns the status and the body that the page shows.
TRY = """
    const row = await see("#%(operation)s");
    if (!row.classList.contains("is-open")) (row.querySelector(".opblock-summary-control")).click();
    await press("button.try-out__btn", "Try it out", row);
    await press("button.execute", "Execute", row);
    const shown = part => see(`.live-responses-table tbody .response-col_${part}`, "", row);
    return [(await shown("status")).textContent.trim().slice(0, 3), (await shown("description")).textContent];
"""


def operation_of(document: dict[str, Any], method: str, path: str) -> str:
    """Return the element that the page shows a route in."""
    operation = document["paths"][path][method]
    return f"operations-{operation['tags'][0].replace(' ', '_')}-{operation['operationId']}"


@needs_a_browser
async def test_the_authorize_button_takes_an_api_key(embedded_world: World, tmp_path: Path) -> None:
    tenant = await embedded_world.tenant()
    document = (await embedded_world.client.get("/openapi.json")).json()
    fill = f'await type("input", "{tenant.live.secret}", box);'
    async with listening(embedded_world.app) as server, browsing(f"{base_url_of(server)}/docs", tmp_path) as page:
        operation = operation_of(document, "get", "/v1/models")
        await page.run(AUTHORIZE % {"scheme": "X-API-Key", "fill": fill})
        status, body = await page.run(TRY % {"operation": operation})
        assert status == "200", body
        assert "iris" in body


@needs_a_browser
async def test_the_authorize_button_logs_a_person_in(embedded_world: World, tmp_path: Path) -> None:
    tenant = await embedded_world.tenant()
    document = (await embedded_world.client.get("/openapi.json")).json()
    fill = f"""
        await type("input[name=username], #oauth_username", "{tenant.owner_email}", box);
        await type("input[type=password], #oauth_password", "{PASSWORD}", box);
    """
    async with listening(embedded_world.app) as server, browsing(f"{base_url_of(server)}/docs", tmp_path) as page:
        operation = operation_of(document, "get", "/v1/me")
        await page.run(AUTHORIZE % {"scheme": "Token URL", "fill": fill})
        status, body = await page.run(TRY % {"operation": operation})
        assert status == "200", body
        assert tenant.owner_email in body
        assert page.complaints == []
