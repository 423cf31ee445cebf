"""The embedded shape on a file that can only be read: nothing is sold, everything can be read, and it recovers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from backend.adapters.db.sqlite_connection import DirectConnection
from tests.api.conftest import World, embedded_settings, running

pytestmark = pytest.mark.anyio

WITHIN_S = 60.0


class Disk:
    """Whether connections to SQLite may write: what a file on a disk that was remounted read-only says of itself.

    File modes would not do: they do not bind root, under whom containers run tests.
    """

    def __init__(self) -> None:
        self._is_read_only = False
        self._connections: list[DirectConnection] = []

    async def remount(self, *, read_only: bool) -> None:
        """Let all connections write, or none of them: those that are open, and those to come."""
        self._is_read_only = read_only
        for connection in self._connections:
            await connection.send(lambda database: database.execute(self._pragma()))

    def on_connect(self, connection: Any, *_: Any) -> None:
        driver = getattr(connection, "driver_connection", None)
        if isinstance(driver, DirectConnection):
            self._connections.append(driver)
        cursor = connection.cursor()
        cursor.execute(self._pragma())
        cursor.close()

    def _pragma(self) -> str:
        return f"PRAGMA query_only = {int(self._is_read_only)}"


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    event.listen(Pool, "connect", disk.on_connect)
    yield disk
    event.remove(Pool, "connect", disk.on_connect)


@pytest.fixture
async def own_world(tmp_path: Path, disk: Disk) -> AsyncIterator[World]:
    async with running(embedded_settings(tmp_path), "read-only") as world:
        yield world


async def test_on_a_read_only_file_nothing_is_sold_and_everything_is_read(own_world: World, disk: Disk) -> None:
    world, tenant = own_world, await own_world.tenant()
    token = await world.log_in(tenant.owner_email)
    assert (await world.predict(tenant.live)).status_code == 200
    await disk.remount(read_only=True)
    for _ in range(3):
        refused = await world.predict(tenant.live)
        assert (refused.status_code, refused.json()["code"]) == (503, "metering-unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    written = await world.client.post(
        "/v1/api-keys", json={"name": "late", "environment": "live", "scopes": ["predict"]}, headers=token
    )
    assert (written.status_code, written.json()["code"]) == (503, "store-unavailable")
    for path in ("/v1/me", "/v1/api-keys", "/v1/tenant", "/v1/models", "/v1/limits", "/v1/usage/summary"):
        assert (await world.client.get(path, headers=token)).status_code == 200, path
    every_path = (await world.client.get("/openapi.json")).json()["paths"]
    for path in [path for path, methods in every_path.items() if path.startswith("/v1/") and "get" in methods]:
        answer = await world.client.get(path.replace("{", "").replace("}", ""), headers=token)
        assert answer.status_code < 500, path
    assert (await world.client.get("/livez")).status_code == 200
    ready = await world.client.get("/readyz")
    assert ready.status_code == 503
    assert {each["name"]: each["status"] for each in ready.json()["resources"]}["ledger"] == "down"
    await disk.remount(read_only=False)
    with anyio.fail_after(WITHIN_S):
        while (await world.predict(tenant.live)).status_code != 200:
            await anyio.sleep(0.02)
    assert (await world.client.get("/readyz")).status_code == 200
    totals = (await world.client.get("/v1/usage/summary", headers=token)).json()["totals"]
    assert totals["events"] == 2, "whoever was refused is not charged"
