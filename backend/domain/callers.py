"""Who calls, as routes and services see it after the credential has been verified."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from backend.domain.admission import Epochs
from backend.domain.api_keys import Environment, KeyGrant
from backend.domain.attenuation import Reach
from backend.domain.audit import PLATFORM_CHAIN, Actor
from backend.domain.errors import InsufficientScope, ModelNotAllowed
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement, QuotaRule, RateRule
from backend.domain.models import ModelInfo
from backend.domain.plans import Plan
from backend.domain.scopes import PlatformRole, Role, Scope


class ActorKind(StrEnum):
    """What kind of credential was presented."""

    USER = "user"
    API_KEY = "api-key"
    SERVICE_ACCOUNT = "service-account"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A verified caller inside one tenant. ``scopes`` are what it may do now, not what it once was granted.

    What narrows an API key further stands here too, for what the key may hand on.
    """

    kind: ActorKind
    credential_id: str
    tenant_id: TenantId
    scopes: frozenset[Scope]
    role: Role | None = None
    session_id: str | None = None
    models: tuple[str, ...] | None = None
    allowed_cidrs: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    monthly_quota: int | None = None
    is_test_only: bool = False
    address: str | None = None
    request_id: str | None = None

    @property
    def actor(self) -> Actor:
        """The same, as the audit log names it."""
        return Actor(kind=self.kind, id=self.credential_id, address=self.address, request_id=self.request_id)

    @property
    def chain(self) -> TenantId:
        """The audit chain that tells of what this caller does to itself; its Idempotency-Keys are kept there too."""
        return self.tenant_id

    @property
    def reach(self) -> Reach:
        """How far the caller reaches: nothing it makes may reach further."""
        return Reach(
            scopes=self.scopes,
            models=self.models,
            allowed_cidrs=self.allowed_cidrs,
            expires_at=self.expires_at,
            rate_per_minute=self.rate_per_minute,
            monthly_quota=self.monthly_quota,
            is_test_only=self.is_test_only,
        )

    def require(self, scope: Scope) -> None:
        """Refuse a caller without the scope.

        Raises:
            InsufficientScope: naming the scope.
        """
        if scope not in self.scopes:
            raise InsufficientScope(f"This needs the scope {scope}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformCaller:
    """A verified caller above all tenants: it belongs to none, so no tenant's route takes it."""

    kind: ActorKind
    credential_id: str
    role: PlatformRole
    scopes: frozenset[Scope]
    session_id: str | None = None
    address: str | None = None
    request_id: str | None = None

    @property
    def actor(self) -> Actor:
        """The same, as the audit log names it."""
        return Actor(kind=self.kind, id=self.credential_id, address=self.address, request_id=self.request_id)

    @property
    def models(self) -> tuple[str, ...] | None:
        """No allow-list narrows it."""
        return None

    @property
    def chain(self) -> TenantId:
        """The audit chain that tells of what this caller does."""
        return PLATFORM_CHAIN

    def require(self, scope: Scope) -> None:
        """Refuse a caller without the scope.

        Raises:
            InsufficientScope: naming the scope.
        """
        if scope not in self.scopes:
            raise InsufficientScope(f"This needs the scope {scope}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictCaller:
    """A verified caller of predictions, with every limit that applies to it.

    ``lookup_id`` is the key to read again when admission finds the grant stale; ``None`` for a user, whose grant was
    read for this very request. ``generation`` is that of the secret that was presented: read again, the key must
    still accept it.
    """

    tenant_id: TenantId
    credential_id: str
    lookup_id: str | None
    environment: Environment
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None
    plan: Plan
    rates: tuple[RateRule, ...]
    quotas: tuple[QuotaRule, ...]
    epochs: Epochs
    address: str | None = None
    generation: int = 0
    model_rates: tuple[RateRule, ...] = ()
    enforcement: Enforcement = Enforcement.ENFORCE

    @classmethod
    def from_key(
        cls, grant: KeyGrant, *, address: str | None = None, fresh: bool = False, generation: int | None = None
    ) -> "PredictCaller":
        """Return the caller behind a verified key; ``fresh`` when the grant was read just now.

        ``generation`` is that of the secret presented, by default the key's newest.
        """
        key = grant.key
        return cls(
            tenant_id=key.tenant_id,
            credential_id=key.id,
            lookup_id=key.lookup_id,
            environment=key.environment,
            scopes=key.scopes,
            models=key.models,
            plan=grant.plan,
            rates=grant.rates,
            model_rates=grant.model_rates,
            quotas=grant.quotas,
            enforcement=grant.enforcement,
            epochs=Epochs(tenant=grant.tenant_version, credential=key.version, fresh=fresh),
            address=address,
            generation=key.generation if generation is None else generation,
        )

    def require(self, scope: Scope) -> None:
        """Refuse a caller without the scope.

        Raises:
            InsufficientScope: naming the scope.
        """
        if scope not in self.scopes:
            raise InsufficientScope(f"This needs the scope {scope}.")

    def rates_for(self, model: str) -> tuple[RateRule, ...]:
        """Return the rate limits of a request for one model."""
        if not self.model_rates:
            return self.rates
        return (*self.rates, *[rule for rule in self.model_rates if rule.subject == model])

    def require_model(self, model: ModelInfo, reference: str) -> None:
        """Refuse a model that is not on the caller's allow-list, which holds names, versions or aliases.

        Raises:
            ModelNotAllowed: neither its name, nor the version, nor the reference as sent is on the list.
        """
        if self.models is None:
            return
        if not {model.name, f"{model.name}@{model.version}", reference} & set(self.models):
            raise ModelNotAllowed
