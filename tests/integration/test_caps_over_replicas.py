"""Two server processes on one PostgreSQL and one Redis: caps hold over both, and one tenant's flood is its own."""

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import pytest

from tests.databases import postgres_database
from tests.integration.customers import Customer, Customers
from tests.integration.forecourt_process import ServerProcess, new_site
from tests.redis_client import fresh_redis

pytestmark = [pytest.mark.anyio, pytest.mark.process]

CAP = 40
FLOODS, ASKED = 4, 100


@pytest.fixture(scope="module")
def servers(
    postgres_url: str, redis_url: str, models_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[ServerProcess]]:
    """Two servers for all of these tests: each caps a key of its own."""
    with postgres_database(postgres_url, is_migrated=True) as url:
        settings = {
            "DATABASE_URL": url,
            "REDIS_URL": fresh_redis(redis_url),
            "REDIS_TIMEOUT_S": "2",
            "MODELS": str(models_root),
        }
        with new_site(tmp_path_factory.mktemp("site"), **settings) as site:
            first = site.start()
            # The second goes on with what the first has set up.
            assert first.base_url
            yield [first, site.start()]


@pytest.fixture
async def replicas(servers: list[ServerProcess]) -> AsyncIterator[list[Customers]]:
    one, two = servers
    async with Customers(one.base_url, one.credentials) as here, Customers(two.base_url, two.credentials) as there:
        yield [here, there]


async def a_key(customer: Customer, **limits: Any) -> dict[str, str]:
    body = {"name": "capped", "environment": "live", **limits}
    made = await customer.client.post("/v1/api-keys", json=body, headers=await customer.admin())
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['secret']}"}


async def asked_at_once(replicas: list[Customers], key: dict[str, str], times: int) -> tuple[Counter[str], float]:
    """Ask so many times at once, by turns of the servers; return what was answered, and how long it took."""
    answered: Counter[str] = Counter()

    async def ask(customer: Customer) -> None:
        answer = await customer.predict(1, headers=key)
        answered["ok" if answer.status_code == 200 else answer.json()["code"]] += 1

    # Connections are opened, and the key is known, before anybody spends: asking for no model costs nothing.
    for each in replicas:
        assert (await each["acme"].predict(1, headers=key, model="none")).status_code == 404
    began_s = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for _, each in zip(range(times), itertools.cycle(replicas), strict=False):
            tasks.start_soon(ask, each["acme"])
    return answered, time.monotonic() - began_s


async def test_l1_over_two_servers_exactly_the_quota_of_four_times_as_many_passes(replicas: list[Customers]) -> None:
    acme = replicas[0]["acme"]
    key = await a_key(acme, monthly_quota=CAP)
    before = len(await acme.ledger())
    answered, _ = await asked_at_once(replicas, key, 4 * CAP)
    assert answered == {"ok": CAP, "quota-exceeded": 3 * CAP}
    assert len(await acme.ledger()) - before == CAP


async def test_l1_over_two_servers_exactly_the_rate_of_four_times_as_many_passes(replicas: list[Customers]) -> None:
    acme = replicas[0]["acme"]
    key = await a_key(acme, rate_limit={"per_minute": CAP})
    before = len(await acme.ledger())
    answered, took_s = await asked_at_once(replicas, key, 4 * CAP)
    assert set(answered) == {"ok", "rate-limited"}
    # What drains while they are asked may be asked again: exactly the cap, on a machine that is quick enough.
    assert CAP <= answered["ok"] <= CAP + int(took_s * CAP / 60)
    assert len(await acme.ledger()) - before == answered["ok"]


async def test_l8_a_tenant_far_over_its_limit_takes_nothing_from_another(replicas: list[Customers]) -> None:
    """Who is refused stands in line before nobody: hardly any of the flood is answered while another tenant waits."""
    acme, globex = replicas[0]["acme"], replicas[0]["globex"]
    flood: Counter[int] = Counter()
    passed_by: list[int] = []
    # Its limit is sixty a minute: ten times that is refused, at least.
    has_flooded = anyio.Event()

    async def ask_over_and_over() -> None:
        while True:
            flood[(await globex.predict(1)).status_code] += 1
            if flood[429] >= 600:
                has_flooded.set()

    began_s = time.monotonic()
    await globex.predict(30)
    async with anyio.create_task_group() as tasks:
        for _ in range(FLOODS):
            tasks.start_soon(ask_over_and_over)
        for _ in range(ASKED):
            before = flood.total()
            answer = await acme.predict(1)
            passed_by.append(flood.total() - before)
            assert answer.status_code == 200, answer.text
        await has_flooded.wait()
        tasks.cancel_scope.cancel()
    took_s = time.monotonic() - began_s
    assert set(flood) <= {200, 429}
    assert flood[200] <= 60 + took_s
    # A prediction takes a few times what a refusal does, and so do the connections of the flood. In line behind them
    # it would be all the hundreds.
    assert median(passed_by) < 10 * FLOODS
