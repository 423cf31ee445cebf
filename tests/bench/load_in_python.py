"""Stands in for ``load.c`` where there is no C compiler: the same arguments, input and output.

It costs some 20 µs a request, so a server that answers more than some 20,000 a second is not measured but throttled by
it: the generator's own share in the report shows that.
"""

import asyncio
import json
import struct
import sys
import time
from typing import cast

import uvloop

MARK = b"########"


class Run:
    """What all connections share."""

    def __init__(self, requests: list[bytes], number: int, counted_from_s: float, end_s: float) -> None:
        self.requests = requests
        self.number = number
        self.counted_from_s = counted_from_s
        self.end_s = end_s
        self.place = 0
        self.latencies: list[float] = []
        self.by_class = [0] * 10
        self.broken = 0

    def next_request(self) -> bytes:
        """Return the next request, with numbers of its own."""
        request = self.requests[self.place]
        self.place = (self.place + 1) % len(self.requests)
        for _ in range(request.count(MARK)):
            request = request.replace(MARK, b"%08d" % (self.number % 10**8), 1)
            self.number += 1
        return request


class Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.received = b""
        self.since_s = 0.0
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one, and does not say so
        self._begin()

    def data_received(self, data: bytes) -> None:
        self.received = self.received + data if self.received else data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return
        run, at_s = self.run, time.monotonic()
        if self.since_s >= run.counted_from_s and at_s <= run.end_s:
            run.latencies.append(at_s - self.since_s)
            run.by_class[head[9] - 48] += 1
        self.received = b""
        self._begin()

    def connection_lost(self, _: Exception | None) -> None:
        if time.monotonic() < self.run.end_s:
            self.run.broken += 1

    def _begin(self) -> None:
        assert self.transport is not None
        self.since_s = time.monotonic()
        if self.since_s > self.run.end_s:
            # What the next run may number is about to be told.
            self.transport.close()
            return
        self.transport.write(self.run.next_request())


async def main(port: int, connections: int, warmup_s: float, measure_s: float, number: int) -> None:
    """Run the load, and print what came of it."""
    content, place, requests = sys.stdin.buffer.read(), 0, []
    while place < len(content):
        [size] = struct.unpack_from("<I", content, place)
        requests.append(content[place + 4 : place + 4 + size])
        place += 4 + size
    begin_s = time.monotonic()
    run = Run(requests, number, begin_s + warmup_s, begin_s + warmup_s + measure_s)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", port)
    await asyncio.sleep(run.counted_from_s - time.monotonic())
    used_s = time.process_time()
    await asyncio.sleep(run.end_s - time.monotonic())
    used_s = time.process_time() - used_s
    found = sorted(run.latencies) or [0.0]
    at = {name: found[int(part * (len(found) - 1))] * 1e6 for name, part in SHARES.items()}
    ok, refused = run.by_class[2], run.by_class[4]
    failed = sum(run.by_class) - ok - refused
    counts = {"answers": len(run.latencies), "ok": ok, "refused": refused, "failed": failed, "broken": run.broken}
    sys.stdout.write(json.dumps({**counts, **at, "seconds": measure_s, "cpu_s": used_s, "next_number": run.number}))


SHARES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "max_us": 1.0}

if __name__ == "__main__":
    port, connections, warmup_s, measure_s, number = sys.argv[1:]
    uvloop.run(main(int(port), int(connections), float(warmup_s), float(measure_s), int(number)))
