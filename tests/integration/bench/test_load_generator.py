"""The load generator of ``scripts/bench``: what it sends, and what it counts."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.bench.load import HERE, MARK, LoadGenerator, Measured, http_request
from tests.bench.machine import split_cores
from tests.integration.bench.answerer import answering

REQUESTS = [http_request(1, "/predict", f'{{"row": [5.1{MARK}, {place}.2{MARK}]}}'.encode()) for place in range(3)]


@pytest.fixture(params=["compiled", "in-python"])
def generator(request: pytest.FixtureRequest, tmp_path: Path) -> LoadGenerator:
    made = LoadGenerator(tmp_path, split_cores())
    if request.param == "in-python":
        made.command = (sys.executable, str(HERE / "load_in_python.py"))
    elif made.command[0] == sys.executable:
        pytest.skip("there is no C compiler")
    return made


async def run(generator: LoadGenerator, port: int) -> Measured:
    return await asyncio.to_thread(generator.run, port, REQUESTS, connections=4, seconds=0.3, warmup_s=0.05)


@pytest.mark.anyio
async def test_no_row_is_sent_twice_not_even_by_a_second_run(generator: LoadGenerator) -> None:
    async with answering("200 OK") as (answerer, port):
        measured = [await run(generator, port), await run(generator, port)]
    values = [value for body in answerer.bodies for value in re.findall(rb"\d\.\d(\d{8})", body)]
    assert len(values) == 2 * len(answerer.bodies)
    assert len(set(values)) == len(values)
    for each in measured:
        assert 0 < each.ok == each.answers <= len(answerer.bodies)
        assert 0 < each.p50_us <= each.p90_us <= each.p99_us <= each.max_us
        assert each.require_clean("the answerer") is each
        assert each.per_s == each.ok / 0.3


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_refusals_and_failures_are_no_predictions(generator: LoadGenerator, status: str) -> None:
    async with answering(status) as (_, port):
        measured = await run(generator, port)
    assert measured.ok == 0
    assert (measured.refused, measured.failed)[status.startswith("5")] == measured.answers > 0
    with pytest.raises(RuntimeError, match="the answerer: 0 of"):
        measured.require_clean("the answerer")
