"""A server under load while one of its stores goes away, and what has to be true of it then."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx

from tests.integration.customers import Customers, KeyName
from tests.integration.forecourt_process import ServerProcess
from tests.integration.load import Answered, Load, require_booked_once

log = logging.getLogger(__name__)

LOOPS: tuple[KeyName, ...] = ("api_key", "api_key", "api_key", "test_key")
SLUG = "acme"
PAUSE_S = 0.04
"""Of each loop: a hundred predictions a second, so that whatever happens in between, some are under way."""

WITHIN_S = 60.0

DATABASE_BOUND_S = 2.0
SLACK_S = 3.0
"""What a loaded machine adds to a bound: the bounds themselves are tested one floor below."""

MAY_BLOCK_S = 1.8
"""No part of the server may hold its event loop; a loaded machine holds it for a while now and then."""

LOOK_EVERY_S = 0.05
"""Often enough to see that."""


@dataclass(slots=True)
class Watch:
    """What is seen from outside: how long the event loop takes to say that it lives, and what /readyz says."""

    lives_s: list[float] = field(default_factory=list)
    ready: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    async def keep_looking(self, base_url: str) -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=30, verify=False) as client:
            while True:
                began_s = time.monotonic()
                assert (await client.get("/livez")).status_code == 200
                self.lives_s.append(time.monotonic() - began_s)
                await anyio.sleep(LOOK_EVERY_S)

    async def look_again(self, base_url: str) -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=30, verify=False) as client:
            while True:
                answer = await client.get("/readyz")
                states = {each["name"]: each["status"] for each in answer.json()["resources"]}
                self.ready.append((answer.status_code, states))
                await anyio.sleep(0.1)


@dataclass(slots=True)
class Outage:
    """One server under load. Statuses other than 200, 429 and 503 end the test at once."""

    server: ServerProcess
    load: Load
    watch: Watch

    @property
    def answered(self) -> list[Answered]:
        return self.load.answered

    async def sells(self, count: int) -> None:
        """Wait until so many more requests have got a 200."""
        with anyio.fail_after(WITHIN_S):
            await self.load.has_sold(len(self.load.sold) + count)

    async def refuses(self, count: int) -> None:
        """Wait until so many more requests have got a 503."""
        until = len(self.refusals) + count
        with anyio.fail_after(WITHIN_S):
            while len(self.refusals) < until:
                await anyio.sleep(0.01)

    @property
    def refusals(self) -> list[Answered]:
        return [each for each in self.answered if each.status == 503]

    async def is_ready(self, *, status: int = 200, **resources: str) -> None:
        """Wait until /readyz says so."""
        self.watch.ready.clear()
        with anyio.fail_after(WITHIN_S):
            while not any(code == status and resources.items() <= states.items() for code, states in self.watch.ready):
                await anyio.sleep(0.02)

    async def booked(self) -> list[dict[str, Any]]:
        """Return the ledger, once everything that was sold is in it."""
        wanted = {each.body["id"] for each in self.load.sold}
        async with Customers(self.server.base_url, self.load.credentials) as customers:
            with anyio.fail_after(WITHIN_S):
                while True:
                    found = await customers[SLUG].ledger()
                    if wanted <= {event["id"] for event in found}:
                        return found
                    await anyio.sleep(0.1)

    def require_bounded(self, bound_s: float) -> None:
        slowest = max(self.answered, key=lambda each: each.took_s)
        assert slowest.took_s < bound_s + SLACK_S, slowest
        assert max(self.watch.lives_s) < MAY_BLOCK_S

    def report(self, name: str, since: int) -> None:
        """Say how long answers took since the so-manyth: seen with ``pytest --log-cli-level=INFO``."""
        took = sorted(each.took_s * 1000 for each in self.answered[since:])
        statuses = {each.status: 0 for each in self.answered[since:]}
        for each in self.answered[since:]:
            statuses[each.status] += 1
        p50, p95, p99 = (took[min(len(took) - 1, int(len(took) * part))] for part in (0.5, 0.95, 0.99))
        log.info("%s: %s p50 %.1f p95 %.1f p99 %.1f max %.1f ms", name, statuses, p50, p95, p99, took[-1])


@asynccontextmanager
async def under_load(server: ServerProcess) -> AsyncIterator[Outage]:
    """Ask a server all the time for the length of the block; in the end its ledger is compared with its answers."""
    load = Load(server.base_url, server.credentials, expected=frozenset({200, 429, 503}))
    outage = Outage(server, load, Watch())
    async with anyio.create_task_group() as asking:
        async with anyio.create_task_group() as watching:
            watching.start_soon(outage.watch.keep_looking, server.base_url)
            watching.start_soon(outage.watch.look_again, server.base_url)
            for key in LOOPS:
                asking.start_soon(partial(load.keep_asking, SLUG, key, sizes=(1, 2, 5), pause_s=PAUSE_S))
            yield outage
            watching.cancel_scope.cancel()
        load.stopping = True
    assert load.unanswered == []
    assert all("traceback" not in line for line in map(str.lower, server.stderr.splitlines()))
    require_booked_once(load, SLUG, await outage.booked())


async def in_thread(work: Callable[[], object]) -> None:
    """Do something to a store, while the loops go on."""
    await anyio.to_thread.run_sync(work)
