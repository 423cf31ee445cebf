"""How ``scripts/bench`` takes servers in turn."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.bench.load import LoadGenerator, http_request
from tests.bench.machine import split_cores
from tests.bench.processes import Served
from tests.bench.table import Bench, Comparison, Contender, Figure
from tests.integration.bench.answerer import answering


@pytest.mark.anyio
async def test_each_server_has_a_turn_in_each_round_and_close_ones_get_more_and_shorter_ones(tmp_path: Path) -> None:
    with subprocess.Popen(("cat",), stdin=subprocess.PIPE) as process:
        async with answering("200 OK") as (answerer, port):
            served = Served(process, port)
            contenders = tuple(
                Contender(name=name, served=served, requests=[http_request(port, "/", name.encode())])
                for name in ("one", "other")
            )
            comparison = Comparison(name="A", connections=1, contenders=contenders, times=2, shorter=2)
            bench = Bench(LoadGenerator(tmp_path, split_cores()), [process.pid], rounds=1, seconds=0.1)
            result = await asyncio.to_thread(bench.measure, comparison, lambda _: None)
    assert {name: len(rounds) for name, rounds in result.rounds.items()} == {"one": 2, "other": 2}
    assert all(each.load.seconds < 0.1 for rounds in result.rounds.values() for each in rounds)
    assert len(result.ratios(Figure.THROUGHPUT, "one", "other")) == 2
    # Who came last in a round begins the next one.
    asked = [name for name, before in zip(answerer.bodies, [b"", *answerer.bodies], strict=False) if name != before]
    assert asked == [b"one", b"other", b"one"]
