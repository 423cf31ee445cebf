"""Opens every resource in order, each with its end on the stack, so that they close in the opposite order."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from backend.adapters.crypto.access_tokens import JoseTokenIssuer, SigningKey
from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.crypto.key_hashes import PepperedKeyHasher
from backend.adapters.crypto.keys import Sealer
from backend.adapters.crypto.model_signatures import Ed25519ModelKeys, UnusableSigningKey
from backend.adapters.crypto.opaque_tokens import HmacOpaqueTokens
from backend.adapters.crypto.passwords import Argon2Passwords
from backend.adapters.crypto.signing_keys import SealingSmith
from backend.adapters.db.engine import open_engine
from backend.adapters.db.key_directory import SqlKeyDirectory
from backend.adapters.db.key_use import BatchedKeyUse
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
from backend.adapters.memory.key_directory import CachedKeyDirectory
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.memory.stranger_throttle import MemoryStrangerThrottle
from backend.adapters.prometheus.exposition import shown
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis.address import UnusableRedisUrl
from backend.adapters.redis.admission import RedisAdmission
from backend.api.resources import HttpOptions, Resources
from backend.composition.admission import open_admission, open_fallback, signal_of
from backend.composition.biller import open_usage_pushes
from backend.composition.jobs import closing_on, jobs_on, outgoing_on, run_inside
from backend.composition.metering import Metering, open_metering
from backend.composition.misconfigured import MisconfiguredError
from backend.composition.outbound import open_outbound
from backend.composition.periodic import run_periodically
from backend.domain.clock import Clock, SystemClock
from backend.model_service.lanes import LaneLimits
from backend.model_service.repository import ModelRepository
from backend.model_service.rollouts import FolderRollouts
from backend.model_service.service import ModelService
from backend.model_service.signatures import IsSigned
from backend.services.ports import LoginThrottle, Mailer, Metrics, Store
from backend.services.predictions import PredictionService
from backend.services.signing_keys import still_verifies
from backend.settings import Settings
from backend.worker import Job, usage_push

KEY_USE_EVERY_S = 30.0
SIGNING_KEYS_EVERY_S = 30.0
MODELS_EVERY_S = 2.0


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
        admission, throttle = await open_admission(settings, stack, clock, reader, signal, metrics or NullMetrics())
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
    books = closing_on(shared.database, shared.usage_reader, shared.admission, shared.clock, settings.period_grace_s)
    outward = outgoing_on(shared.database, outbound, sealer, outbox, shared.clock, metrics)
    return (*inward, books, *outward, *(() if pushes is None else (usage_push(pushes),)))


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


async def open_resources(settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None) -> Resources:
    """Open everything a server needs. Models are loaded when this returns."""
    clock = clock or SystemClock()
    metrics = open_metrics(settings, stack)
    shared = await open_shared(settings, stack, clock, metrics)
    admission, login_throttle = await open_fallback(
        settings, stack, shared.admission, shared.login_throttle, shared.usage_reader, clock, metrics
    )
    secret = secret_of(settings)
    issuer = JoseTokenIssuer(
        await load_signing_keys(shared.database, secret, clock),
        issuer=settings.issuer,
        audience=settings.issuer,
        ttl_s=settings.access_token_ttl_s,
        clock=clock,
        read_keys=lambda: load_signing_keys(shared.database, secret, clock),
    )
    await run_periodically(stack, "signing keys", issuer.reload, every_s=SIGNING_KEYS_EVERY_S)
    key_use = BatchedKeyUse(shared.database, clock)
    stack.push_async_callback(key_use.flush)
    await run_periodically(stack, "key use", key_use.flush, every_s=KEY_USE_EVERY_S)
    passwords = Argon2Passwords()
    stack.callback(passwords.close)
    outbox = open_outbox(settings, stack, clock)
    outbound = open_outbound(settings, stack)
    metering = open_metering(settings, stack, clock, metrics, shared.turns)
    if settings.jobs == "inside":
        run_inside(open_jobs(settings, shared, metering, outbound, outbox, metrics, stack), stack, metrics)
    models = await ModelService.open(
        settings.models,
        allow_pickle=settings.allow_pickle_models,
        max_rows=settings.max_rows,
        is_signed=open_model_keys(settings),
        metrics=metrics,
        # A caller may always have a few of the largest requests waiting, however large those are.
        limits=LaneLimits(
            max_share_rows=max(4_000, 4 * settings.max_rows), max_waiting_rows=max(40_000, 40 * settings.max_rows)
        ),
    )
    stack.push_async_callback(models.aclose)
    await run_periodically(stack, "models", models.refresh, every_s=MODELS_EVERY_S)
    directory = CachedKeyDirectory(
        SqlKeyDirectory(shared.database, clock),
        clock,
        ttl_s=settings.key_cache_ttl_s,
        stale_for_s=settings.stale_key_window_s,
        signal=shared.signal,
    )
    predictions = PredictionService(
        catalog=models, admission=admission, ledger=metering.ledger, keys=directory, clock=clock, metrics=metrics
    )
    stack.push_async_callback(predictions.settled)
    return Resources(
        settings=HttpOptions(
            password_grant=settings.password_grant,
            public_url=settings.public_url,
            issuer=settings.issuer,
            sign_up=settings.sign_up,
            sign_up_plan=settings.sign_up_plan,
            period_grace_s=settings.period_grace_s,
        ),
        clock=clock,
        metrics=metrics,
        store=shared.database,
        admission=admission,
        ledger=metering.ledger,
        usage_reader=shared.usage_reader,
        catalog=models,
        rollouts=FolderRollouts(ModelRepository(settings.models), changed=models.refresh_soon),
        key_directory=directory,
        password_hasher=passwords,
        key_hasher=open_key_hasher(settings),
        key_use=key_use,
        answer_sealer=Sealer(secret, "idempotent-answers"),
        webhook_sealer=open_webhook_sealer(settings),
        token_issuer=issuer,
        opaque_tokens=HmacOpaqueTokens(secret),
        mailed_tokens=HmacOpaqueTokens(secret, kind="mailed-token", prefix="fm_"),
        outbox=outbox,
        outbound=outbound,
        strangers=MemoryStrangerThrottle(clock, per_minute=settings.unknown_key_rate),
        cursor_codec=HmacCursors(secret),
        login_throttle=login_throttle,
        health_probes=(shared.database, admission, metering.ledger, models),
        predictions=predictions,
    )


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
