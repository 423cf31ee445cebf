"""What is measured against what: every comparison runs its servers in turn, round after round, on the same core.

A figure of one server says little about another machine or another minute; the ratio of two that ran side by side
does. So each round gives one ratio, and the report the median of the rounds with their range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from tests.bench.load import LoadGenerator, Measured
from tests.bench.machine import cpu_s
from tests.bench.processes import Served

WARMUP_S = 0.9
LONGEST_TURN_S = 20.0


class Figure(StrEnum):
    """What of a run is compared."""

    THROUGHPUT = "predictions/s"
    P50 = "p50"
    P99 = "p99"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A server and what it is asked."""

    name: str
    served: Served
    requests: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a ratio has to reach; of a time, what it may reach at most. Without ``must`` it is only told."""

    figure: Figure
    of: str
    against: str
    must: float | None = None
    aim: float | None = None

    def is_met_by(self, ratio: float) -> bool:
        if self.must is None:
            return True
        return ratio >= self.must if self.figure is Figure.THROUGHPUT else ratio <= self.must


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Servers that are measured in turn under the same load.

    ``times`` as many rounds as others get, of turns that are so many times ``shorter``, are for those that are close. A
    fifth cannot be told from the noise of five rounds; and what else the machine does changes within seconds, so the
    sooner one comes after the other, the more of it both have in common.
    """

    name: str
    connections: int
    contenders: tuple[Contender, ...]
    goals: tuple[Goal, ...] = ()
    times: int = 1
    shorter: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of one server, with the CPU that its processes and the stores used."""

    load: Measured
    server_cpu_s: float
    stores_cpu_s: float

    def figure(self, which: Figure) -> float:
        return {Figure.THROUGHPUT: self.load.per_s, Figure.P50: self.load.p50_us, Figure.P99: self.load.p99_us}[which]

    def cpu_ms_each(self, *, stores: bool = False) -> float:
        """CPU milliseconds a prediction, which is CPU seconds a thousand of them."""
        return (self.stores_cpu_s if stores else self.server_cpu_s) / self.load.ok * 1000


@dataclass(slots=True)
class Result:
    """All rounds of one comparison, by contender."""

    comparison: Comparison
    rounds: dict[str, list[Round]] = field(default_factory=dict)

    def ratios(self, which: Figure, of: str, against: str) -> list[float]:
        """Return one ratio a round."""
        pairs = zip(self.rounds[of], self.rounds[against], strict=True)
        return [own.figure(which) / (other.figure(which) or 1.0) for own, other in pairs]


class Bench:
    """Measures comparisons."""

    def __init__(self, generator: LoadGenerator, store_pids: Sequence[int], *, rounds: int, seconds: float) -> None:
        self._generator = generator
        self._store_pids = tuple(store_pids)
        self._rounds = rounds
        self._seconds = seconds

    def measure(self, comparison: Comparison, say: Callable[[str], None]) -> Result:
        """Run all rounds. The order turns from round to round, so that nobody always comes after the same one."""
        result = Result(comparison, {contender.name: [] for contender in comparison.contenders})
        for number in range(self._rounds * comparison.times):
            turned = comparison.contenders if number % 2 == 0 else comparison.contenders[::-1]
            for contender in turned:
                result.rounds[contender.name].append(self._run(contender, comparison))
        figures = (f"{name} {median(each.load.per_s for each in runs):,.0f}" for name, runs in result.rounds.items())
        say(f"{comparison.name}, {comparison.connections} connections: {', '.join(figures)} predictions/s")
        return result

    def _run(self, contender: Contender, comparison: Comparison) -> Round:
        served, connections = contender.served, comparison.connections
        seconds, warmup_s = self._seconds / comparison.shorter, WARMUP_S / comparison.shorter
        self._generator.run(served.port, contender.requests, connections=connections, seconds=warmup_s, warmup_s=0)
        while True:
            server_s, stores_s = served.cpu_s(), self._stores_cpu_s()
            load = self._generator.run(
                served.port, contender.requests, connections=connections, seconds=seconds, warmup_s=0
            )
            if load.answers or seconds > LONGEST_TURN_S:
                break
            # So slow that its turn ended before its first answer.
            seconds *= 4
        load.require_clean(contender.name)
        # What is still being settled belongs to the predictions that were counted.
        return Round(load=load, server_cpu_s=served.cpu_s() - server_s, stores_cpu_s=self._stores_cpu_s() - stores_s)

    def _stores_cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self._store_pids)
