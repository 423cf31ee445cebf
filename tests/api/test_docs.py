"""The documentation page: it needs no internet, and its policy lets nothing else in.

The page itself is looked at in a real browser where a ``chromium`` is on PATH; everywhere else by its references.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tests.api.conftest import World
from tests.api.test_predictions import problem

pytestmark = pytest.mark.anyio

CHROMIUM = shutil.which("chromium")
BROWSER_WITHIN_S = 90.0


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


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """Serve a running application on a port; yield its address."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


if CHROMIUM is not None:
    BROWSER = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
        # No name can be looked up and no address reached but ours: as on a machine without internet.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--enable-logging=stderr", "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom"),
    ]

    async def test_a_browser_without_internet_shows_every_route(embedded_world: World, tmp_path: Path) -> None:
        async with listening(embedded_world.app) as base_url:
            browser = await asyncio.create_subprocess_exec(
                *BROWSER,
                f"--user-data-dir={tmp_path}",
                f"{base_url}/docs",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(BROWSER_WITHIN_S):
                    stdout, stderr = await browser.communicate()
            finally:
                if browser.returncode is None:
                    browser.kill()
                    await browser.wait()
        page, log = stdout.decode(), stderr.decode()
        document = (await embedded_world.client.get("/openapi.json")).json()
        shown = set(re.findall(r'data-path="([^"]+)"', page))
        assert shown == set(document["paths"]), log
        assert "Authorize" in page
        assert "Refused to" not in log, "the page does nothing that its own policy forbids"
        assert "Uncaught" not in log
