"""A usage event that was made before anybody knew that there would be one."""

from dataclasses import replace

import pytest

from backend.domain.admission import Lease
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import period_of
from backend.domain.usage import UsageEvent
from backend.services.foreseen import Foreseen
from tests.contracts.ledgers import an_event
from tests.fakes import FakeClock

TENANT = TenantId("ten_a")
UNITS = 2
CLOCK = FakeClock()
MONTH = period_of(CLOCK.now_s())


def make(event_id: str, period: str, units: int, cached_units: int) -> UsageEvent:
    return an_event(TENANT, request_id="req_a", id=event_id, period=period, units=units, cached_units=cached_units)


@pytest.fixture
def prepared() -> list[UsageEvent]:
    return []


@pytest.fixture
def foreseen(prepared: list[UsageEvent]) -> Foreseen:
    return Foreseen(make, prepared.append, UNITS, CLOCK)


def lease_of(foreseen: Foreseen) -> Lease:
    return Lease(foreseen.event_id, TENANT, "key_a", Environment.LIVE, MONTH, UNITS, (), None)


def test_it_is_the_event_of_its_lease_when_all_rows_were_cached(foreseen: Foreseen, prepared: list[UsageEvent]) -> None:
    foreseen()
    event = foreseen.event_of(lease_of(foreseen), UNITS)
    assert event == make(foreseen.event_id, MONTH, UNITS, UNITS)
    assert prepared == [event]


def test_there_is_none_where_there_was_no_time_for_it(foreseen: Foreseen) -> None:
    assert foreseen.event_of(lease_of(foreseen), UNITS) is None


@pytest.mark.parametrize("cached_units", [0, 1])
def test_there_is_none_when_a_row_was_not_cached_any_more(foreseen: Foreseen, cached_units: int) -> None:
    foreseen()
    assert foreseen.event_of(lease_of(foreseen), cached_units) is None


def test_there_is_none_when_the_month_has_ended_meanwhile(foreseen: Foreseen) -> None:
    foreseen()
    assert foreseen.event_of(replace(lease_of(foreseen), period="1999-12"), UNITS) is None


def test_there_is_none_when_it_was_asked_anew_for_a_caller_who_had_changed(foreseen: Foreseen) -> None:
    """What he was read as is in the event: his plan, for one. Who asks anew gets another lease."""
    foreseen()
    assert foreseen.event_of(replace(lease_of(foreseen), id="evt_another"), UNITS) is None
