"""Customers who ask all the time, and keep a record of what they got."""

import itertools
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from tests.integration.customers import Customers, KeyName

SIZES = (1, 1, 2, 5, 20, 80)
# Few enough that some rows come from the cache, enough that most do not.
DISTINCT_ROWS = 500

KILLER = """
import os, signal, socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.sendall(sys.stdin.buffer.read())
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(65536) or sys.exit("no answer")
    os.kill(int(sys.argv[3]), signal.SIGKILL)
sys.stdout.buffer.write(answer)
"""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    request_id: str
    slug: str
    key: KeyName
    model: str
    rows: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and its whole answer."""

    asked: Asked
    status: int
    body: dict[str, Any]
    took_s: float = 0.0


@dataclass(slots=True)
class Load:
    """What all loops did so far. A loop ends when its server does, or when it is told to."""

    base_url: str
    credentials: dict[str, Any]
    expected: frozenset[int] = frozenset({200})
    answered: list[Answered] = field(default_factory=list)
    unanswered: list[Asked] = field(default_factory=list)
    stopping: bool = False
    _progress: anyio.Event = field(default_factory=anyio.Event)

    @property
    def sold(self) -> list[Answered]:
        """The requests that got a 200."""
        return [each for each in self.answered if each.status == 200]

    async def keep_asking(self, slug: str, key: KeyName, *, sizes: tuple[int, ...] = SIZES, pause_s: float = 0) -> None:
        """Ask, one request after the other, on one connection."""
        async with Customers(self.base_url, self.credentials) as customers:
            while not self.stopping:
                asked = Asked(
                    f"load-{next(_numbers)}", slug, key, random.choice(("iris", "wine")), random.choice(sizes)
                )
                began_s = time.monotonic()
                try:
                    answer = await customers[slug].predict(
                        [_row(asked.model) for _ in range(asked.rows)],
                        key=key,
                        model=asked.model,
                        headers={"X-Request-Id": asked.request_id},
                    )
                except httpx.TransportError:
                    self.unanswered.append(asked)
                    return
                assert answer.status_code in self.expected, answer.text
                took_s = time.monotonic() - began_s
                self.answered.append(Answered(asked, answer.status_code, answer.json(), took_s))
                self._progress.set()
                await anyio.sleep(pause_s)

    async def ask_and_kill(self, slug: str, pid: int) -> None:
        """Ask once more, and kill a process in the very moment in which the answer is there.

        From a process of its own: among the loops the answer would lie about before anybody looked at it.
        """
        asked = Asked(f"load-{next(_numbers)}", slug, "api_key", "iris", 3)
        tenant = next(each for each in self.credentials["tenants"] if each["slug"] == slug)
        body = json.dumps({"model": asked.model, "inputs": [_row(asked.model) for _ in range(asked.rows)]})
        request = http_request(self.base_url, tenant[asked.key], body, f"X-Request-Id: {asked.request_id}") + body
        host, port = self.base_url.removeprefix("http://").split(":")
        killer = (sys.executable, "-c", KILLER, host, port, str(pid))
        ended = await anyio.run_process(killer, input=request.encode(), stderr=None)
        head, _, answer = ended.stdout.partition(b"\r\n\r\n")
        self.answered.append(Answered(asked, int(head.split()[1]), json.loads(answer)))

    async def has_sold(self, count: int) -> None:
        """Wait until so many requests have got a 200, and return in the very moment of the last one."""
        while len(self.sold) < count:
            self._progress = anyio.Event()
            await self._progress.wait()


def http_request(base_url: str, key: str, body: str, *headers: str) -> str:
    """Return the head of a prediction whose body follows."""
    lines = (
        "POST /v1/predict HTTP/1.1",
        f"Host: {base_url.removeprefix('http://')}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body.encode())}",
        *headers,
    )
    return "\r\n".join((*lines, "", ""))


def _row(model: str) -> list[float]:
    number = random.randrange(DISTINCT_ROWS)
    width = {"iris": 4, "wine": 13}[model]
    return [round(number / DISTINCT_ROWS + column, 3) for column in range(width)]


def require_booked_once(load: Load, slug: str, ledger: list[dict[str, Any]]) -> None:
    """Check that each of a tenant's 200s is in the ledger, once, with what its answer said."""
    by_id = {event["id"]: event for event in ledger}
    assert len(by_id) == len(ledger)
    # One request, one event: a request that is charged twice has two ids.
    assert len({event["request_id"] for event in ledger}) == len(ledger)
    key_ids: dict[str, set[str]] = {}
    for answered in load.sold:
        if answered.asked.slug == slug:
            event = by_id[answered.body["id"]]
            assert event["request_id"] == answered.asked.request_id
            assert event["model"] == answered.asked.model
            assert event["environment"] == ("live" if answered.asked.key == "api_key" else "test")
            assert event["units"] == answered.asked.rows == len(answered.body["predictions"])
            assert {name: event[name] for name in answered.body["usage"]} == answered.body["usage"]
            key_ids.setdefault(answered.asked.key, set()).add(event["key_id"])
    assert all(len(ids) == 1 for ids in key_ids.values())


def require_equal_totals(ledger: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Check that a summary by model, key and environment is the sum of the events."""
    names = ("units", "cached_units", "billable_units")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for event in ledger:
        groups.setdefault((event["model"], event["key_id"], event["environment"]), []).append(event)
    expected = {
        group: {"events": len(events)} | {name: sum(event[name] for event in events) for name in names}
        for group, events in groups.items()
    }
    lines = {(line["model"], line["key_id"], line["environment"]): line for line in summary["data"]}
    assert len(lines) == len(summary["data"])
    assert {group: {name: line[name] for name in ("events", *names)} for group, line in lines.items()} == expected
    for name in ("events", *names):
        assert summary["totals"][name] == sum(each[name] for each in expected.values())
