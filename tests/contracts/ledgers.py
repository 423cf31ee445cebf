"""A migrated ledger in a database of either kind, written by the application and looked at by somebody else."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, text

from backend.adapters.db.engine import open_engine
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.memory.metrics import NullMetrics
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import period_of
from backend.domain.usage import BillingReason, UsageEvent
from tests.databases import connected

PATIENT_S = 30.0
SERVED_AT = datetime(2026, 7, 15, 12, 30, 15, 123456, tzinfo=UTC)

_tenants = itertools.count(1)


def new_tenant() -> TenantId:
    """Return a tenant that nobody has used: tests share databases, not tenants."""
    return TenantId(f"ten_{next(_tenants)}")


def an_event(tenant_id: TenantId, *, occurred_at: datetime = SERVED_AT, **changes: Any) -> UsageEvent:
    """Return an event of two rows, one of them from the cache, with whatever a test cares about."""
    event = UsageEvent(
        id=new_id("evt"),
        tenant_id=tenant_id,
        credential_id="key_a",
        environment=Environment.LIVE,
        model="iris",
        model_version="1",
        units=2,
        cached_units=1,
        billable_units=1,
        reason=BillingReason.LIVE,
        plan_id="pln_1",
        plan_version=1,
        request_id=new_id("req"),
        occurred_at=occurred_at,
        period=period_of(occurred_at.timestamp()),
    )
    return replace(event, **changes)


def columns_of(event: UsageEvent) -> dict[str, Any]:
    """Return an event as the ledger's columns name it."""
    fields = {name: str(value) if isinstance(value, str) else value for name, value in asdict(event).items()}
    return {"event_id": fields.pop("id"), **fields, "fingerprint": event.fingerprint()}


def insert(connection: Connection, event: UsageEvent) -> None:
    """Insert an event past the ledger's writer, as another replica does, and leave the transaction open."""
    connection.execute(sqlalchemy.insert(UsageEventRow), columns_of(event) | {"stored_at": datetime.now(UTC)})


def current_transaction(connection: Connection) -> int:
    """Return the id of a PostgreSQL transaction, which it has from then on."""
    return int(connection.execute(text("SELECT pg_current_xact_id()::text")).scalar_one())


@dataclass(frozen=True, slots=True)
class Books:
    """One ledger: the application's connections to its database, and everybody else's."""

    url: str
    database: Database

    @property
    def is_postgres(self) -> bool:
        return self.database.engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def writer(self, **options: Any) -> AsyncIterator[GroupCommitLedger]:
        """Start a writer; close it in the end, which writes what is pending."""
        patient: dict[str, Any] = {"metrics": NullMetrics(), "within_s": PATIENT_S}
        ledger = GroupCommitLedger(self.database, **patient | options)
        ledger.start()
        try:
            yield ledger
        finally:
            await ledger.aclose()

    def rows(self, tenant_id: TenantId) -> list[dict[str, Any]]:
        """Return what the ledger holds of a tenant, as another program sees it at this moment."""
        query = text("SELECT * FROM usage_events WHERE tenant_id = :tenant ORDER BY position")
        with connected(self.url) as connection:
            return [dict(row) for row in connection.execute(query, {"tenant": tenant_id}).mappings()]

    def ids(self, tenant_id: TenantId) -> list[str]:
        return [row["event_id"] for row in self.rows(tenant_id)]

    def commits(self, rows: Sequence[dict[str, Any]]) -> int:
        """Count the transactions that wrote these rows."""
        return len({row["commit_xid" if self.is_postgres else "stored_at"] for row in rows})


async def append_all(ledger: GroupCommitLedger, events: Sequence[UsageEvent]) -> None:
    """Append at once, so that several share a commit."""
    await asyncio.gather(*(ledger.append(event.tenant_id, event) for event in events))


@asynccontextmanager
async def opened_books(url: str, *, timeout_s: float = PATIENT_S) -> AsyncIterator[Books]:
    """Open a migrated database as the application does. By default its bounds are wide: most tests do not wait."""
    database = Database(open_engine(url, pool_size=10, timeout_s=timeout_s))
    try:
        yield Books(url, database)
    finally:
        await database.aclose()
