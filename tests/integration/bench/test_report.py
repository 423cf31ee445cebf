"""What the report of ``scripts/bench`` says of servers that were measured side by side."""

from collections.abc import Mapping

import pytest

from tests.bench.comparisons import BARE, ONNX, OURS, SERVERS
from tests.bench.load import Measured
from tests.bench.report import markdown
from tests.bench.table import Comparison, Figure, Goal, Result, Round


def turn(per_s: int, p99_us: float = 1_000) -> Round:
    times = {"p50_us": 500.0, "p90_us": 800.0, "p99_us": p99_us, "max_us": 2 * p99_us}
    load = Measured(answers=per_s, ok=per_s, refused=0, failed=0, broken=0, seconds=1.0, cpu_s=0.1, **times)
    return Round(load=load, server_cpu_s=0.5, stores_cpu_s=0.1)


def report(rounds: Mapping[str, list[Round]], *goals: Goal) -> list[str]:
    comparison = Comparison(name="A", connections=64, contenders=(), goals=goals)
    return markdown([Result(comparison, dict(rounds))], told=["a machine"], servers=SERVERS).splitlines()


def faster(must: float | None = None, aim: float | None = None) -> Goal:
    return Goal(figure=Figure.THROUGHPUT, of="ours", against="bare", must=must, aim=aim)


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        (faster(2, 4), "**3.00** (2.00 to 4.00) | ≥ 2 | ≥ 4 | yes |"),
        (faster(3.5), "**3.00** (2.00 to 4.00) | ≥ 3.5 |  | **no** |"),
        (Goal(figure=Figure.P99, of="ours", against="bare", must=0.5), "**1.00** (1.00 to 1.00) | ≤ 0.5 |  | **no** |"),
        (faster(), "**3.00** (2.00 to 4.00) |  |  |  |"),
    ],
    ids=["reached", "missed", "time", "only told"],
)
def test_a_ratio_stands_beside_what_it_has_to_reach(goal: Goal, line: str) -> None:
    lines = report({"bare": [turn(100)] * 3, "ours": [turn(200), turn(300), turn(400)]}, goal)
    assert f"| A: {goal.figure} of ours against bare | 64 | {line}" in lines


def test_only_servers_that_were_measured_are_explained() -> None:
    lines = report({BARE: [turn(100)], ONNX: [turn(200)], OURS: [turn(400)]})
    explained = [line for line in lines if line.startswith("- *")]
    assert explained == [f"- *{BARE}*: {SERVERS[BARE]}", f"- *{ONNX}*: {SERVERS[ONNX]}"]
