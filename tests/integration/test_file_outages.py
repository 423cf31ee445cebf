"""The embedded shape when its file cannot be written: nothing is sold, nothing is half-written, and it recovers."""

import resource
from pathlib import Path

import anyio
import pytest
from sqlalchemy.engine import make_url

from tests.databases import writers_held_off
from tests.integration.conftest import NewSite
from tests.integration.customers import Customers
from tests.integration.database_outages import DATABASE_BOUND_S, SLUG, WITHIN_S, Outage, in_thread, under_load
from tests.integration.forecourt_process import Site

pytestmark = [pytest.mark.anyio, pytest.mark.process]

FEW = 30
FULL_AT_BYTES = 64 * 1024
"""More than the server's log takes, less than the database's own journal after a few commits."""

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def site(make_site: NewSite) -> Site:
    return make_site(LOG_FORMAT="json")


async def test_a_full_disk_sells_nothing_and_writes_nothing_by_half(site: Site) -> None:
    server = site.start()
    async with under_load(server) as outage:
        await outage.sells(FEW)
        with anyio.fail_after(WITHIN_S):
            while journal_of(site).stat().st_size <= FULL_AT_BYTES:
                await outage.sells(1)
        before = len(outage.answered)
        # Past this size the kernel refuses every write, as it does when the disk is full.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FULL_AT_BYTES, resource.RLIM_INFINITY))
        await outage.refuses(FEW)
        await outage.is_ready(status=503, ledger="down")
        outage.report("disk full", before)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, UNLIMITED)
        await recovers(outage)
    await require_only_what_was_sold(outage)


async def test_a_locked_file_sells_nothing_within_the_bound(site: Site) -> None:
    async with under_load(site.start()) as outage:
        await outage.sells(FEW)
        before = len(outage.answered)
        lock = writers_held_off(site.database_url)
        await in_thread(lock.__enter__)
        await outage.refuses(FEW)
        outage.report("file locked", before)
        await in_thread(lambda: lock.__exit__(None, None, None))
        await recovers(outage)
    await require_only_what_was_sold(outage)


async def recovers(outage: Outage) -> None:
    """Sell again, without a restart."""
    await outage.is_ready(ledger="ok")
    await outage.sells(FEW)
    outage.require_bounded(DATABASE_BOUND_S)
    assert {each.body["code"] for each in outage.refusals} == {"metering-unavailable"}


async def require_only_what_was_sold(outage: Outage) -> None:
    """Whoever was refused is not charged: a commit that failed has left nothing behind."""
    sold = {each.body["id"] for each in outage.load.sold}
    async with Customers(outage.server.base_url, outage.load.credentials) as customers:
        assert {event["id"] for event in await customers[SLUG].ledger()} == sold


def journal_of(site: Site) -> Path:
    return Path(f"{make_url(site.database_url).database}-wal")
