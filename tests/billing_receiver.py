"""An outside biller for tests: it keeps readings as Stripe or OpenMeter does, and loses, delays and repeats answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from tests.http_server import Answer, HttpServer, Request, answer, http_server


@dataclass(frozen=True, slots=True)
class Kept:
    """One reading, as it came in."""

    customer: str
    value: int
    identifier: str
    at_s: float
    meter: str


def read_stripe(request: Request) -> Kept:
    """Read ``POST /v1/billing/meter_events``."""
    assert request.line.startswith("POST /v1/billing/meter_events ")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["authorization"] == "Bearer sk_test_receiver"
    form = dict(parse_qsl(request.body.decode(), strict_parsing=True))
    kept = Kept(
        customer=form.pop("payload[stripe_customer_id]"),
        value=int(form.pop("payload[value]")),
        identifier=form.pop("identifier"),
        at_s=int(form.pop("timestamp")),
        meter=form.pop("event_name"),
    )
    assert form == {}
    assert len(kept.identifier) <= 100
    return kept


def read_openmeter(request: Request) -> Kept:
    """Read ``POST /api/v1/events``."""
    assert request.line.startswith("POST /api/v1/events ")
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["authorization"] == "Bearer sk_test_receiver"
    event = json.loads(request.body)
    assert event["specversion"] == "1.0"
    assert event["source"]
    return Kept(
        customer=event["subject"],
        value=event["data"]["value"],
        identifier=event["id"],
        at_s=datetime.fromisoformat(event["time"]).timestamp(),
        meter=event["type"],
    )


READERS: dict[str, Callable[[Request], Kept]] = {"stripe": read_stripe, "openmeter": read_openmeter}
OK = {"stripe": answer(200, b'{"object": "billing.meter_event"}'), "openmeter": answer(204)}


@dataclass
class BillingReceiver:
    """What is kept, once for each identifier; a customer's total in a month is the value of the last instant."""

    kind: str
    server: HttpServer
    kept: dict[str, Kept] = field(default_factory=dict)
    repeated: int = 0

    @property
    def url(self) -> str:
        return self.server.url("").rstrip("/")

    def keep(self, request: Request) -> None:
        reading = READERS[self.kind](request)
        known = self.kept.setdefault(reading.identifier, reading)
        assert known == reading, "one identifier, two readings"
        self.repeated += known is not reading

    def total(self, customer: str, month: str) -> int:
        found = [
            each
            for each in self.kept.values()
            if each.customer == customer and datetime.fromtimestamp(each.at_s, UTC).strftime("%Y-%m") == month
        ]
        assert len({each.at_s for each in found}) == len(found), "no two readings of one instant"
        return max(found, key=lambda each: each.at_s).value if found else 0

    # What may happen to a request.

    async def well(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.keep(request)
        writer.write(OK[self.kind])

    async def twice(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.keep(request)
        self.keep(request)
        writer.write(OK[self.kind])

    async def lost(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def answer_lost(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.keep(request)
        writer.close()

    async def too_late(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.keep(request)
        await asyncio.Event().wait()

    async def broken(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(500, b"oops"))

    async def broken_but_kept(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.keep(request)
        writer.write(answer(502))

    async def busy(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(429, retry_after="300"))

    async def known(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Keep it, or say as Stripe does that it was kept before."""
        reading = READERS[self.kind](request)
        if self.kind == "stripe" and reading.identifier in self.kept:
            self.repeated += 1
            message = f"An event already exists with identifier {reading.identifier}."
            writer.write(answer(400, json.dumps({"error": {"message": message}}).encode()))
            return
        await self.well(request, writer)

    def will(self, *turns: Answer) -> None:
        """Say what happens to the next requests; the last of it again and again."""
        self.server.answers = list(turns)


@asynccontextmanager
async def billing_receiver(kind: str) -> AsyncIterator[BillingReceiver]:
    """Listen on a free port until the block ends."""
    async with http_server() as server:
        receiver = BillingReceiver(kind, server)
        receiver.will(receiver.well)
        yield receiver
