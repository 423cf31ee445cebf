"""The report: Markdown tables, and a plot of the ratios."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

from tests.bench.table import Figure, Result

mpl.use("Agg")
from matplotlib import pyplot as plt

BUSY_GENERATOR = 0.9


def markdown(results: Sequence[Result], *, told: Iterable[str], servers: Mapping[str, str]) -> str:
    """Return the whole report: what is ``told`` of the run, and what those of the ``servers`` are that it measured."""
    facts = [f"CPython {platform.python_version()} on {platform.machine()}", *told]
    measured = {name for result in results for name in result.rounds}
    return "\n".join(
        [
            "# Benchmark",
            "",
            "; ".join(facts) + ".",
            "",
            "Ratios are medians of the rounds, with their range; each round ran the servers one after the other.",
            "",
            *(f"- *{name}*: {what}" for name, what in servers.items() if name in measured),
            "",
            *_goals(results),
            "",
            *_figures(results),
            "",
        ]
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]


def _goals(results: Sequence[Result]) -> list[str]:
    rows = []
    for result in results:
        for goal in result.comparison.goals:
            ratios = result.ratios(goal.figure, goal.of, goal.against)
            rows.append(
                (
                    f"{result.comparison.name}: {goal.figure} of {goal.of} against {goal.against}",
                    result.comparison.connections,
                    f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
                    _bound(goal.figure, goal.must),
                    _bound(goal.figure, goal.aim),
                    "" if goal.must is None else "yes" if goal.is_met_by(median(ratios)) else "**no**",
                )
            )
    return markdown_table(("what", "connections", "ratio", "must reach", "aim", "reached"), rows)


def _bound(figure: Figure, ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{'≥' if figure is Figure.THROUGHPUT else '≤'} {ratio:g}"


def _figures(results: Sequence[Result]) -> list[str]:
    header = (
        "model",
        "connections",
        "server",
        "predictions/s",
        "p50 ms",
        "p99 ms",
        "CPU-s per 1,000",
        "of the stores",
        "generator busy",
    )
    rows = []
    for result in results:
        for name, runs in result.rounds.items():
            per_s = [each.load.per_s for each in runs]
            share = max(each.load.generator_share for each in runs)
            rows.append(
                (
                    result.comparison.name,
                    result.comparison.connections,
                    name,
                    f"{median(per_s):,.0f} ({min(per_s):,.0f} to {max(per_s):,.0f})",
                    f"{median(each.load.p50_us for each in runs) / 1000:.2f}",
                    f"{median(each.load.p99_us for each in runs) / 1000:.2f}",
                    f"{median(each.cpu_ms_each() for each in runs):.3f}",
                    f"{median(each.cpu_ms_each(stores=True) for each in runs):.3f}",
                    f"{share:.0%}" + (" **the bottleneck**" if share > BUSY_GENERATOR else ""),
                )
            )
    return markdown_table(header, rows)


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw each server's throughput as a multiple of the first one's in its comparison, on a logarithmic scale."""
    bars: list[tuple[str, float, float, float]] = []
    for result in results:
        first, *others = result.rounds
        for name in others:
            ratios = result.ratios(Figure.THROUGHPUT, name, first)
            label = f"{result.comparison.name} at {result.comparison.connections}: {name} / {first}"
            bars.append((label, median(ratios), min(ratios), max(ratios)))
    bars.reverse()
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(bars) + 1.2))
    places = range(len(bars))
    middles = [bar[1] for bar in bars]
    spread: Any = [[bar[1] - bar[2] for bar in bars], [bar[3] - bar[1] for bar in bars]]
    colors = ["#2b6cb0" if ": ours" in bar[0] else "#a0aec0" for bar in bars]
    axes.barh(places, middles, xerr=spread, color=colors, ecolor="#2d3748")
    axes.set_yticks(places, [bar[0] for bar in bars])
    for place, middle in zip(places, middles, strict=True):
        axes.annotate(f" {middle:.2f}", (middle, place), va="bottom", fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1.0, color="#2d3748", linewidth=0.8)
    axes.set_xlabel("predictions per second, as a multiple; median and range of the rounds")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
