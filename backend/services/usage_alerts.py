"""Tells tenants how much of their quotas is used up. Computed from the ledger's own sums, off the prediction path."""

from datetime import timedelta

from backend.domain.clock import Clock
from backend.domain.ids import KeyId, TenantId
from backend.domain.limits import QuotaRule, period_of
from backend.domain.mail import usage_threshold_mail
from backend.domain.plans import QuotaMode
from backend.domain.scopes import Role
from backend.domain.usage import LEDGER_START, LedgerPosition, UsageTotal
from backend.domain.usage_alerts import QuotaUse, UsageAlert
from backend.domain.webhooks import WebhookEvent
from backend.services.announcements import announce
from backend.services.ports import Outbox, Store, UnitOfWork, UsageTotals

TOLD = frozenset({Role.OWNER, Role.BILLING})
EVERYBODY_EVERY = timedelta(minutes=10)
"""How often also those are looked at who used nothing since: a quota that was lowered is reached without any use."""


class UsageAlertService:
    """Looks at whoever has used something since it looked last. Any number of copies may run."""

    def __init__(self, *, store: Store, totals: UsageTotals, outbox: Outbox, clock: Clock) -> None:
        self._store = store
        self._totals = totals
        self._outbox = outbox
        self._clock = clock
        self._seen: LedgerPosition = LEDGER_START
        self._everybody_at = clock.now()

    async def check(self) -> int:
        """Tell of every threshold that was reached and not told of yet; return how many.

        A process that has just started looks at everybody who ever used anything: what another had begun to tell may
        have been lost with it, and what was told is known by the store.
        """
        now = self._clock.now()
        if now >= self._everybody_at:
            self._seen, self._everybody_at = LEDGER_START, now + EVERYBODY_EVERY
        active, watermark = await self._totals.active_of_all_tenants(self._seen)
        told = 0
        for tenant_id in sorted(active):
            told += await self._check_tenant(tenant_id)
        self._seen = watermark
        return told

    async def _check_tenant(self, tenant_id: TenantId) -> int:
        period = period_of(self._clock.now_s())
        totals = await self._totals.of_period(tenant_id, period)
        if not totals:
            return 0
        async with self._store.unit_of_work(read_only=True) as unit:
            uses = await self._uses(unit, tenant_id, period, totals)
            known = {
                (alert.use.environment, alert.use.subject, alert.threshold)
                for alert in await unit.usage_alerts.list(tenant_id, period)
            }
        fresh = [
            (use, threshold)
            for use in uses
            for threshold in use.reached()
            if (use.environment, use.subject, threshold) not in known
        ]
        if not fresh:
            return 0
        async with self._store.unit_of_work() as unit:
            return await self._tell(unit, tenant_id, fresh)

    async def _uses(
        self, unit: UnitOfWork, tenant_id: TenantId, period: str, totals: tuple[UsageTotal, ...]
    ) -> list[QuotaUse]:
        """Return how much is used of each quota of a tenant and its keys."""
        plan = await unit.subscriptions.current_plan(tenant_id, self._clock.now())
        tenant = await unit.tenants.get(tenant_id)
        uses = []
        if plan is not None and tenant is not None:
            uses = _of_tenant(tenant.limits.quota_under(plan, tenant_id), period, totals)
        # At once: a tenant may have a hundred thousand keys.
        return uses + _of_keys(await unit.api_keys.monthly_quotas(tenant_id), period, totals)

    async def _tell(self, unit: UnitOfWork, tenant_id: TenantId, fresh: list[tuple[QuotaUse, int]]) -> int:
        """Write down and announce what nobody else has; one letter for each quota tells of the highest threshold."""
        now = self._clock.now()
        highest: dict[tuple[str, str], UsageAlert] = {}
        told = 0
        for use, threshold in fresh:
            alert = UsageAlert(use=use, threshold=threshold, at=now)
            if await unit.usage_alerts.add(tenant_id, alert):
                await announce(unit, tenant_id, WebhookEvent.USAGE_THRESHOLD_REACHED, alert.content(), now)
                highest[use.environment, use.subject] = alert
                told += 1
        if told:
            await self._mail(unit, tenant_id, list(highest.values()))
        return told

    async def _mail(self, unit: UnitOfWork, tenant_id: TenantId, alerts: list[UsageAlert]) -> None:
        tenant = await unit.tenants.get(tenant_id)
        addresses = await unit.memberships.emails_of(tenant_id, TOLD)
        name = tenant.name if tenant else tenant_id
        mails = [
            usage_threshold_mail(to=address, tenant=name, alert=alert) for alert in alerts for address in addresses
        ]

        async def post() -> None:
            for mail in mails:
                self._outbox.post(mail)

        unit.after_commit(post)


def _of_tenant(rule: QuotaRule, period: str, totals: tuple[UsageTotal, ...]) -> list[QuotaUse]:
    """Return how much is used of a tenant's own quota, which live and test keys have one of each."""
    if rule.limit is None:
        return []
    environments = dict.fromkeys(total.environment for total in totals)
    return [
        QuotaUse(
            period=period,
            environment=environment,
            scope="tenant",
            subject=rule.subject,
            units=sum(total.units for total in totals if total.environment is environment),
            limit=rule.limit,
            mode=rule.mode,
        )
        for environment in environments
    ]


def _of_keys(quotas: dict[KeyId, int], period: str, totals: tuple[UsageTotal, ...]) -> list[QuotaUse]:
    """Return how much is used of each key's own quota."""
    return [
        QuotaUse(
            period=period,
            environment=total.environment,
            scope="key",
            subject=total.credential_id,
            units=total.units,
            limit=quotas[KeyId(total.credential_id)],
            mode=QuotaMode.HARD,
        )
        for total in totals
        if KeyId(total.credential_id) in quotas
    ]
