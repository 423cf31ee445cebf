"""One transaction and the repositories open in it. The only place that commits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from backend.adapters.db.adjustments import SqlAdjustments
from backend.adapters.db.api_keys import SqlApiKeys
from backend.adapters.db.audit import SqlAuditLog
from backend.adapters.db.billers import SqlBillerCustomers, SqlUsagePushes
from backend.adapters.db.engine import for_writing, is_lost, translated_errors
from backend.adapters.db.idempotency import SqlIdempotencyRecords
from backend.adapters.db.invitations import SqlInvitations
from backend.adapters.db.mailed_tokens import SqlMailedTokens
from backend.adapters.db.memberships import SqlMemberships
from backend.adapters.db.periods import SqlPeriods
from backend.adapters.db.plans import SqlPlans
from backend.adapters.db.revoked_tokens import SqlRevokedTokens
from backend.adapters.db.row_security import see_all_tenants
from backend.adapters.db.service_accounts import SqlServiceAccounts
from backend.adapters.db.sessions import SqlSessions
from backend.adapters.db.signing_keys import SqlSigningKeys
from backend.adapters.db.subscriptions import SqlSubscriptions
from backend.adapters.db.tenants import SqlTenants
from backend.adapters.db.usage_alerts import SqlUsageAlerts
from backend.adapters.db.users import SqlUsers
from backend.adapters.db.webhook_deliveries import SqlWebhookDeliveries
from backend.adapters.db.webhook_endpoints import SqlWebhookEndpoints
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.probed_breaker import ProbedBreaker
from backend.adapters.single_flight import SingleFlight
from backend.domain.errors import StoreUnavailable
from backend.domain.health import HealthStatus, ResourceHealth
from backend.services.ports import Metrics

CHECK_WITHIN_S = 2.0


class SqlUnitOfWork:
    """The repositories over one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._after_commit: list[Callable[[], Awaitable[None]]] = []

    @cached_property
    def tenants(self) -> SqlTenants:
        """Customers."""
        return SqlTenants(self._session)

    @cached_property
    def users(self) -> SqlUsers:
        """People."""
        return SqlUsers(self._session)

    @cached_property
    def memberships(self) -> SqlMemberships:
        """Seats."""
        return SqlMemberships(self._session)

    @cached_property
    def invitations(self) -> SqlInvitations:
        """Seats on offer."""
        return SqlInvitations(self._session)

    @cached_property
    def plans(self) -> SqlPlans:
        """Plan versions."""
        return SqlPlans(self._session)

    @cached_property
    def subscriptions(self) -> SqlSubscriptions:
        """Who is on which plan."""
        return SqlSubscriptions(self._session)

    @cached_property
    def api_keys(self) -> SqlApiKeys:
        """API keys."""
        return SqlApiKeys(self._session)

    @cached_property
    def sessions(self) -> SqlSessions:
        """Logins."""
        return SqlSessions(self._session)

    @cached_property
    def revoked_tokens(self) -> SqlRevokedTokens:
        """Access tokens that were revoked."""
        return SqlRevokedTokens(self._session)

    @cached_property
    def service_accounts(self) -> SqlServiceAccounts:
        """Programs' accounts."""
        return SqlServiceAccounts(self._session)

    @cached_property
    def mailed_tokens(self) -> SqlMailedTokens:
        """Tokens that went out by mail."""
        return SqlMailedTokens(self._session)

    @cached_property
    def signing_keys(self) -> SqlSigningKeys:
        """Token signing keys."""
        return SqlSigningKeys(self._session)

    @cached_property
    def idempotency(self) -> SqlIdempotencyRecords:
        """What creating requests were answered."""
        return SqlIdempotencyRecords(self._session)

    @cached_property
    def adjustments(self) -> SqlAdjustments:
        """Corrections of the books."""
        return SqlAdjustments(self._session)

    @cached_property
    def periods(self) -> SqlPeriods:
        """Billing periods."""
        return SqlPeriods(self._session)

    @cached_property
    def audit(self) -> SqlAuditLog:
        """What happened."""
        return SqlAuditLog(self._session)

    @cached_property
    def webhook_endpoints(self) -> SqlWebhookEndpoints:
        """Where a tenant is told what happens."""
        return SqlWebhookEndpoints(self._session)

    @cached_property
    def webhook_deliveries(self) -> SqlWebhookDeliveries:
        """What is on its way there."""
        return SqlWebhookDeliveries(self._session)

    @cached_property
    def usage_alerts(self) -> SqlUsageAlerts:
        """Which thresholds of its quotas a tenant has reached."""
        return SqlUsageAlerts(self._session)

    @cached_property
    def biller_customers(self) -> SqlBillerCustomers:
        """Under which ids an outside biller knows tenants."""
        return SqlBillerCustomers(self._session)

    @cached_property
    def usage_pushes(self) -> SqlUsagePushes:
        """How far it was told."""
        return SqlUsagePushes(self._session)

    def after_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run ``action`` once the transaction is durable."""
        self._after_commit.append(action)

    async def run_after_commit(self) -> None:
        """Run what was asked for, in order."""
        for action in self._after_commit:
            await action()


class Database:
    """The engine, and units of work on it. Once the server cannot be reached, nobody waits for it again in vain.

    Args:
        engine: see ``open_engine``.
        metrics: where its breaker is counted.
        is_needed: whether nothing can be served while the database is down.
    """

    def __init__(self, engine: AsyncEngine, *, metrics: Metrics | None = None, is_needed: bool = True) -> None:
        self.engine = engine
        self._writing = for_writing(engine)
        self._questions = SingleFlight()
        self._is_needed = is_needed
        self._breaker = ProbedBreaker("database", self._ask, metrics=metrics or NullMetrics(), probe_is_proof=True)

    @asynccontextmanager
    async def unit_of_work(
        self, *, read_only: bool = False, of_all_tenants: bool = False
    ) -> AsyncIterator[SqlUnitOfWork]:
        """Open a unit; commit when the block ends well. One of all tenants may touch the rows of several.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        async with self.guarded():
            engine = self.engine if read_only else self._writing
            async with AsyncSession(engine, expire_on_commit=False) as session:
                unit = SqlUnitOfWork(session)
                async with session.begin():
                    if of_all_tenants:
                        await see_all_tenants(session)
                    yield unit
        await unit.run_after_commit()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a short session for one read.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        async with self.guarded(), AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for a few reads.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        async with self.guarded(), self.engine.connect() as connection:
            yield connection

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Ask the database itself."""
        name = "database"
        try:
            # A server that is silent cannot even be told to give up, so the question is left to itself, one at a time.
            async with asyncio.timeout(CHECK_WITHIN_S):
                await self._questions.run(name, self._ask)
        except (SQLAlchemyError, StoreUnavailable, OSError, TimeoutError):
            status = HealthStatus.DOWN if self._is_needed else HealthStatus.DEGRADED
            return (ResourceHealth(name=name, status=status, detail="does not answer"),)
        self._breaker.proved()
        return (ResourceHealth(name=name, status=HealthStatus.OK),)

    @asynccontextmanager
    async def guarded(self) -> AsyncIterator[None]:
        """Refuse at once while the server cannot be reached; notice when it cannot be.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        if self._breaker.is_open:
            raise StoreUnavailable(retry_after_s=1)
        try:
            with translated_errors():
                yield
        except StoreUnavailable as error:
            if is_lost(error.__cause__):
                self._breaker.failed(type(error.__cause__).__name__)
            raise

    async def _ask(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._breaker.aclose()
        await self.engine.dispose()
