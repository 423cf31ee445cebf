"""Opens what the server, the worker and the command line share, each with its end on the stack.

What only a server needs is opened by :mod:`backend.composition.server`: nothing here knows HTTP or loads a model.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from backend.adapters.crypto.access_tokens import SigningKey
from backend.adapters.crypto.key_hashes import PepperedKeyHasher
from backend.adapters.crypto.keys import Sealer
from backend.adapters.crypto.model_signatures import Ed25519ModelKeys, UnusableSigningKey
from backend.adapters.crypto.signing_keys import SealingSmith
from backend.adapters.db.engine import open_engine
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.db.write_turns import WriteTurns
from backend.adapters.http import HttpxOutbound
from backend.adapters.mail.file import FileMailer
from backend.adapters.mail.outbox import BackgroundOutbox
from backend.adapters.mail.smtp import SmtpMailer
from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.memory.change_signal import ChangeSignal
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.prometheus.exposition import shown
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis.address import UnusableRedisUrl
from backend.adapters.redis.admission import RedisAdmission
from backend.composition.admission import open_admission, signal_of
from backend.composition.biller import open_usage_pushes
from backend.composition.jobs import jobs_on, outgoing_on, retention_on
from backend.composition.metering import Metering
from backend.composition.misconfigured import MisconfiguredError
from backend.domain.clock import Clock
from backend.model_service.signatures import IsSigned
from backend.services.closing import PeriodCloser
from backend.services.ports import LoginThrottle, Mailer, Metrics, Store, WaitingUsage
from backend.services.signing_keys import still_verifies
from backend.settings import Settings
from backend.worker import Job, closing, usage_push


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the server and the command line both need."""

    clock: Clock
    database: Database
    turns: WriteTurns
    usage_reader: SqlUsageReader
    usage_rollups: SqlUsageRollups
    admission: MemoryAdmission | RedisAdmission
    login_throttle: LoginThrottle
    waiting_usage: WaitingUsage
    signal: ChangeSignal


async def open_shared(
    settings: Settings, stack: AsyncExitStack, clock: Clock, metrics: Metrics | None = None
) -> Shared:
    """Open the store and admission. Nothing is asked of either yet: a dead one shows in ``/readyz``."""
    turns = WriteTurns(settings.database_timeout_s)
    database = Database(
        open_engine(
            settings.database_url,
            pool_size=settings.database_pool_size,
            timeout_s=settings.database_timeout_s,
            turns=turns,
        ),
        metrics=metrics,
        # With Redis, cached keys go on and usage is kept there.
        is_needed=settings.redis_url is None,
    )
    stack.push_async_callback(database.aclose)
    reader = SqlUsageReader(database, clock)
    signal = signal_of(settings)
    try:
        admission, throttle, waiting = await open_admission(
            settings, stack, clock, reader, signal, metrics or NullMetrics()
        )
    except UnusableRedisUrl as error:
        raise MisconfiguredError(f"FORECOURT_REDIS_URL {error}") from None
    return Shared(
        clock=clock,
        database=database,
        turns=turns,
        usage_reader=reader,
        usage_rollups=SqlUsageRollups(database),
        admission=admission,
        login_throttle=throttle,
        waiting_usage=waiting,
        signal=signal,
    )


def open_webhook_sealer(settings: Settings) -> Sealer:
    """Return what seals the secrets that webhooks are signed with."""
    return Sealer(secret_of(settings), "webhook-secrets")


def open_jobs(
    settings: Settings,
    shared: Shared,
    metering: Metering,
    outbound: HttpxOutbound,
    outbox: BackgroundOutbox,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> tuple[Job, ...]:
    """Return the periodic jobs on what is open."""
    sealer = open_webhook_sealer(settings)
    pushes = open_usage_pushes(settings, shared.database, shared.clock, stack)
    inward = jobs_on(shared.database, shared.usage_rollups, shared.usage_reader, metering, shared.clock, metrics)
    books = closing(open_closer(settings, shared))
    outward = outgoing_on(shared.database, outbound, sealer, outbox, shared.clock, metrics)
    old = retention_on(settings, shared.clock, shared.turns, stack)
    return (*inward, *old, books, *outward, *(() if pushes is None else (usage_push(pushes),)))


def open_closer(settings: Settings, shared: Shared) -> PeriodCloser:
    """Return what closes months, beside no requests."""
    return PeriodCloser(
        store=shared.database,
        reader=shared.usage_reader,
        waiting=shared.waiting_usage,
        admission=shared.admission,
        clock=shared.clock,
        grace_s=settings.period_grace_s,
    )


def open_key_hasher(settings: Settings) -> PepperedKeyHasher:
    """Return the API key hasher under the configured peppers."""
    return PepperedKeyHasher({version: pepper.get_secret_value() for version, pepper in settings.key_peppers.items()})


def open_model_keys(settings: Settings) -> IsSigned | None:
    """Return the check of model signatures, where signing keys are configured.

    Raises:
        MisconfiguredError: one of them is not a key.
    """
    if not settings.model_signing_keys:
        return None
    try:
        return Ed25519ModelKeys(settings.model_signing_keys).is_signed
    except UnusableSigningKey as error:
        raise MisconfiguredError(f"FORECOURT_MODEL_SIGNING_KEYS: {error}") from error


def open_metrics(settings: Settings, stack: AsyncExitStack) -> PrometheusMetrics:
    """Return the metrics, shown on a port of their own where that is set."""
    metrics = PrometheusMetrics()
    if settings.metrics_port is not None:
        host, port = settings.metrics_host, settings.metrics_port
        try:
            stack.enter_context(shown(metrics, host, port, processes=settings.workers))
        except OSError as error:
            raise MisconfiguredError(f"FORECOURT_METRICS_PORT: cannot listen on {host}:{port}") from error
    return metrics


def open_outbox(settings: Settings, stack: AsyncExitStack, clock: Clock) -> BackgroundOutbox:
    """Return what takes mail; it is sent before everything else is closed."""
    outbox = BackgroundOutbox(_open_mailer(settings, clock))
    stack.push_async_callback(outbox.settled)
    return outbox


def _open_mailer(settings: Settings, clock: Clock) -> Mailer:
    if settings.smtp_url is None:
        return FileMailer(settings.mail_folder, sender=settings.mail_from, clock=clock)
    try:
        return SmtpMailer(settings.smtp_url.get_secret_value(), sender=settings.mail_from, clock=clock)
    except ValueError as error:
        raise MisconfiguredError(f"FORECOURT_SMTP_URL: {error}") from None


def secret_of(settings: Settings) -> str:
    """Return the configured secret.

    Raises:
        MisconfiguredError: there is none; only demo mode lets the settings get this far without.
    """
    if settings.secret_key is None or not settings.key_peppers:
        raise MisconfiguredError(
            "FORECOURT_SECRET_KEY and FORECOURT_KEY_PEPPERS are not set; `forecourt demo` makes its own"
        )
    return settings.secret_key.get_secret_value()


async def load_signing_keys(store: Store, secret: str, clock: Clock) -> tuple[SigningKey, ...]:
    """Return the token signing keys that still verify, newest first; make the first one where there is none.

    Raises:
        MisconfiguredError: the stored keys were sealed under another secret.
    """
    smith = SealingSmith(secret)
    async with store.unit_of_work(read_only=True) as unit:
        stored = await unit.signing_keys.list_all()
    if not stored:
        async with store.unit_of_work() as unit:
            await unit.signing_keys.hold()
            stored = await unit.signing_keys.list_all()
            if not stored:
                stored = [smith.make(clock.now())]
                await unit.signing_keys.add(stored[0])
    try:
        return tuple(smith.open(key) for key in stored if still_verifies(key, clock))
    except InvalidTag as error:
        raise MisconfiguredError("FORECOURT_SECRET_KEY is not the one this database was set up with") from error
