"""A server that is told to end: what it accepted it answers, what it answered is booked, and nothing stays behind."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from tests.databases import connected, sqlite_url
from tests.integration.conftest import NewSite
from tests.integration.customers import KeyName
from tests.integration.forecourt_process import ServerProcess, Site
from tests.integration.load import Load, http_request, require_booked_once

pytestmark = [pytest.mark.anyio, pytest.mark.process]

LOOPS: tuple[tuple[str, KeyName], ...] = (*(("acme", "api_key"),) * 4, *(("acme", "test_key"),) * 4)
SOLD_BEFORE = 200
LOAD_WITHIN_S = 60.0
GRACE_S = 20.0
SHORT_GRACE_S = 2
# Ending the interpreter and a loaded machine.
LEEWAY_S = 10.0


async def test_everything_accepted_is_answered_and_booked(
    make_site: NewSite, database_settings: dict[str, str]
) -> None:
    site = make_site(**database_settings)
    server = site.start()
    load = await asked_to_end_under_load(server)
    assert server.exit_code() == 0
    require_nothing_left(site, server)
    ledger = booked(site.database_url)
    require_booked_once(load, "acme", ledger)
    # An event more than answers would be a request that was accepted, booked, and cut off.
    assert {event["id"] for event in ledger} == {answered.body["id"] for answered in load.sold}


async def test_a_request_on_its_way_is_answered_and_one_that_never_arrives_holds_nobody_up(make_site: NewSite) -> None:
    server = make_site(SHUTDOWN_GRACE_S=str(SHORT_GRACE_S)).start()
    body = json.dumps({"model": "iris", "inputs": [[5.1, 3.5, 1.4, 0.2]]})
    reader, writer = await half_a_request(server, body)
    _, silent = await half_a_request(server, body)
    started_s = time.monotonic()
    server.ask_to_end(signal.SIGINT)
    await anyio.to_thread.run_sync(server.await_line, "message", "Shutting down")
    writer.write(body.encode())
    async with asyncio.timeout(GRACE_S):
        status, _, answer = (await reader.read()).partition(b"\r\n")
    assert status == b"HTTP/1.1 200 OK"
    assert b'"label":"setosa"' in answer.replace(b" ", b"")
    code = await anyio.to_thread.run_sync(server.exit_code)
    took_s = time.monotonic() - started_s
    assert code == 0
    assert SHORT_GRACE_S <= took_s < SHORT_GRACE_S + LEEWAY_S
    assert len(booked(sqlite_url(server.folder))) == 1
    for each in (writer, silent):
        each.close()
        await each.wait_closed()


async def asked_to_end_under_load(server: ServerProcess) -> Load:
    """Ask it to end while all loops are running; return what they got."""
    load = Load(server.base_url, server.credentials, expected=frozenset({200, 503}))
    with anyio.fail_after(LOAD_WITHIN_S):
        async with anyio.create_task_group() as loops:
            for slug, key in LOOPS:
                loops.start_soon(load.keep_asking, slug, key)
            await load.has_sold(SOLD_BEFORE)
            started_s = time.monotonic()
            server.ask_to_end()
    await anyio.to_thread.run_sync(server.exit_code)
    assert time.monotonic() - started_s < GRACE_S + LEEWAY_S
    return load


def booked(url: str) -> list[dict[str, Any]]:
    """Return the ledger as its file or server has it, with the API's names."""
    with connected(url) as connection:
        rows = connection.execute(text("SELECT *, event_id AS id, credential_id AS key_id FROM usage_events"))
        return [dict(row) for row in rows.mappings()]


def require_nothing_left(site: Site, server: ServerProcess) -> None:
    assert not server.has_children()
    assert list(site.temp.iterdir()) == []
    expected = {".setup.lock", "demo.json", "demo-secrets.json"}
    if "DATABASE_URL" not in site.settings:
        # Without a write-ahead log: the database was closed, not left.
        expected.add("forecourt.db")
    # A site that was given its models has trained none.
    training = site.folder / "training"
    assert set(_names(site.folder)) - {training.name} == expected
    assert not training.exists() or _names(training) == []
    assert server.logged[-1]["message"].startswith("Finished server process")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def half_a_request(server: ServerProcess, body: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a prediction without its body; return once the server has begun to wait for it."""
    host, port = server.base_url.removeprefix("http://").split(":")
    key = server.credentials["tenants"][0]["api_key"]
    reader, writer = await asyncio.open_connection(host, int(port))
    # The answer to "Expect" says that the application has begun to read.
    writer.write(http_request(server.base_url, key, body, "Connection: close", "Expect: 100-continue").encode())
    async with asyncio.timeout(GRACE_S):
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert await reader.readline() == b"\r\n"
    return reader, writer
