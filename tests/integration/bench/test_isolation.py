"""``scripts/bench isolation``: how its turns ask, and what its report makes of them."""

import asyncio

import pytest

from tests.bench.isolation import FLOOD, SIGN_IN, Kind, Result, markdown
from tests.bench.load import http_request
from tests.bench.machine import strangers_share
from tests.bench.turns import Ask, Asked, ask_together
from tests.integration.bench.answerer import answering

REQUEST = http_request(1, "/predict", b'{"row": [5.1]}')


@pytest.mark.anyio
async def test_a_turn_asks_as_often_as_planned_and_waits_for_what_is_under_way() -> None:
    async with answering("200 OK") as (answered, port), answering("429 Too Many Requests") as (refused, other):
        steady = Ask(port=port, requests=[REQUEST], connections=2, per_s=100.0)
        kept = Ask(port=other, requests=[REQUEST, REQUEST], connections=3, per_s=None)
        first, second = await asyncio.to_thread(ask_together, [steady, kept], 0.25)
    assert first.statuses == {"200": 25}
    assert len(answered.bodies) == first.answers == len(first.latencies_us)
    assert set(second.statuses) == {"429"}
    assert len(refused.bodies) == second.answers >= 3
    assert 0 < first.p50_ms <= first.p99_ms


def test_a_turn_with_other_answers_than_it_should_have_counts_for_nothing() -> None:
    asked = Asked(statuses={"200": 9, "503": 1}, latencies_us=[1_000] * 10)
    with pytest.raises(RuntimeError, match=r"the flood: .*'503': 1.* should have been 200 and 429"):
        asked.require("the flood", "200", "429")
    with pytest.raises(RuntimeError, match="should have been 200"):
        asked.require("the predictions", "200")
    assert asked.require("both", "200", "503") is asked


def turns(*p99_ms: float) -> list[Asked]:
    return [Asked(statuses={"200": 101}, latencies_us=[1_000] * 99 + [int(each * 1_000)] * 2) for each in p99_ms]


def test_the_report_holds_what_a_shared_server_adds_to_the_bound_of_its_line() -> None:
    victims = {Kind.QUIET: turns(2, 2, 2), Kind.HERE: turns(6, 4.6, 4), Kind.ELSEWHERE: turns(4, 4, 4)}
    flood = Asked(statuses={"200": 20, "429": 180}, latencies_us=[1_000] * 200)
    others = {Kind.QUIET: [], Kind.HERE: [flood] * 3, Kind.ELSEWHERE: [flood] * 3}
    found = [Result(shape="server", disturbance=each, victims=victims, others=others) for each in (FLOOD, SIGN_IN)]
    assert found[0].ratios(Kind.ELSEWHERE) == pytest.approx([1.5, 1.15, 1.0])
    report = markdown(found, strangers=0.02)
    lines = report.splitlines()
    ratios = ("**1.15 (1.00 to 1.50)**", "2.30 (2.00 to 3.00)")
    assert f"| {FLOOD.line}: {FLOOD.name} | server | {ratios[0]} | < 1.25 | yes | {ratios[1]} |" in lines
    assert f"| {SIGN_IN.line}: {SIGN_IN.name} | server | {ratios[0]} | < 1.1 | **no** | {ratios[1]} |" in lines
    assert "| L8 | server | to the same server | 1.00 | 4.60 | 4.00 to 6.00 | 200: 60, 429: 540 |" in lines
    assert "| L8 | server | nowhere | 1.00 | 2.00 | 2.00 to 2.00 |  |" in lines
    assert "took 2% of all cores meanwhile." in report


def test_the_report_decides_nothing_on_a_machine_that_others_use() -> None:
    kinds = {kind: turns(2) for kind in Kind}
    found = Result(shape="server", disturbance=FLOOD, victims=kinds, others={kind: [] for kind in Kind})
    busy, quiet = markdown([found], strangers=0.4), markdown([found], strangers=0.1)
    assert "took 40% of all cores meanwhile: " in busy
    assert "| < 1.25 | undecided |" in busy
    assert "| < 1.25 | yes |" in quiet


def test_strangers_are_what_is_not_of_the_benchmark() -> None:
    assert strangers_share(6.0, 4.0, seconds=10.0, cores=2) == pytest.approx(0.1)
    # The kernel's two counts are read one after the other.
    assert strangers_share(3.99, 4.0, seconds=10.0, cores=2) == 0
