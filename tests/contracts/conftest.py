"""Every adapter of a port, under one name: a test that asks for the port runs once for each."""

import pytest

from backend.adapters.memory import MemoryLoginThrottle
from backend.adapters.redis import RedisLoginThrottle
from backend.services.ports import LoginThrottle
from tests.contracts.asking import Desk
from tests.contracts.stores import PATIENT_S, Store, memory_store, redis_store
from tests.fakes import FakeClock, FakeHistory


@pytest.fixture
def history() -> FakeHistory:
    return FakeHistory()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: FakeClock, history: FakeHistory) -> Store:
    if request.param == "memory":
        return memory_store(clock, history)
    return redis_store(request.getfixturevalue("redis_client"), clock, history)


@pytest.fixture
def desk(store: Store, clock: FakeClock, history: FakeHistory) -> Desk:
    return Desk(store.open(), clock, history)


@pytest.fixture(params=["memory", "redis"])
def throttle(request: pytest.FixtureRequest, clock: FakeClock) -> LoginThrottle:
    if request.param == "memory":
        return MemoryLoginThrottle(clock)
    return RedisLoginThrottle(request.getfixturevalue("redis_client"), timeout_s=PATIENT_S, clock=clock)
