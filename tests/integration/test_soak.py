"""Two servers on one PostgreSQL and one Redis, while faults come at random: ledger = what clients saw = settled quota.

The seed is fixed, so the order of faults is. ``FORECOURT_SOAK_S`` makes it longer, ``FORECOURT_SOAK_SEED`` another one.
What a client did not see may be in the ledger: an answer that was lost on the wire, or a commit that its server was
told had failed. What it saw is there, once.
"""

import itertools
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from redis.asyncio import Redis

from backend.adapters.db.engine import open_engine
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.redis import keys, open_line
from backend.adapters.redis.quota_reconciliation import RedisQuotaReconciliation
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.domain.api_keys import Environment
from backend.domain.clock import SystemClock
from backend.domain.ids import TenantId
from tests.integration.conftest import NewSite
from tests.integration.customers import Customers, KeyName
from tests.integration.database_outages import in_thread
from tests.integration.forecourt_process import ServerProcess, Site
from tests.server_process import Server
from tests.servers import private_postgres_server, private_redis_server

pytestmark = [pytest.mark.anyio, pytest.mark.process]

log = logging.getLogger(__name__)

SOAK_S = float(os.environ.get("FORECOURT_SOAK_S", "15"))
SEED = int(os.environ.get("FORECOURT_SOAK_SEED", "4"))
LOOPS: tuple[tuple[str, KeyName, bool], ...] = (
    ("acme", "api_key", False),
    ("acme", "api_key", True),
    ("acme", "test_key", False),
    ("globex", "api_key", False),
    ("globex", "api_key", True),
)
TRIES = 4
BOUND_S = 12.0
"""No request waits longer, on a loaded machine that also restarts servers."""
HEALS_WITHIN_S = 90.0

_numbers = itertools.count(1)


@dataclass(slots=True)
class Seen:
    """What the clients of one tenant saw."""

    units: dict[str, int] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


@dataclass(slots=True)
class Soak:
    """Two servers, their stores, and what was seen of them."""

    site: Site
    postgres: Server
    redis: Server
    servers: list[ServerProcess]
    rng: random.Random
    seen: dict[str, Seen] = field(default_factory=lambda: {"acme": Seen(), "globex": Seen()})
    stopping: bool = False

    async def keep_asking(self, slug: str, key: KeyName, is_idempotent: bool, seed: int) -> None:
        rng, seen = random.Random(seed), self.seen[slug]
        credentials = next(each for each in self.servers[0].credentials["tenants"] if each["slug"] == slug)
        async with httpx.AsyncClient(timeout=30, verify=False) as client:
            while not self.stopping:
                number = next(_numbers)
                headers = {"Authorization": f"Bearer {credentials[key]}"}
                if is_idempotent:
                    headers["Idempotency-Key"] = f"order-{number}"
                rows = [[round(rng.random(), 6) for _ in range(4)] for _ in range(rng.choice((1, 2, 3)))]
                for attempt in range(TRIES):
                    headers["X-Request-Id"] = f"soak-{number}-{attempt}"
                    status = await self._ask(client, seen, headers, rows, rng)
                    if status in {200, 429} or not is_idempotent:
                        break
                    await anyio.sleep(0.1)
                await anyio.sleep(0.02 if slug == "acme" else 0.4)

    async def _ask(
        self, client: httpx.AsyncClient, seen: Seen, headers: dict[str, str], rows: Any, rng: random.Random
    ) -> int:
        began_s = time.monotonic()
        try:
            answer = await client.post(
                f"{rng.choice(self.servers).base_url}/v1/predict",
                json={"model": "iris", "inputs": rows},
                headers=headers,
            )
        except httpx.TransportError:
            seen.unsure.add(headers["X-Request-Id"])
            seen.statuses["lost"] += 1
            return 0
        seen.slowest_s = max(seen.slowest_s, time.monotonic() - began_s)
        seen.statuses[str(answer.status_code)] += 1
        if answer.status_code == 200:
            seen.units[answer.json()["id"]] = len(rows)
        else:
            assert answer.status_code in {409, 429, 503}, answer.text
            seen.unsure.add(headers["X-Request-Id"])
        return answer.status_code

    async def kill_redis(self) -> None:
        await in_thread(self.redis.kill)
        await anyio.sleep(self.rng.uniform(0.3, 1.5))
        await in_thread(self.redis.start_again)

    async def pause_redis(self) -> None:
        self.redis.pause()
        await anyio.sleep(self.rng.uniform(0.3, 1.5))
        self.redis.resume()

    async def flush_redis(self) -> None:
        """What waits for the ledger would be lost with everything else: that is what a flush means."""
        client = Redis.from_url(self.redis.url)
        if not await client.xlen(keys.usage_spill()):
            await client.flushall()
        await client.aclose()

    async def kill_postgres(self) -> None:
        await in_thread(self.postgres.kill)
        await anyio.sleep(self.rng.uniform(0.3, 1.5))
        await in_thread(self.postgres.start_again)

    async def pause_postgres(self) -> None:
        await in_thread(self.postgres.pause)
        await anyio.sleep(self.rng.uniform(0.5, 3.0))
        await in_thread(self.postgres.resume)

    async def kill_server(self) -> None:
        index = self.rng.randrange(2)
        os.killpg(self.servers[index].pid, signal.SIGKILL)
        await in_thread(self.servers[index].exit_code)
        again = self.site.start()
        await in_thread(lambda: again.base_url)
        self.servers[index] = again

    async def strike(self, until_s: float) -> list[str]:
        faults: tuple[Callable[[], Awaitable[None]], ...] = (
            self.kill_redis,
            self.pause_redis,
            self.flush_redis,
            self.kill_postgres,
            self.pause_postgres,
            self.kill_server,
        )
        struck: list[str] = []
        while time.monotonic() < until_s or len(struck) < len(faults):
            # Each once, then any: a short run has seen all of them.
            fault = faults[len(struck)] if len(struck) < len(faults) else self.rng.choice(faults)
            struck.append(fault.__name__)
            log.info("fault: %s", fault.__name__)
            await fault()
            await anyio.sleep(self.rng.uniform(0.5, 2.0))
        return struck


@pytest.fixture
def stores() -> Iterator[tuple[Server, Server]]:
    with private_postgres_server(durable=True) as postgres, private_redis_server(keeps_writes=True) as redis:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE forecourt")
        yield postgres, redis


async def test_the_ledger_is_what_clients_saw_and_the_quota_is_the_ledger(
    make_site: NewSite, stores: tuple[Server, Server]
) -> None:
    postgres, redis = stores
    url = f"{postgres.url.rpartition('/')[0]}/forecourt".replace("postgresql://", "postgresql+psycopg://", 1)
    site = make_site(DATABASE_URL=url, REDIS_URL=redis.url, REDIS_TIMEOUT_S="0.5", REPLICAS="2", LOG_FORMAT="json")
    servers = [site.start()]
    await in_thread(lambda: servers[0].base_url)
    servers.append(site.start())
    await in_thread(lambda: servers[1].base_url)
    soak = Soak(site, postgres, redis, servers, random.Random(SEED))
    async with anyio.create_task_group() as asking:
        for number, (slug, key, is_idempotent) in enumerate(LOOPS):
            asking.start_soon(soak.keep_asking, slug, key, is_idempotent, SEED + number)
        struck = await soak.strike(time.monotonic() + SOAK_S)
        await anyio.sleep(2)
        soak.stopping = True
    log.info("faults %s, seen %s", struck, {slug: dict(seen.statuses) for slug, seen in soak.seen.items()})
    async with aclosing(Redis.from_url(redis.url)) as client:
        await everything_is_drained(client)
        for slug in soak.seen:
            await require_what_was_seen(soak, slug)
        await require_quota_of_the_ledger(client, redis.url, url)


async def everything_is_drained(client: Redis) -> None:
    with anyio.fail_after(HEALS_WITHIN_S):
        while await client.xlen(keys.usage_spill()):
            await anyio.sleep(0.2)


async def require_what_was_seen(soak: Soak, slug: str) -> None:
    seen, server = soak.seen[slug], soak.servers[0]
    async with Customers(server.base_url, server.credentials) as customers:
        ledger = await customers[slug].ledger()
    booked = {event["id"]: event for event in ledger}
    assert len(booked) == len(ledger)
    assert seen.units
    assert {event_id: booked[event_id]["units"] for event_id in seen.units} == seen.units
    unheard_of = {event["request_id"] for event_id, event in booked.items() if event_id not in seen.units}
    assert unheard_of <= seen.unsure
    assert seen.slowest_s < BOUND_S


async def require_quota_of_the_ledger(client: Redis, redis_url: str, url: str) -> None:
    """After a comparison with the ledger, counters differ from it by what dead servers still hold on lease at most."""
    database = Database(open_engine(url, pool_size=2, timeout_s=10))
    clock = SystemClock()
    reader = SqlUsageReader(database, clock)
    line = open_line(redis_url, 5)
    spill = RedisUsageSpill(line, line, limit=1, metrics=NullMetrics())
    await RedisQuotaReconciliation(line, reader, spill, clock, metrics=NullMetrics()).run()
    # What is left to repair is nothing.
    assert await RedisQuotaReconciliation(line, reader, spill, clock, metrics=NullMetrics()).run() == 0
    compared = 0
    async for key in client.scan_iter(match="fc:{*}:quota:*", _type="hash"):
        name = key.decode()
        tenant, _, rest = name.removeprefix("fc:{").partition("}:quota:")
        scope, subject, environment, period = rest.split(":")
        used = await client.hget(name, "u")
        if used is None:
            continue
        fields: Any = await client.hkeys(name)
        on_lease = sum(int(field.split(b":")[0]) for field in fields if b":" in field)
        credential_id = subject if scope == "key" else None
        booked = await reader.units_in_period(TenantId(tenant), Environment(environment), period, credential_id)
        assert 0 <= booked - int(used) <= on_lease, (name, booked, used, on_lease)
        compared += 1
    assert compared
    await database.aclose()
    await line.aclose()
