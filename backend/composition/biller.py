"""Opens the outside biller, where one is configured."""

from contextlib import AsyncExitStack
from ipaddress import ip_network

from backend.adapters.db.period_totals import SqlPeriodTotals
from backend.adapters.db.unit_of_work import Database
from backend.adapters.http import HttpxOutbound, SystemResolver
from backend.adapters.http.billers import OpenMeterBiller, StripeBiller
from backend.composition.misconfigured import MisconfiguredError
from backend.domain.clock import Clock
from backend.domain.outbound import problem_of_url
from backend.services.ports import Biller
from backend.services.usage_pushes import UsagePushService
from backend.settings import Settings

# The biller's address is the operator's own: it may be next door.
EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
STRIPE = "https://api.stripe.com"


def open_usage_pushes(
    settings: Settings, database: Database, clock: Clock, stack: AsyncExitStack
) -> UsagePushService | None:
    """Return what tells the outside biller, or nothing where there is none.

    Raises:
        MisconfiguredError: something about it is missing or wrong.
    """
    if settings.biller_kind is None:
        return None
    return UsagePushService(
        store=database,
        totals=SqlPeriodTotals(database),
        biller=_open_biller(settings, stack),
        clock=clock,
    )


def _open_biller(settings: Settings, stack: AsyncExitStack) -> Biller:
    url = settings.biller_url or (STRIPE if settings.biller_kind == "stripe" else None)
    if url is None:
        raise MisconfiguredError("FORECOURT_BILLER_URL is not set")
    problem = problem_of_url(url)
    if problem is not None:
        raise MisconfiguredError(f"FORECOURT_BILLER_URL: {problem}")
    token = settings.biller_token.get_secret_value() if settings.biller_token else None
    resolver = SystemResolver()
    stack.callback(resolver.close)
    outbound = HttpxOutbound(resolver, allowed=EVERYWHERE)
    if settings.biller_kind == "openmeter":
        return OpenMeterBiller(outbound, url=url, token=token, meter=settings.biller_meter)
    if token is None:
        raise MisconfiguredError("FORECOURT_BILLER_TOKEN is not set")
    return StripeBiller(outbound, url=url, token=token, meter=settings.biller_meter)
