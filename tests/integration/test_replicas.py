"""Several server processes on the same PostgreSQL and Redis: two starts, and one start with two workers."""

from collections.abc import Sequence

import anyio
import pytest

from tests.integration.conftest import NewSite
from tests.integration.customers import Customer, Customers

pytestmark = [pytest.mark.anyio, pytest.mark.process]

FREE_ROWS_PER_MINUTE = 60


async def test_two_starts_share_everything(make_site: NewSite, shared_settings: dict[str, str]) -> None:
    site = make_site(**shared_settings)
    one = site.start()
    async with Customers(one.base_url, one.credentials) as here:
        two = site.start()
        async with Customers(two.base_url, two.credentials) as there:
            assert two.base_url != one.base_url
            await require_shared_tokens(here["acme"], there["acme"])
            await require_shared_keys(here["acme"], there["acme"])
            await require_shared_limits([here["globex"], there["globex"]])
            await require_shared_ledger(here["acme"], there["acme"])


async def require_shared_tokens(here: Customer, there: Customer) -> None:
    token = await here.admin()
    mine, theirs = [await each.client.get("/v1/me", headers=token) for each in (here, there)]
    assert mine.status_code == theirs.status_code == 200
    assert mine.json() == theirs.json()


async def require_shared_keys(here: Customer, there: Customer) -> None:
    """Make a key here, use it there, revoke it here: the next request there is refused."""
    token = await here.admin()
    made = await here.client.post("/v1/api-keys", json={"name": "shared", "environment": "live"}, headers=token)
    assert made.status_code == 201
    key = {"Authorization": f"Bearer {made.json()['secret']}"}
    for customer in (there, here, there):
        assert (await customer.predict(1, headers=key)).status_code == 200
    revoked = await here.client.post(f"/v1/api-keys/{made.json()['id']}/revoke", headers=token)
    assert revoked.status_code == 200
    for customer in (there, here):
        refused = await customer.predict(1, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (401, "key-revoked")


async def require_shared_limits(replicas: Sequence[Customer]) -> None:
    """Spend a minute's rows by turns: the next many rows are refused everywhere."""
    rows = FREE_ROWS_PER_MINUTE // 4
    for customer in (*replicas, *replicas):
        assert (await customer.predict(rows)).status_code == 200
    for customer in replicas:
        refused = await customer.predict(FREE_ROWS_PER_MINUTE // 2)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert int(refused.headers["X-Quota-Used"]) == FREE_ROWS_PER_MINUTE


async def require_shared_ledger(here: Customer, there: Customer) -> None:
    mine, theirs = await here.ledger(), await there.ledger()
    assert mine == theirs
    assert len(mine) == 3


async def test_several_workers_serve_as_one(make_site: NewSite, shared_settings: dict[str, str]) -> None:
    server = make_site(**shared_settings).start("--workers", "2")
    async with Customers(server.base_url, server.credentials) as customers:
        with anyio.fail_after(30):
            while len(server.worker_pids) < 2:
                await anyio.sleep(0.05)
        answers: list[int] = []

        async def ask() -> None:
            # A connection each, so that both workers get some.
            async with Customers(server.base_url, server.credentials) as one:
                answers.append((await one["globex"].predict(5)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(24):
                tasks.start_soon(ask)
        sold = answers.count(200)
        assert set(answers) == {200, 429}
        # Twelve at once; a row a second is added meanwhile.
        assert 12 <= sold <= 18
        assert len(await customers["globex"].ledger()) == sold
    assert server.terminate() == 0
    with anyio.fail_after(30):
        while server.has_children():
            await anyio.sleep(0.05)
