"""Usage, read by those who pay for it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from backend.domain.callers import Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, MeteringUnavailable, UsageExpired
from backend.domain.limits import period_of
from backend.domain.usage import (
    LEDGER_START,
    Bucket,
    EventFilter,
    EventPage,
    GroupBy,
    LedgerPosition,
    SummaryLine,
    SummaryQuery,
    bucket_end,
    bucket_start,
    is_complete,
)
from backend.services.ports import CursorCodec, UsageReader, WaitingUsage

MAX_SPAN = {
    Bucket.HOUR: timedelta(days=62),
    Bucket.DAY: timedelta(days=800),
    Bucket.MONTH: timedelta(days=8000),
}

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAnswer:
    """A page of events and where the next one begins; ``None`` at the watermark, for now."""

    page: EventPage
    next_cursor: str | None


class UsageService:
    """Events and totals of one tenant."""

    def __init__(self, *, reader: UsageReader, waiting: WaitingUsage, cursors: CursorCodec, clock: Clock) -> None:
        self._reader = reader
        self._waiting = waiting
        self._cursors = cursors
        self._clock = clock

    async def events(
        self, caller: Caller | PlatformCaller, wanted: EventFilter, *, cursor: str | None, limit: int
    ) -> EventsAnswer:
        """Return events in commit order, up to the watermark: a tenant's own, or to the platform every tenant's.

        Raises:
            UsageExpired: a period is asked for whose events, or some tenant's of it, are not kept any more.
        """
        if wanted.period is not None and await self._is_expired(caller, wanted.period):
            raise UsageExpired
        whose = caller.tenant_id if isinstance(caller, Caller) else "*"
        purpose = f"usage:{whose}:{wanted.period}:{wanted.credential_id}:{wanted.model}"
        after = LEDGER_START
        if cursor is not None:
            after = LedgerPosition.parse(self._cursors.decode(purpose, cursor))
        if isinstance(caller, Caller):
            page = await self._reader.events(caller.tenant_id, wanted, after, limit)
        else:
            page = await self._reader.events_of_all_tenants(wanted, after, limit)
        next_cursor = None
        if page.has_more:
            next_cursor = self._cursors.encode(purpose, str(page.events[-1].position))
        return EventsAnswer(page=page, next_cursor=next_cursor)

    async def summary(
        self,
        caller: Caller,
        *,
        start: datetime | None,
        end: datetime | None,
        bucket: Bucket,
        group_by: tuple[GroupBy, ...],
    ) -> tuple[SummaryQuery, tuple[SummaryLine, ...]]:
        """Return totals; by default from the first of this month to the end of this hour.

        Raises:
            Invalid: an instant without a zone or in another than UTC, an empty or an overlong span.
            UsageExpired: the span begins or ends within an hour whose events are not kept any more.
        """
        now = self._clock.now()
        # Nothing is served in the hour's rest yet, and whole hours are rolled up.
        end = end or bucket_end(bucket_start(now, Bucket.HOUR), Bucket.HOUR)
        start = start or bucket_start(now, Bucket.MONTH)
        for name, instant in (("from", start), ("to", end)):
            if instant.utcoffset() != timedelta(0):
                raise _bad(name, "must be an instant in UTC, such as 2026-01-31T00:00:00Z")
        if end <= start:
            raise _bad("to", "must lie after from")
        if end - start > MAX_SPAN[bucket]:
            raise _bad("from", f"lies too far back for buckets of one {bucket}")
        for name, instant in (("from", start), ("to", end)):
            # Whole hours are rolled up for good; a part of one has to be counted.
            is_whole = instant == bucket_start(instant, Bucket.HOUR)
            if not is_whole and await self._is_expired(caller, period_of(instant.timestamp())):
                raise UsageExpired(errors=(FieldError(f"/query/{name}", "must be a whole hour that far back"),))
        query = SummaryQuery(start=start, end=end, bucket=bucket, group_by=tuple(dict.fromkeys(group_by)))
        # Asked first: what is drained meanwhile is in the sums.
        booked_until = await self._booked_until()
        lines = await self._reader.summary(caller.tenant_id, query)
        return query, lines if booked_until is None else _cut(lines, query, booked_until)

    async def _is_expired(self, caller: Caller | PlatformCaller, period: str) -> bool:
        if isinstance(caller, Caller):
            return await self._reader.is_expired(caller.tenant_id, period)
        return await self._reader.is_expired_of_all_tenants(period)

    async def _booked_until(self) -> datetime | None:
        """Return the instant from which usage waits for the ledger; ``None`` when none does."""
        try:
            return await self._waiting.oldest_at()
        except MeteringUnavailable:
            # Whatever was served at any time may wait there.
            return LONG_AGO


def _cut(lines: tuple[SummaryLine, ...], query: SummaryQuery, booked_until: datetime) -> tuple[SummaryLine, ...]:
    """Call no bucket complete to which waiting usage may belong."""
    return tuple(
        [replace(line, complete=line.complete and is_complete(line.start, query, booked_until)) for line in lines]
    )


def _bad(name: str, detail: str) -> Invalid:
    return Invalid(errors=(FieldError(f"/query/{name}", detail),))
