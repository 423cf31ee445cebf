"""What others may do to one tenant's p99: ``scripts/bench isolation``.

====  ==========================================================================================================
L8    another tenant asks at ten times its limit; 429 answers what is over it
P3    fifty logins are under way at any time
====  ==========================================================================================================

Servers, stores and load generators share the cores of a small machine, where any further load moves everybody's p99.
So each round has three turns of the same predictions: undisturbed, while the disturbance goes to their server, and
while the very same one goes to a second server beside it, with databases of its own. What the two disturbed turns
differ in is what sharing a server adds, and only that is the product's; the quiet one shows what the machine does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, count
from statistics import median
from urllib.parse import urlencode

import sqlalchemy
from sqlalchemy import make_url, text

from tests.bench.forecourt import PLAN, Shape, add_person, fill, forecourt, predictions, set_up
from tests.bench.load import MARK, http_request
from tests.bench.models import ROWS
from tests.bench.processes import Served
from tests.bench.report import markdown_table
from tests.bench.site import Site
from tests.bench.turns import Ask, Asked, ask_together

MODEL = "a"
MODELS = (MODEL,)
VICTIM_PER_S, VICTIM_CONNECTIONS = 200, 8
TRICKLE_PER_S = 5
LIMITED = replace(PLAN, id="pln_0000000000000000000000bnc2", name="bench-limited", rate_per_minute=6_000)
FLOOD_PER_S, FLOOD_CONNECTIONS = 10 * LIMITED.rate_per_minute / 60, 16
LOGINS = 50
EMAIL, PASSWORD = "somebody@bench.example", "dunes-Violet-harbour-41"
SETTINGS = {"FORECOURT_LOGIN_RATE": "1000000/minute"}
"""All logins come from one address here, and none of them is to be refused for it."""
FORM = "application/x-www-form-urlencoded"
WARM_UP_S = 0.5
SPENDING_S = 0.1

GOALS = ("disturbance", "shape", "same / second server", "must be", "reached", "same server / quiet")
FIGURES = ("line", "shape", "disturbance goes", "p50 ms", "p99 ms", "range of p99", "answers to the disturbance")
READING = (
    "Each ratio is of p99, the median of the rounds with their range: *same / second server* is what sharing a server "
    "costs, and is held to the line's bound; *same server / quiet* has in it what any work beside would cost on these "
    "cores, and is only reported. Latencies count from the instant planned for each request, at "
    f"{VICTIM_PER_S} a second."
)

QUIET_MACHINE = 0.1
DISTRUSTED = ": it moves p99 more than the bounds allow, and only a run on a quiet machine tells"


class Kind(StrEnum):
    """Where the disturbance goes in a turn."""

    QUIET = "nowhere"
    HERE = "to the same server"
    ELSEWHERE = "to the second server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What is done to one tenant's predictions.

    Args:
        most: what p99 beside it may be, as a multiple of what it is while the disturbance goes elsewhere.
        statuses: of the answers to it; each has to be seen.
    """

    line: str
    name: str
    most: float
    statuses: tuple[str, ...]


FLOOD = Disturbance(line="L8", name="a tenant at ten times its limit", most=1.25, statuses=("200", "429"))
SIGN_IN = Disturbance(line="P3", name=f"{LOGINS} logins under way", most=1.10, statuses=("200",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All rounds of a disturbance: what the victim saw in each kind of turn, and what the disturbers saw."""

    shape: str
    disturbance: Disturbance
    victims: Mapping[Kind, Sequence[Asked]]
    others: Mapping[Kind, Sequence[Asked]]

    def ratios(self, against: Kind) -> list[float]:
        """Return one ratio of p99 a round: disturbed on the same server, against another kind of turn."""
        pairs = zip(self.victims[Kind.HERE], self.victims[against], strict=True)
        return [here.p99_ms / other.p99_ms for here, other in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One server with all that ask it."""

    served: Served
    victim_key: str
    limited_key: str
    rows: Sequence[str]
    numbers: Iterator[int]

    def victim(self, seconds: float, per_s: float = VICTIM_PER_S, connections: int = VICTIM_CONNECTIONS) -> Ask:
        """Ask for predictions at a steady rate."""
        requests = self._predictions(self.victim_key, round(seconds * per_s))
        return Ask(port=self.served.port, requests=requests, connections=connections, per_s=per_s)

    def disturbed_by(self, disturbance: Disturbance, seconds: float) -> Ask:
        """Return what disturbs; the rate limit, full after a pause, is spent at once."""
        if disturbance is SIGN_IN:
            return Ask(port=self.served.port, requests=[self._login()], connections=LOGINS, per_s=None)
        self._spend()
        requests = self._predictions(self.limited_key, round(seconds * FLOOD_PER_S))
        return Ask(port=self.served.port, requests=requests, connections=FLOOD_CONNECTIONS, per_s=FLOOD_PER_S)

    def warm_up(self) -> None:
        """Let everything happen once that happens at first use only."""
        sign_in = replace(self.disturbed_by(SIGN_IN, WARM_UP_S), connections=1)
        flood = self.disturbed_by(FLOOD, WARM_UP_S)
        ask_together([self.victim(WARM_UP_S), flood, sign_in], WARM_UP_S)

    def _predictions(self, key: str, number: int, rows_each: int = 1) -> list[bytes]:
        found = predictions(self.served.port, MODEL, self.rows, [key], rows_each=rows_each)
        return [self._numbered(found[place % len(found)]) for place in range(max(1, number))]

    def _numbered(self, request: bytes) -> bytes:
        while MARK.encode() in request:
            request = request.replace(MARK.encode(), b"%08d" % next(self.numbers), 1)
        return request

    def _login(self) -> bytes:
        form = urlencode({"grant_type": "password", "username": EMAIL, "password": PASSWORD}).encode()
        return http_request(self.served.port, "/v1/auth/token", form, content_type=FORM)

    def _spend(self) -> None:
        for rows_each in (500, 50, 5):
            requests = self._predictions(self.limited_key, 1, rows_each)
            ask = Ask(port=self.served.port, requests=requests, connections=1, per_s=None)
            while "429" not in ask_together([ask], SPENDING_S)[0].statuses:
                continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Measures both disturbances on one shape."""

    here: Party
    elsewhere: Party
    shape: str
    rounds: int
    seconds: float

    def results(self) -> Iterator[Result]:
        """Yield each disturbance's rounds."""
        for party in (self.here, self.elsewhere):
            party.warm_up()
        for disturbance in (FLOOD, SIGN_IN):
            victims: dict[Kind, list[Asked]] = {kind: [] for kind in Kind}
            others: dict[Kind, list[Asked]] = {kind: [] for kind in Kind}
            for number in range(self.rounds):
                kinds = list(Kind)
                # Nobody always comes after the same one.
                for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                    victim, *disturbers = self._turn(disturbance, kind)
                    victims[kind].append(victim)
                    others[kind] += disturbers
            yield Result(shape=self.shape, disturbance=disturbance, victims=victims, others=others)

    def _turn(self, disturbance: Disturbance, kind: Kind) -> list[Asked]:
        """Return what the victim saw and, but for a quiet turn, what the disturbers did."""
        # The second server predicts too, if little: what one does about a disturbance then, the other does as well.
        asks = [self.here.victim(self.seconds), self.elsewhere.victim(self.seconds, TRICKLE_PER_S, 1)]
        if kind is not Kind.QUIET:
            party = self.here if kind is Kind.HERE else self.elsewhere
            asks.append(party.disturbed_by(disturbance, self.seconds))
        victim, trickle, *others = ask_together(asks, self.seconds)
        trickle.require("the second server", "200")
        for each in others:
            each.require(disturbance.name, *disturbance.statuses)
        return [victim.require("the predictions", "200"), *others]


def results(site: Site, *, rounds: int, seconds: float) -> Iterator[Result]:
    """Yield the results of the embedded shape, then of servers with PostgreSQL and Redis."""
    for name in ("embedded", "server"):
        with ExitStack() as stack:
            numbers = count()
            here, elsewhere = (_party(site, stack, shape, numbers) for shape in _two_shapes(site, name))
            measured = Isolation(here=here, elsewhere=elsewhere, shape=name, rounds=rounds, seconds=seconds)
            for result in measured.results():
                ratios = ", ".join(f"{ratio:.2f}" for ratio in result.ratios(Kind.ELSEWHERE))
                site.say(f"{name}, {result.disturbance.line}: p99 same server / second server {ratios}")
                yield result


def _two_shapes(site: Site, name: str) -> Iterator[Shape]:
    """Yield a shape, and the same with stores of its own; its Redis has another database."""
    shape = site.shape(name)
    yield shape
    if shape.redis_url is None:
        url = f"sqlite+aiosqlite:///{site.folder / 'second.db'}"
        yield replace(shape, name=f"{name}-second", database_url=url)
        return
    engine = sqlalchemy.create_engine(shape.database_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE second"))
    engine.dispose()
    url = make_url(shape.database_url).set(database="second").render_as_string(hide_password=False)
    yield replace(shape, name=f"{name}-second", database_url=url, redis_url=f"{shape.redis_url}/1")


def _party(site: Site, stack: ExitStack, shape: Shape, numbers: Iterator[int]) -> Party:
    [victim_key] = set_up(shape)
    [limited_key] = fill(shape, plan=LIMITED)
    add_person(shape, EMAIL, PASSWORD)
    served = stack.enter_context(forecourt(shape, cores=site.cores, folder=site.folder, settings=SETTINGS))
    rows = site.models.trained(MODEL).rows(ROWS)
    return Party(served=served, victim_key=victim_key, limited_key=limited_key, rows=rows, numbers=numbers)


def markdown(results: Sequence[Result], *, strangers: float) -> str:
    """Return the report; ``strangers`` is the share of the cores that the rest of the machine took meanwhile."""
    is_quiet = strangers <= QUIET_MACHINE
    goals = markdown_table(GOALS, (_goal(result, is_decided=is_quiet) for result in results))
    figures = markdown_table(FIGURES, chain.from_iterable(map(_figures, results)))
    distrusted = "" if is_quiet else DISTRUSTED
    reading = (
        f"{READING} Work that is none of this benchmark's took {strangers:.0%} of all cores meanwhile{distrusted}."
    )
    return "\n".join(["# What others do to one tenant's p99", "", *goals, "", reading, "", *figures, ""])


def _goal(result: Result, *, is_decided: bool) -> tuple[str, ...]:
    of_the_product, most = result.ratios(Kind.ELSEWHERE), result.disturbance.most
    reached = "yes" if median(of_the_product) < most else "**no**"
    return (
        f"{result.disturbance.line}: {result.disturbance.name}",
        result.shape,
        f"**{_told(of_the_product)}**",
        f"< {most:g}",
        reached if is_decided else "undecided",
        _told(result.ratios(Kind.QUIET)),
    )


def _told(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _figures(result: Result) -> Iterator[tuple[str, ...]]:
    for kind, turns in result.victims.items():
        answered = sum((Counter(other.statuses) for other in result.others[kind]), Counter())
        yield (
            result.disturbance.line,
            result.shape,
            kind,
            f"{median(turn.p50_ms for turn in turns):.2f}",
            f"{median(turn.p99_ms for turn in turns):.2f}",
            f"{min(turn.p99_ms for turn in turns):.2f} to {max(turn.p99_ms for turn in turns):.2f}",
            ", ".join(f"{status}: {number:,}" for status, number in sorted(answered.items())),
        )
