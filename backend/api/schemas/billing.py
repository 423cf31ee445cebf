"""Periods, statements and adjustments on the wire. Money is in micros: millionths of the currency's unit."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.api.schemas.common import In, Instant, Out
from backend.domain.adjustments import MOST_UNITS, Adjustment, AdjustmentKind
from backend.domain.billing_periods import Comparison, ControlTotals, PeriodState, PeriodView
from backend.domain.statements import LineKind, StatementLine, total_micros
from backend.services.adjustments import Correction
from backend.services.billing import Statement
from backend.services.closing import CloseReport
from backend.services.periods import AllTenants

PERIOD = r"^[0-9]{4}-(0[1-9]|1[0-2])$"
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}_[0-9A-Za-z]{1,40}$")]


class ControlTotalsOut(Out):
    """What a period comes to, events and adjustments together."""

    events: int
    adjustments: int
    units: int
    billable_units: int
    amount_micros: int
    currency: str
    first_position: str | None = Field(description="Place of the first event in commit order.")
    last_position: str | None
    sha256: str | None = Field(
        description="Over the records in order: the NDJSON export without its last line. Known once closed."
    )

    @classmethod
    def fields_of(cls, totals: ControlTotals) -> dict[str, object]:
        """Return the totals' fields, for whatever wire model holds them."""
        return {name: getattr(totals, name) for name in cls.model_fields}


class PeriodOut(ControlTotalsOut):
    """A tenant's month. Once it is closed, nothing of it changes."""

    period: str
    tenant_id: str | None = Field(description="`null` for all tenants together.")
    state: PeriodState
    closed_at: Instant | None
    tenants: dict[PeriodState, int] | None = Field(None, description="Of all tenants together: how many are how far.")

    @classmethod
    def of(cls, view: PeriodView | AllTenants) -> "PeriodOut":
        """Return a period's wire form."""
        return cls.model_validate(
            {
                "period": view.period,
                "tenant_id": view.tenant_id if isinstance(view, PeriodView) else None,
                "state": view.state,
                "closed_at": view.closed_at if isinstance(view, PeriodView) else None,
                "tenants": None if isinstance(view, PeriodView) else view.tenants,
                **ControlTotalsOut.fields_of(view.totals),
            }
        )


class ComparisonOut(Out):
    """One environment's units, as the ledger and the quota have them."""

    environment: str
    ledger_units: int
    settled_units: int | None = Field(description="`null` when no counter of this month is left to compare with.")
    difference: int | None
    agrees: bool


class ReconciliationOut(Out):
    """A tenant's month in the ledger, beside what was settled on its quota."""

    period: str
    tenant_id: str
    agrees: bool
    data: list[ComparisonOut]

    @classmethod
    def of(cls, tenant_id: str, period: str, found: tuple[Comparison, ...]) -> "ReconciliationOut":
        """Return a reconciliation's wire form."""
        return cls(
            period=period,
            tenant_id=tenant_id,
            agrees=all(each.agrees for each in found),
            data=[
                ComparisonOut(
                    environment=each.environment,
                    ledger_units=each.ledger_units,
                    settled_units=each.settled_units,
                    difference=None if each.settled_units is None else each.ledger_units - each.settled_units,
                    agrees=each.agrees,
                )
                for each in found
            ],
        )


class CloseIn(In):
    """What to close, where it is not everything."""

    tenant_id: Identifier | None = None
    accept_difference: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        None, description="Why a difference between ledger and quota does not matter; the ledger counts. Recorded."
    )


class CloseOut(Out):
    """How far a close got."""

    period: str
    state: PeriodState
    closed: int = Field(description="Tenants whose period is closed.")
    closing: int = Field(description="Tenants that wait for their turn: ask again, or leave it to the worker.")

    @classmethod
    def of(cls, report: CloseReport) -> "CloseOut":
        """Return a report's wire form."""
        return cls(period=report.period, state=report.state, closed=report.closed, closing=report.closing)


class StatementLineOut(Out):
    """One priced line."""

    kind: LineKind
    plan_id: str
    plan: str
    plan_version: int
    units: int = Field(description="Billable units; of a flat fee, the seconds that it is owed for.")
    included_units: int
    currency: str
    amount_micros: int
    corrects_period: str | None

    @classmethod
    def of(cls, line: StatementLine) -> "StatementLineOut":
        """Return a line's wire form."""
        return cls.model_validate({name: getattr(line, name) for name in cls.model_fields})


class StatementOut(Out):
    """What a tenant owes for a month; of an open one, so far."""

    tenant_id: str
    period: str
    state: PeriodState
    closed_at: Instant | None
    currency: str
    lines: list[StatementLineOut]
    total_micros: int

    @classmethod
    def of(cls, statement: Statement) -> "StatementOut":
        """Return a statement's wire form."""
        view = statement.view
        return cls(
            tenant_id=view.tenant_id,
            period=view.period,
            state=view.state,
            closed_at=view.closed_at,
            currency=view.totals.currency,
            lines=[StatementLineOut.of(line) for line in statement.lines],
            total_micros=total_micros(statement.lines),
        )


class AdjustmentIn(In):
    """A correction of an event, or of a tenant's month as a whole."""

    event_id: Identifier | None = None
    period: Annotated[str, StringConstraints(pattern=PERIOD)] | None = None
    tenant_id: Identifier | None = Field(None, description="Needed with `period`.")
    units: int = Field(ge=-MOST_UNITS, le=MOST_UNITS, description="Billable units more, or negative: fewer. Never 0.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]

    def to_correction(self) -> Correction:
        """Return the same in the service's words."""
        return Correction(
            event_id=self.event_id,
            period=self.period,
            tenant_id=self.tenant_id,
            units=self.units,
            reason=self.reason,
        )


class AdjustmentOut(Out):
    """A signed row beside the ledger's."""

    id: str
    tenant_id: str
    kind: AdjustmentKind
    period: str = Field(description="The month that it is booked in.")
    corrects_period: str
    event_id: str | None
    units: int
    billable_units: int
    reason: str
    plan_id: str
    plan_version: int
    actor_kind: str
    actor_id: str
    created_at: Instant

    @classmethod
    def of(cls, adjustment: Adjustment) -> "AdjustmentOut":
        """Return an adjustment's wire form."""
        return cls.model_validate({name: getattr(adjustment, name) for name in cls.model_fields})
