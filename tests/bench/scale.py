"""How cost grows with size: ``scripts/bench scale``. Each line of its tables is one size, measured in one run.

========  =============================================================================================
workers   1 and 2 server processes, and 1 and 2 replicas behind nothing but the load generator; memory
rows      rows in a request
keys      API keys in use, of one tenant
tenants   tenants in use, each with a key
ledger    events in the ledger already, beside predictions and beside the questions that read it
========  =============================================================================================

Two cores show 1 and 2 of anything and no more: replicas share nothing but the stores, so beyond two the model is that a
further core of servers adds what the first one does, until the stores' own core is full. The table gives its share.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from math import inf
from statistics import median

import sqlalchemy
from sqlalchemy import text

from tests.bench.forecourt import fill, forecourt, predictions, set_up
from tests.bench.load import Measured
from tests.bench.machine import cpu_s
from tests.bench.models import ROWS
from tests.bench.processes import Served
from tests.bench.report import markdown_table
from tests.bench.site import Site

MODEL = "a"
CONNECTIONS = 16
LARGE_CONNECTIONS = 4
"""For requests of many rows: a tenant may have so many waiting, and sixteen times a thousand is more than that."""
LONGEST_S = 120.0
ROWS_EACH = (1, 10, 100, 1_000)
KEYS = (10, 100, 1_000, 10_000, 100_000)
TENANTS = (10, 100, 1_000, 10_000)
EVENTS = (0, 10_000, 100_000, 1_000_000, 10_000_000)
HEADER = ("predictions/s", "p50 ms", "p99 ms", "CPU µs a request", "CPU µs of the stores")

_GROW = """
INSERT INTO usage_events (event_id, tenant_id, credential_id, environment, model, model_version, units, cached_units,
    billable_units, reason, plan_id, plan_version, request_id, occurred_at, period, fingerprint, stored_at)
SELECT 'evt_grown_' || n, CAST(:tenant AS text), CAST(:key AS text), 'live', 'a', '1', 1, 0, 1, 'live',
    CAST(:plan AS text), 1, 'req_grown_' || n, CAST(:month AS timestamptz) + n % 2000000 * interval '1 second',
    CAST(:period AS text), decode(md5(n::text) || md5(n::text), 'hex'), now()
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far to go: more takes minutes."""

    keys: int = 10_000
    tenants: int = 1_000
    events: int = 1_000_000


@dataclass(slots=True, kw_only=True)
class Scale:
    """Measures sizes on one site, whose stores all of them share."""

    site: Site
    seconds: float
    rounds: int
    limits: Limits

    def report(self) -> Iterator[str]:
        """Yield the lines of the report, as they are found."""
        shape = self.site.shape("server")
        # A tenant for each replica: the same row of two tenants is two rows.
        keys = set_up(shape, tenants=2)
        yield from ("# Scale", "", f"Model A, {CONNECTIONS} connections, {self.site.cores.told()}.", "")
        yield from self._workers(keys)
        with forecourt(shape, cores=self.site.cores, folder=self.site.folder) as served:
            self._warm_up([served], keys)
            name = f"rows a request, {LARGE_CONNECTIONS} connections"
            yield from self._sizes(name, ROWS_EACH, lambda rows: self._rows(served, keys, rows))
            within = [size for size in KEYS if size <= self.limits.keys]
            yield from self._sizes("keys", within, self._grown(served, keys_of_one=True))
            within = [size for size in TENANTS if size <= self.limits.tenants]
            yield from self._sizes("tenants", within, self._grown(served, keys_of_one=False))
            within = [size for size in EVENTS if size <= self.limits.events]
            yield from self._ledger(served, keys, within)

    def _workers(self, keys: list[str]) -> Iterator[str]:
        rows = []
        for name, workers, replicas in (("1 worker", 1, 1), ("2 workers", 2, 1), ("2 replicas", 1, 2)):
            with ExitStack() as stack:
                shape = self.site.shape("server", workers=workers)
                cores = [self.site.cores, self.site.cores.turned()][:replicas]
                servers = [stack.enter_context(forecourt(shape, cores=each, folder=self.site.folder)) for each in cores]
                self._warm_up(servers, keys)
                measured = [self._measured(servers, keys, 1) for _ in range(self.rounds)]
                memory = sum(served.memory_mb() for served in servers)
                rows.append((name, *cells(measured), f"{memory:.0f}"))
                self.site.say(f"{name}: {rows[-1][1]} predictions/s, {memory:.0f} MB")
        yield from markdown_table(("servers", *HEADER, "memory MB"), rows)
        yield ""

    def _sizes(self, name: str, sizes: Sequence[int], measure: Callable[[int], list["Costs"]]) -> Iterator[str]:
        rows = []
        for size in sizes:
            rows.append((f"{size:,}", *cells(measure(size))))
            self.site.say(f"{name} {size:,}: {rows[-1][1]} predictions/s, {rows[-1][4]} µs")
        yield from markdown_table((name, *HEADER), rows)
        yield ""

    def _rows(self, served: Served, keys: list[str], rows_each: int) -> list["Costs"]:
        # What is under way when a turn ends is paid for and not counted: large requests take longer turns.
        seconds = self.seconds * max(1.0, rows_each / 100)
        return [
            self._measured([served], keys, rows_each, seconds=seconds, connections=LARGE_CONNECTIONS)
            for _ in range(self.rounds)
        ]

    def _grown(self, served: Served, *, keys_of_one: bool) -> Callable[[int], list["Costs"]]:
        """Return what measures so many keys in turn: of one tenant, or of a tenant each."""
        secrets: list[str] = []

        def measure(size: int) -> list[Costs]:
            missing = size - len(secrets)
            shape = self.site.shape("server")
            more = (1, missing) if keys_of_one else (missing, 1)
            secrets.extend(fill(shape, tenants=more[0], keys_each=more[1]))
            # A key's first use reads the store: every one of them has to be past it.
            seconds = self.seconds
            while self._measured([served], secrets, 1, seconds=seconds).answered < size and seconds < LONGEST_S:
                seconds *= 2
            return [self._measured([served], secrets, 1) for _ in range(self.rounds)]

        return measure

    def _ledger(self, served: Served, keys: list[str], sizes: Sequence[int]) -> Iterator[str]:
        rows, now = [], datetime.now(UTC)
        engine = sqlalchemy.create_engine(self.site.database_url)
        first = 1
        for size in sizes:
            with engine.begin() as connection:
                connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
                tenant, key = connection.execute(text("SELECT tenant_id, id FROM api_keys ORDER BY id LIMIT 1")).one()
                plan = connection.execute(text("SELECT id FROM plans WHERE name = 'bench'")).scalar_one()
                month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
                values = {"tenant": tenant, "key": key, "plan": plan, "month": month, "period": f"{now:%Y-%m}"}
                connection.execute(text(_GROW), {**values, "first": first, "last": size})
                first = size + 1
            measured = [self._measured([served], keys, 1) for _ in range(self.rounds)]
            page_ms = self._asked_ms(served, keys[0], "/v1/usage/events?limit=100")
            summary_ms = self._asked_ms(served, keys[0], "/v1/usage/summary?bucket=day&group_by=model")
            rows.append((f"{size:,}", *cells(measured), f"{page_ms:.1f}", f"{summary_ms:.1f}"))
            self.site.say(f"ledger of {size:,}: {rows[-1][1]} predictions/s, summary in {rows[-1][-1]} ms")
        engine.dispose()
        yield from markdown_table(("events before", *HEADER, "events page ms", "summary ms"), rows)
        yield ""

    def _asked_ms(self, served: Served, key: str, path: str) -> float:
        """Return how long a question takes, the median of several; infinity where the database's bound is shorter."""
        took = []
        for _ in range(5):
            request = urllib.request.Request(
                f"http://127.0.0.1:{served.port}{path}", headers={"Authorization": f"Bearer {key}"}
            )
            began_s = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
            except urllib.error.HTTPError as refused:
                if refused.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                return inf
            took.append((time.perf_counter() - began_s) * 1000)
        return median(took)

    def _warm_up(self, servers: Sequence[Served], keys: Sequence[str]) -> None:
        for served in servers:
            # A port is open before its server is ready.
            with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/livez", timeout=120):
                continue
        self._measured(servers, keys, 1, seconds=max(1.0, self.seconds))

    def _measured(
        self,
        servers: Sequence[Served],
        keys: Sequence[str],
        rows_each: int,
        *,
        seconds: float | None = None,
        connections: int = CONNECTIONS,
    ) -> "Costs":
        rows = self.site.models.trained(MODEL).rows(ROWS)
        used_s, stores_s = self._used_s(servers)
        with ThreadPoolExecutor(len(servers)) as pool:
            running = [
                pool.submit(
                    self.site.generator.run,
                    served.port,
                    predictions(served.port, MODEL, rows, keys[place :: len(servers)], rows_each=rows_each),
                    connections=connections // len(servers),
                    seconds=seconds or self.seconds,
                    warmup_s=0,
                )
                for place, served in enumerate(servers)
            ]
            loads = [each.result().require_clean("ours") for each in running]
        after_s, stores_after_s = self._used_s(servers)
        return Costs(loads=loads, server_s=after_s - used_s, stores_s=stores_after_s - stores_s)

    def _used_s(self, servers: Sequence[Served]) -> tuple[float, float]:
        return sum(served.cpu_s() for served in servers), sum(cpu_s(pid) for pid in self.site.store_pids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """One turn: what each replica's generator saw, and the CPU that it took."""

    loads: list[Measured]
    server_s: float
    stores_s: float

    @property
    def answered(self) -> int:
        return sum(load.ok for load in self.loads)


def cells(turns: Sequence[Costs]) -> tuple[str, ...]:
    """Return the medians of some turns, as :data:`HEADER` names them."""
    return (
        f"{median(sum(load.per_s for load in turn.loads) for turn in turns):,.0f}",
        f"{median(max(load.p50_us for load in turn.loads) for turn in turns) / 1000:.2f}",
        f"{median(max(load.p99_us for load in turn.loads) for turn in turns) / 1000:.2f}",
        f"{median(turn.server_s / turn.answered for turn in turns) * 1e6:,.0f}",
        f"{median(turn.stores_s / turn.answered for turn in turns) * 1e6:,.0f}",
    )
