"""What a login costs the predictions beside it, as far as that can be counted, in both shapes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import event

from backend.adapters.memory.precedence import PredictionsFirst
from backend.api.deps import get_precedence
from tests.api.conftest import PASSWORD, World

pytestmark = pytest.mark.anyio

_mine: ContextVar[list[str] | None] = ContextVar("statements of this test", default=None)

# One look at the user and their seats; a session, its token, the last link of the audit chain and the next one.
# PostgreSQL is also told whose rows it may show, and holds the chain.
AT_MOST = {"embedded": 5, "server": 9}


@contextmanager
def counted(world: World) -> Iterator[list[str]]:
    """Collect the statements that are executed on behalf of the block, not those of jobs in the background."""
    engine = world.resources.store.engine.sync_engine  # type: ignore[attr-defined]

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements = _mine.get()
        if statements is not None:
            statements.append(statement)

    found: list[str] = []
    token = _mine.set(found)
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)
        _mine.reset(token)


async def test_p3_a_login_takes_few_statements(world: World) -> None:
    tenant = await world.tenant()
    with counted(world) as statements:
        await world.log_in(tenant.owner_email)
    assert len(statements) == AT_MOST[world.shape], statements


async def test_p4_an_unknown_address_takes_the_statements_of_a_wrong_password(world: World) -> None:
    tenant = await world.tenant()
    asked = {}
    for address in (tenant.owner_email, f"nobody@{tenant.slug}.example"):
        with counted(world) as statements:
            answer = await world.token(username=address, password=PASSWORD.upper())
        assert answer.status_code == 400
        asked[address] = statements
    known, unknown = asked.values()
    assert known == unknown
    assert known


async def test_p3_a_wave_of_logins_beside_predictions_is_answered_to_the_last(embedded_world: World) -> None:
    world = embedded_world
    world.move()
    tenant = await world.tenant()
    precedence = PredictionsFirst(at_a_time=2, apart_s=0.001, give_way_for_s=0.001)
    inside, most = 0, 0

    class Watched:
        """The same line, and how many were in it at the most."""

        def __getattr__(self, name: str) -> Any:
            return getattr(precedence, name)

        async def give_way(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await precedence.give_way()
            inside -= 1

    world.app.dependency_overrides[get_precedence] = Watched
    precedence.enter()
    try:
        logins = [asyncio.create_task(world.token(username=tenant.owner_email, password=PASSWORD)) for _ in range(50)]
        served = [await world.predict(tenant.live) for _ in range(10)]
        answers = await asyncio.gather(*logins)
    finally:
        precedence.leave()
        del world.app.dependency_overrides[get_precedence]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.status_code for answer in served} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 50
    # However many ask, no more than two are at the database.
    assert most == 2


async def test_p6_a_wave_of_guesses_is_slowed_down_like_one_after_the_other(world: World) -> None:
    tenant = await world.tenant()
    guesses = (world.token(username=tenant.owner_email, password=f"{PASSWORD} {number}") for number in range(24))
    statuses = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert set(statuses) == {400, 429}
    # Five are free, two may be at work when the sixth fails, and then it takes 1, 2, 4, … seconds for one more.
    assert statuses.count(400) <= 12
