"""A secret that has verified is remembered with the copy of its key that it verified against, and no longer."""

from dataclasses import replace
from datetime import timedelta

import pytest

from backend.domain.api_keys import Environment, KeyGrant, PreviousSecret, mint_key, write_key
from backend.domain.errors import AddressNotAllowed, ForecourtError, KeyExpired, KeyRevoked, Unauthenticated
from backend.domain.ids import KeyId
from backend.domain.plans import seed_plans
from backend.domain.tenants import TenantStatus
from backend.services.authentication import KeyAuthenticator
from tests.fakes import FakeClock
from tests.keys import a_key

pytestmark = pytest.mark.anyio

WRITTEN, MINTED = mint_key(Environment.LIVE)
_, OTHER = mint_key(Environment.LIVE)


class Desk:
    """Everything around a key authenticator, with a count of the secrets that were looked at."""

    def __init__(self, grant: KeyGrant) -> None:
        self.grant = grant
        self.verified = 0
        self.noted: list[tuple[str, int]] = []
        self.clock = FakeClock()
        self.keys = KeyAuthenticator(keys=self, strangers=self, hasher=self, use=self, clock=self.clock)

    def holds(self, lookup_id: str) -> bool:
        return lookup_id == self.grant.key.lookup_id

    def cached(self, lookup_id: str) -> KeyGrant | None:
        return self.grant if self.holds(lookup_id) else None

    async def find(self, lookup_id: str) -> KeyGrant | None:
        return self.cached(lookup_id)

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        return await self.find(lookup_id)

    async def recheck(self, lookup_id: str) -> KeyGrant | None:
        return await self.find(lookup_id)

    def enter(self, _address: str) -> int:
        return 0

    def leave(self, _address: str) -> None:
        return

    def hash(self, secret: str) -> tuple[bytes, int]:
        return secret.encode(), 1

    def verify(self, secret: str, stored: bytes, pepper_version: int) -> bool:
        self.verified += 1
        return (secret.encode(), 1) == (stored, pepper_version)

    def note(self, key_id: KeyId, generation: int) -> None:
        self.noted.append((key_id, generation))

    async def flush(self) -> int:
        return len(self.noted)

    async def ask(self, written: str = WRITTEN, address: str | None = "192.0.2.1") -> str:
        """Return whose key it is, or what it is refused with."""
        try:
            return (await self.keys.predict_caller(written, address)).credential_id
        except ForecourtError as refusal:
            return type(refusal).__name__


@pytest.fixture
def desk() -> Desk:
    key = a_key(MINTED.lookup_id, secret_hash=MINTED.secret.encode())
    plan = seed_plans()[0]
    return Desk(KeyGrant.assemble(key=key, tenant_status=TenantStatus.ACTIVE, tenant_version=1, plan=plan))


async def test_a_secret_verifies_once_against_one_copy_of_its_key(desk: Desk) -> None:
    key_id = desk.grant.key.id
    assert [await desk.ask() for _ in range(3)] == [key_id] * 3
    assert desk.verified == 1
    assert len(desk.noted) == 3
    desk.grant = replace(desk.grant, tenant_version=2)
    assert (await desk.keys.predict_caller(WRITTEN, "192.0.2.1")).epochs.tenant == 2
    assert desk.verified == 2


async def test_another_secret_of_a_remembered_key_is_refused(desk: Desk) -> None:
    await desk.ask()
    wrong = write_key(Environment.LIVE, MINTED.lookup_id, OTHER.secret)
    assert [await desk.ask(wrong) for _ in range(2)] == [Unauthenticated.__name__] * 2
    assert await desk.ask(WRITTEN[:-1] + ("0" if WRITTEN[-1] != "0" else "1")) == Unauthenticated.__name__


async def test_what_a_key_may_do_now_is_asked_each_time(desk: Desk) -> None:
    ends_at = desk.clock.now() + timedelta(seconds=10)
    desk.grant = replace(desk.grant, key=replace(desk.grant.key, expires_at=ends_at, allowed_cidrs=("192.0.2.0/24",)))
    assert await desk.ask() == desk.grant.key.id
    assert await desk.ask(address="198.51.100.1") == AddressNotAllowed.__name__
    desk.clock.advance(11)
    assert await desk.ask() == KeyExpired.__name__
    desk.grant = replace(desk.grant, key=replace(desk.grant.key, revoked_at=desk.clock.now()))
    assert await desk.ask() == KeyRevoked.__name__


async def test_a_secret_that_was_replaced_is_never_remembered(desk: Desk) -> None:
    """It verifies until its overlap is over, whatever copy of the key is at hand."""
    key = desk.grant.key
    previous = PreviousSecret(
        secret_hash=key.secret_hash,
        pepper_version=1,
        valid_until=desk.clock.now() + timedelta(seconds=10),
        last_used_at=None,
    )
    rotated = replace(key, secret_hash=OTHER.secret.encode(), generation=2, previous=previous)
    desk.grant = replace(desk.grant, key=rotated)
    assert await desk.ask() == key.id
    desk.clock.advance(11)
    assert await desk.ask() == Unauthenticated.__name__
