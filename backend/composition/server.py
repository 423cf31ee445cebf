"""Opens every resource of a server in order, each with its end on the stack, so that they close the other way round."""

from contextlib import AsyncExitStack

from backend.adapters.crypto.access_tokens import JoseTokenIssuer
from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.crypto.keys import Sealer
from backend.adapters.crypto.opaque_tokens import HmacOpaqueTokens
from backend.adapters.crypto.passwords import Argon2Passwords
from backend.adapters.db.key_directory import SqlKeyDirectory
from backend.adapters.db.key_use import BatchedKeyUse
from backend.adapters.memory.key_directory import CachedKeyDirectory
from backend.adapters.memory.precedence import PredictionsFirst
from backend.adapters.memory.stranger_throttle import MemoryStrangerThrottle
from backend.api.resources import HttpOptions, Resources
from backend.composition import (
    load_signing_keys,
    open_jobs,
    open_key_hasher,
    open_metrics,
    open_model_keys,
    open_outbox,
    open_shared,
    open_webhook_sealer,
    secret_of,
)
from backend.composition.admission import open_fallback
from backend.composition.jobs import run_inside
from backend.composition.metering import open_metering
from backend.composition.models import open_model_files
from backend.composition.outbound import open_outbound
from backend.composition.periodic import run_periodically
from backend.domain.clock import Clock, SystemClock
from backend.model_service import LaneLimits, ModelService
from backend.model_service.repository import ModelRepository
from backend.model_service.rollouts import FolderRollouts
from backend.services.predictions import PredictionService
from backend.settings import Settings

KEY_USE_EVERY_S = 30.0
SIGNING_KEYS_EVERY_S = 30.0
MODELS_EVERY_S = 2.0


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
    model_files = open_model_files(settings)
    models = await ModelService.open(
        model_files,
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
    stored_keys = SqlKeyDirectory(shared.database, clock)
    stack.push_async_callback(stored_keys.aclose)
    directory = CachedKeyDirectory(
        stored_keys,
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
        waiting_usage=shared.waiting_usage,
        catalog=models,
        rollouts=FolderRollouts(ModelRepository(model_files), changed=models.refresh_soon),
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
        precedence=PredictionsFirst(at_a_time=passwords.processes + 1),
    )
