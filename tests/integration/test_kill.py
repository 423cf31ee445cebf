"""LEDGER.md R2: whatever a customer got a 200 for is in the ledger, also when the server dies at that moment."""

import signal

import anyio
import pytest

from tests.integration.conftest import NewSite
from tests.integration.customers import Customers, KeyName
from tests.integration.load import Load, require_booked_once, require_equal_totals

pytestmark = [pytest.mark.anyio, pytest.mark.process]

LOOPS: tuple[tuple[str, KeyName], ...] = (*(("acme", "api_key"),) * 4, *(("acme", "test_key"),) * 3)
SOLD_BEFORE = 300
LOAD_WITHIN_S = 60.0


async def test_r2_every_200_is_in_the_ledger_once_after_a_kill(
    make_site: NewSite, database_settings: dict[str, str]
) -> None:
    site = make_site(**database_settings)
    server = site.start()
    load = Load(server.base_url, server.credentials, expected=frozenset({200, 429}))
    with anyio.fail_after(LOAD_WITHIN_S):
        async with anyio.create_task_group() as loops:
            for slug, key in LOOPS:
                loops.start_soon(load.keep_asking, slug, key)
            # A hard cap, and few rows a minute: one at a time.
            loops.start_soon(lambda: load.keep_asking("globex", "api_key", sizes=(1,), pause_s=0.05))
            await load.has_sold(SOLD_BEFORE)
            await load.ask_and_kill("acme", server.pid)
    assert server.exit_code() == -signal.SIGKILL
    # The loops were under way: all of them found out.
    assert len(load.unanswered) == len(LOOPS) + 1

    again = site.start()
    assert again.credentials == load.credentials | {"base_url": again.base_url}
    async with Customers(again.base_url, again.credentials) as customers:
        for slug in ("acme", "globex"):
            ledger = await customers[slug].ledger()
            sold = [answered for answered in load.sold if answered.asked.slug == slug]
            asked_last = {asked.request_id for asked in load.unanswered if asked.slug == slug}
            assert sold
            require_booked_once(load, slug, ledger)
            # What nobody got an answer for may be there: the answer was on its way.
            unheard_of = {event["request_id"] for event in ledger} - {each.asked.request_id for each in sold}
            assert unheard_of <= asked_last
            require_equal_totals(ledger, await customers[slug].summary(group_by="model,key,environment"))

        used = sum(event["units"] for event in await customers["globex"].ledger())
        answer = await customers["globex"].predict(1)
        assert answer.status_code == 200
        assert int(answer.headers["X-Quota-Used"]) >= used
        assert int(answer.headers["X-Quota-Remaining"]) <= 1000 - used - 1
