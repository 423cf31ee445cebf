"""Usage on the wire."""

from pydantic import Field

from backend.api.schemas.common import Instant, Out
from backend.domain.usage import GroupBy, StoredEvent, SummaryLine, SummaryQuery, bucket_end


class UsageEventOut(Out):
    """One answered request, as the ledger holds it."""

    id: str
    tenant_id: str
    occurred_at: Instant
    stored_at: Instant
    period: str
    key_id: str = Field(description="The API key, or the user who called with an access token.")
    environment: str
    model: str
    version: str
    units: int
    cached_units: int
    billable_units: int
    reason: str
    plan_id: str
    plan_version: int
    request_id: str

    @classmethod
    def of(cls, stored: StoredEvent) -> "UsageEventOut":
        """Return an event's wire form."""
        event = stored.event
        return cls(
            id=event.id,
            tenant_id=event.tenant_id,
            occurred_at=event.occurred_at,
            stored_at=stored.stored_at,
            period=event.period,
            key_id=event.credential_id,
            environment=event.environment,
            model=event.model,
            version=event.model_version,
            units=event.units,
            cached_units=event.cached_units,
            billable_units=event.billable_units,
            reason=event.reason,
            plan_id=event.plan_id,
            plan_version=event.plan_version,
            request_id=event.request_id,
        )


class UsageTotals(Out):
    """Sums of events."""

    events: int
    units: int
    cached_units: int
    billable_units: int


class SummaryLineOut(UsageTotals):
    """One bucket of one group; of `model`, `key_id` and `environment` those asked for are set."""

    start: Instant
    end: Instant
    complete: bool = Field(
        description="Whether the bucket lies within the span, and no event can be added to it any more."
    )
    model: str | None = None
    key_id: str | None = None
    environment: str | None = None

    @classmethod
    def of(cls, line: SummaryLine, query: SummaryQuery) -> "SummaryLineOut":
        """Return a line's wire form."""
        group = dict(line.group)
        return cls(
            start=line.start,
            end=bucket_end(line.start, query.bucket),
            complete=line.complete,
            model=group.get(GroupBy.MODEL),
            key_id=group.get(GroupBy.KEY),
            environment=group.get(GroupBy.ENVIRONMENT),
            events=line.events,
            units=line.units,
            cached_units=line.cached_units,
            billable_units=line.billable_units,
        )


class SummaryOut(Out):
    """Usage over a span; buckets without usage are left out."""

    start: Instant = Field(serialization_alias="from")
    end: Instant = Field(serialization_alias="to")
    bucket: str
    group_by: list[str]
    data: list[SummaryLineOut]
    totals: UsageTotals

    @classmethod
    def of(cls, query: SummaryQuery, lines: tuple[SummaryLine, ...]) -> "SummaryOut":
        """Return a summary's wire form."""
        return cls(
            start=query.start,
            end=query.end,
            bucket=query.bucket,
            group_by=[by.value for by in query.group_by],
            data=[SummaryLineOut.of(line, query) for line in lines],
            totals=UsageTotals(
                events=sum(line.events for line in lines),
                units=sum(line.units for line in lines),
                cached_units=sum(line.cached_units for line in lines),
                billable_units=sum(line.billable_units for line in lines),
            ),
        )
