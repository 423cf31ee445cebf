"""The worker as a process of its own: webhooks, letters and readings reach who they are for."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.memory.metrics import NullMetrics
from backend.services.tenants import TenantService
from tests.api.conftest import SECRETS, World, embedded_settings, running
from tests.billing_receiver import BillingReceiver, billing_receiver
from tests.contracts.ledgers import an_event
from tests.http_server import HttpServer, http_server
from tests.integration.forecourt_process import END_WITHIN_S, environment, forecourt
from tests.warm_process import WarmProcess

pytestmark = [pytest.mark.anyio, pytest.mark.process]


async def until(arrived: Callable[[], bool]) -> None:
    async with asyncio.timeout(END_WITHIN_S):
        while not arrived():
            await asyncio.sleep(0.02)


def settings_of(world: World, folder: Path, receiver: BillingReceiver) -> dict[str, str]:
    return {
        "DATABASE_URL": world.database_url,
        "MAIL_FOLDER": str(folder / "mail"),
        "OUTBOUND_ALLOWED_NETWORKS": "127.0.0.1/32",
        "BILLER_KIND": "openmeter",
        "BILLER_URL": receiver.url,
        "BILLER_TOKEN": "sk_test_receiver",
        "LOG_FORMAT": "json",
        **{name.upper(): str(value) for name, value in SECRETS.items()},
    }


@contextmanager
def worker(settings: dict[str, str], output: Path) -> Iterator[WarmProcess]:
    """A worker that goes on; what it says is written to a file."""
    with output.open("wb") as said:
        process = WarmProcess("backend.cli", "worker", env=environment(settings), stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(END_WITHIN_S)


async def test_the_worker_tells_whoever_is_to_be_told(tmp_path: Path) -> None:
    async with (
        running(embedded_settings(tmp_path), "outgoing") as world,
        http_server() as hook,
        billing_receiver("openmeter") as biller,
    ):
        tenant = await world.tenant("free")
        await subscribe(world, tenant, hook)
        await use(world, tenant.id, tenant.live.id, 600)
        said = tmp_path / "output"
        with worker(settings_of(world, tmp_path, biller), said) as process:
            await until(lambda: bool(hook.received))
            await until(lambda: bool(biller.kept))
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, END_WITHIN_S)
        output = said.read_text()
        assert code == 0, output
        assert b"usage.threshold_reached" in hook.received[0].body
        assert [(each.customer, each.value) for each in biller.kept.values()] == [("cus_1", 600)]
        letters = [path.read_text() for path in (tmp_path / "mail").glob("*.eml")]
        assert any(tenant.owner_email in letter and "50" in letter for letter in letters)
        for secret in (*SECRETS.values(), "sk_test_receiver", hook.received[0].headers["webhook-signature"]):
            assert str(secret) not in output


async def test_usage_is_pushed_once_by_hand(tmp_path: Path) -> None:
    async with (
        running(embedded_settings(tmp_path), "outgoing") as world,
        billing_receiver("openmeter") as biller,
    ):
        tenant = await world.tenant()
        await know(world, tenant.slug)
        await use(world, tenant.id, tenant.live.id, 5)
        settings = settings_of(world, tmp_path, biller)
        assert await by_hand(settings) == (0, "readings taken: 1, not taken: 0")
        assert await by_hand(settings) == (0, "readings taken: 0, not taken: 0")
        await use(world, tenant.id, tenant.live.id, 2)
        biller.will(biller.broken)
        assert await by_hand(settings) == (1, "readings taken: 0, not taken: 1")
        del settings["BILLER_KIND"]
        status, said = await by_hand(settings)
        assert status == 1
        assert "FORECOURT_BILLER_KIND" in said


async def by_hand(settings: dict[str, str]) -> tuple[int, str]:
    ended = await asyncio.to_thread(forecourt, "usage", "push", "--once", settings=settings)
    return ended.returncode, (ended.stderr + ended.stdout).strip().splitlines()[-1]


async def subscribe(world: World, tenant: Any, hook: HttpServer) -> None:
    owner = await world.log_in(tenant.owner_email)
    made = await world.client.post("/v1/webhooks", json={"url": hook.url("/hook")}, headers=owner)
    assert made.status_code == 201, made.text
    await know(world, tenant.slug)


async def know(world: World, slug: str) -> None:
    resources = world.resources
    async with resources.store.unit_of_work() as unit:
        service = TenantService(
            unit=unit, passwords=resources.password_hasher, admission=resources.admission, clock=resources.clock
        )
        await service.set_biller_customer(slug, "cus_1")


async def use(world: World, tenant_id: Any, key_id: str, units: int) -> None:
    store: Any = world.resources.store
    ledger = GroupCommitLedger(store, metrics=NullMetrics())
    ledger.start()
    await ledger.append(
        tenant_id,
        an_event(
            tenant_id,
            occurred_at=world.resources.clock.now(),
            credential_id=key_id,
            units=units,
            cached_units=0,
            billable_units=units,
        ),
    )
    await ledger.aclose()
