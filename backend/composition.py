"""Opens every resource in order, each with its end on the stack, so that they close in the opposite order."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from backend.adapters.crypto.access_tokens import JoseTokenIssuer, SigningKey, generate_signing_key
from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.crypto.key_hashes import PepperedKeyHasher
from backend.adapters.crypto.keys import Sealer
from backend.adapters.crypto.opaque_tokens import HmacOpaqueTokens
from backend.adapters.crypto.passwords import Argon2Passwords
from backend.adapters.db.engine import open_engine
from backend.adapters.db.key_directory import SqlKeyDirectory
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.memory.key_directory import CachedKeyDirectory
from backend.adapters.memory.login_throttle import MemoryLoginThrottle
from backend.adapters.redis.admission import RedisAdmission
from backend.adapters.redis.connection import connect
from backend.adapters.redis.login_throttle import RedisLoginThrottle
from backend.api.resources import HttpOptions, Resources
from backend.domain.clock import Clock, SystemClock
from backend.model_service.lanes import LaneLimits
from backend.model_service.service import ModelService
from backend.services.ports import LoginThrottle, QuotaHistory, Store
from backend.services.ports.store import StoredSigningKey
from backend.services.predictions import PredictionService
from backend.settings import Settings

_SIGNING_KEYS = "signing-keys"


class MisconfiguredError(Exception):
    """The settings do not fit each other, or not the store; the message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the server and the command line both need."""

    clock: Clock
    database: Database
    usage_reader: SqlUsageReader
    admission: MemoryAdmission | RedisAdmission
    login_throttle: LoginThrottle


async def open_shared(settings: Settings, stack: AsyncExitStack, clock: Clock) -> Shared:
    """Open the store and admission. Nothing is asked of either yet: a dead one shows in ``/readyz``."""
    database = Database(
        open_engine(settings.database_url, pool_size=settings.database_pool_size, timeout_s=settings.database_timeout_s)
    )
    stack.push_async_callback(database.aclose)
    reader = SqlUsageReader(database, clock)
    admission, throttle = await _open_admission(settings, stack, clock, reader)
    return Shared(clock=clock, database=database, usage_reader=reader, admission=admission, login_throttle=throttle)


async def _open_admission(
    settings: Settings, stack: AsyncExitStack, clock: Clock, history: QuotaHistory
) -> tuple[MemoryAdmission | RedisAdmission, LoginThrottle]:
    if settings.redis_url is None:
        memory = MemoryAdmission(clock, history, cache_bytes=settings.cache_bytes, cache_ttl_s=settings.cache_ttl_s)
        return memory, MemoryLoginThrottle(clock)
    client = connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    stack.push_async_callback(client.aclose)
    return RedisAdmission(
        client, history, cache_ttl_s=settings.cache_ttl_s, timeout_s=settings.redis_timeout_s
    ), RedisLoginThrottle(client, timeout_s=settings.redis_timeout_s)


def open_key_hasher(settings: Settings) -> PepperedKeyHasher:
    """Return the API key hasher under the configured peppers."""
    return PepperedKeyHasher({version: pepper.get_secret_value() for version, pepper in settings.key_peppers.items()})


async def open_resources(settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None) -> Resources:
    """Open everything a server needs. Models are loaded when this returns."""
    clock = clock or SystemClock()
    shared = await open_shared(settings, stack, clock)
    secret = secret_of(settings)
    issuer = JoseTokenIssuer(
        await load_signing_keys(shared.database, secret, clock),
        issuer=settings.issuer,
        audience=settings.issuer,
        ttl_s=settings.access_token_ttl_s,
        clock=clock,
    )
    passwords = Argon2Passwords()
    stack.callback(passwords.close)
    ledger = GroupCommitLedger(shared.database)
    ledger.start()
    stack.push_async_callback(ledger.aclose)
    models = await ModelService.open(
        settings.models,
        allow_pickle=settings.allow_pickle_models,
        max_rows=settings.max_rows,
        # A caller may always have a few of the largest requests waiting, however large those are.
        limits=LaneLimits(
            max_share_rows=max(4_000, 4 * settings.max_rows), max_waiting_rows=max(40_000, 40 * settings.max_rows)
        ),
    )
    stack.push_async_callback(models.aclose)
    directory = CachedKeyDirectory(SqlKeyDirectory(shared.database), clock, ttl_s=settings.key_cache_ttl_s)
    predictions = PredictionService(
        catalog=models, admission=shared.admission, ledger=ledger, keys=directory, clock=clock
    )
    stack.push_async_callback(predictions.settled)
    return Resources(
        settings=HttpOptions(
            password_grant=settings.password_grant, public_url=settings.public_url, issuer=settings.issuer
        ),
        clock=clock,
        store=shared.database,
        admission=shared.admission,
        ledger=ledger,
        usage_reader=shared.usage_reader,
        catalog=models,
        key_directory=directory,
        password_hasher=passwords,
        key_hasher=open_key_hasher(settings),
        token_issuer=issuer,
        opaque_tokens=HmacOpaqueTokens(secret),
        cursor_codec=HmacCursors(secret),
        login_throttle=shared.login_throttle,
        health_probes=(shared.database, shared.admission, ledger, models),
        predictions=predictions,
    )


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
    """Return the token signing keys, newest first; make the first one where there is none.

    Raises:
        MisconfiguredError: the stored keys were sealed under another secret.
    """
    sealer = Sealer(secret, _SIGNING_KEYS)
    async with store.unit_of_work(read_only=True) as unit:
        stored = await unit.signing_keys.list_all()
    if not stored:
        async with store.unit_of_work() as unit:
            await unit.signing_keys.hold()
            stored = await unit.signing_keys.list_all()
            if not stored:
                stored = [_sealed(generate_signing_key(), sealer, clock)]
                await unit.signing_keys.add(stored[0])
    try:
        return tuple(_unsealed(key, sealer) for key in stored)
    except InvalidTag as error:
        raise MisconfiguredError("FORECOURT_SECRET_KEY is not the one this database was set up with") from error


def _sealed(key: SigningKey, sealer: Sealer, clock: Clock) -> StoredSigningKey:
    return StoredSigningKey(
        kid=key.kid,
        public_pem=key.public_pem,
        sealed_private=sealer.seal((key.private_pem or "").encode(), key.kid),
        created_at=clock.now(),
        retired_at=None,
    )


def _unsealed(stored: StoredSigningKey, sealer: Sealer) -> SigningKey:
    private_pem = sealer.unseal(stored.sealed_private, stored.kid).decode()
    return SigningKey(
        kid=stored.kid,
        public_pem=stored.public_pem,
        private_pem=None if stored.retired_at else private_pem,
    )
