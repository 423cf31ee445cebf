"""What one running application holds. The lifespan opens it; the providers in ``deps`` hand it out."""

from dataclasses import dataclass

from backend.domain.clock import Clock
from backend.services.ports import (
    Admission,
    CursorCodec,
    HealthProbe,
    KeyDirectory,
    KeyHasher,
    KeyUse,
    Ledger,
    LoginThrottle,
    Metrics,
    ModelCatalog,
    ModelRollouts,
    OpaqueTokens,
    OutboundHttp,
    Outbox,
    PasswordHasher,
    Precedence,
    Sealer,
    Store,
    StrangerThrottle,
    TokenIssuer,
    UsageReader,
    WaitingUsage,
)
from backend.services.predictions import PredictionService


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The few settings that routes need."""

    password_grant: bool
    public_url: str
    issuer: str
    sign_up: bool
    sign_up_plan: str
    period_grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Every port, opened."""

    settings: HttpOptions
    clock: Clock
    metrics: Metrics
    store: Store
    admission: Admission
    ledger: Ledger
    usage_reader: UsageReader
    waiting_usage: WaitingUsage
    catalog: ModelCatalog
    rollouts: ModelRollouts
    key_directory: KeyDirectory
    password_hasher: PasswordHasher
    key_hasher: KeyHasher
    key_use: KeyUse
    answer_sealer: Sealer
    webhook_sealer: Sealer
    token_issuer: TokenIssuer
    opaque_tokens: OpaqueTokens
    mailed_tokens: OpaqueTokens
    outbox: Outbox
    outbound: OutboundHttp
    strangers: StrangerThrottle
    cursor_codec: CursorCodec
    login_throttle: LoginThrottle
    health_probes: tuple[HealthProbe, ...]
    predictions: PredictionService
    precedence: Precedence
