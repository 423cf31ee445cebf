"""Asks a server at a steady rate, or keeps so many requests under way: a process of its own that lives for one turn.

A line of JSON comes in: ``port``, ``connections``, ``seconds``, ``requests``, which are sent in turn, and ``per_s``, or
``null`` for the next one as soon as a connection is free. ``ready`` goes out when all are connected, the next line
begins the turn, and one of JSON goes out: ``statuses``, and ``latencies_us`` in the order of the answers.

A request of a steady rate has its instant in the plan, and its latency counts from there: one that had to wait until a
connection was free again has waited. What is under way when the turn ends is waited for, and counted.
"""

import asyncio
import json
import selectors
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Any


class Turn:
    """What all connections share."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._requests = cycle([request.encode() for request in job["requests"]])
        self._per_s: float | None = job["per_s"]
        self._begin_s = time.monotonic()
        self._end_s = self._begin_s + job["seconds"]
        self._planned = 0
        self.statuses: Counter[str] = Counter()
        self.latencies_us: list[int] = []

    def next_at_s(self) -> float | None:
        """Return when the next request is due, or ``None`` when that would be after the end."""
        now_s = time.monotonic()
        at_s = now_s if self._per_s is None else self._begin_s + self._planned / self._per_s
        self._planned += 1
        return at_s if at_s < self._end_s else None

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send what is due, one request after the other, over one connection."""
        while (at_s := self.next_at_s()) is not None:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            writer.write(next(self._requests))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, rest = head.partition(b"content-length:")
            await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            self.latencies_us.append(round((time.monotonic() - at_s) * 1e6))
            self.statuses[head[9:12].decode()] += 1


async def main() -> None:
    """Run one turn."""
    job = json.loads(sys.stdin.readline())
    connections = [await asyncio.open_connection("127.0.0.1", job["port"]) for _ in range(job["connections"])]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    turn = Turn(job)
    await asyncio.gather(*(turn.run(*connection) for connection in connections))
    sys.stdout.write(json.dumps({"statuses": turn.statuses, "latencies_us": turn.latencies_us}))


def _precise_loop() -> asyncio.AbstractEventLoop:
    # The usual loops wake at whole milliseconds, which is what a prediction takes.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(main())
