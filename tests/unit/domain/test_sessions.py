"""A login ends when it is revoked, unused for a fortnight, or ninety days old."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backend.domain.ids import TenantId, UserId
from backend.domain.sessions import ABSOLUTE_LIFETIME, IDLE_LIFETIME, REUSE_LEEWAY, Session

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
SESSION = Session(
    id="ses_1",
    user_id=UserId("usr_1"),
    tenant_id=TenantId("ten_1"),
    scope="predict",
    created_at=NOON,
    last_used_at=NOON,
    revoked_at=None,
)


def test_the_lifetimes_are_these() -> None:
    assert timedelta(days=14) == IDLE_LIFETIME
    assert timedelta(days=90) == ABSOLUTE_LIFETIME
    assert timedelta(seconds=10) == REUSE_LEEWAY


def test_a_fresh_session_is_alive() -> None:
    assert SESSION.is_alive(NOON)


def test_an_unused_session_is_alive_until_the_idle_lifetime_is_over() -> None:
    assert SESSION.is_alive(NOON + IDLE_LIFETIME - MOMENT)
    assert not SESSION.is_alive(NOON + IDLE_LIFETIME)


def test_use_makes_an_idle_session_live_longer() -> None:
    used = replace(SESSION, last_used_at=NOON + timedelta(days=10))
    assert used.is_alive(NOON + IDLE_LIFETIME)
    assert not used.is_alive(NOON + timedelta(days=10) + IDLE_LIFETIME)


def test_no_use_makes_a_session_live_past_the_absolute_lifetime() -> None:
    end = NOON + ABSOLUTE_LIFETIME
    used = replace(SESSION, last_used_at=end - MOMENT)
    assert used.is_alive(end - MOMENT)
    assert not used.is_alive(end)


def test_a_revoked_session_is_dead_whatever_its_age() -> None:
    revoked = replace(SESSION, revoked_at=NOON)
    assert not revoked.is_alive(NOON)
    assert not revoked.is_alive(NOON + MOMENT)
