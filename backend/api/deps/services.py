"""The services, each over the providers and where it writes in the request's unit of work."""

from typing import Annotated

from fastapi import Depends, Request

from backend.api.deps.callers import PlatformAdmin
from backend.api.deps.providers import (
    UnitDep,
    get_admission,
    get_answer_sealer,
    get_catalog,
    get_clock,
    get_cursor_codec,
    get_key_directory,
    get_key_hasher,
    get_ledger,
    get_login_throttle,
    get_mailed_tokens,
    get_model_rollouts,
    get_opaque_tokens,
    get_outbox,
    get_password_hasher,
    get_precedence,
    get_resources,
    get_store,
    get_token_issuer,
    get_usage_reader,
    get_waiting_usage,
    get_webhook_sealer,
    provided,
)
from backend.services.acceptances import AcceptanceService
from backend.services.api_keys import ApiKeyService
from backend.services.audit import AuditService
from backend.services.idempotency import IdempotencyService
from backend.services.invitations import InvitationService
from backend.services.limits import LimitLoweringService, LimitsService
from backend.services.members import MemberService
from backend.services.own_tenant import OwnTenantService
from backend.services.passwords import PasswordService
from backend.services.people import PeopleService
from backend.services.plans import PlanService
from backend.services.predictions import PredictionService
from backend.services.reauthentication import Reauthentication
from backend.services.rollouts import RolloutService
from backend.services.service_accounts import ServiceAccountService
from backend.services.sessions import SessionService
from backend.services.sign_up import SignUpService
from backend.services.subscriptions import SubscriptionService
from backend.services.tenants import TenantService
from backend.services.tokens import TokenService
from backend.services.usage import UsageService
from backend.services.webhooks import WebhookService


async def get_prediction_service(request: Request) -> PredictionService:
    """Return the prediction service over the providers above."""
    overrides = request.app.dependency_overrides
    resources = get_resources(request)
    if not overrides:
        return resources.predictions
    return PredictionService(
        catalog=provided(request, get_catalog),
        admission=provided(request, get_admission),
        ledger=provided(request, get_ledger),
        keys=provided(request, get_key_directory),
        clock=provided(request, get_clock),
        metrics=resources.metrics,
    )


async def get_api_key_service(request: Request, unit: UnitDep) -> ApiKeyService:
    """Return the API key service in the request's unit of work."""
    return ApiKeyService(
        unit=unit,
        hasher=provided(request, get_key_hasher),
        admission=provided(request, get_admission),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_people_service(unit: UnitDep) -> PeopleService:
    """Return the people service in the request's unit of work."""
    return PeopleService(unit=unit)


async def get_token_service(request: Request) -> TokenService:
    """Return the token endpoint's service."""
    return TokenService(
        store=provided(request, get_store),
        passwords=provided(request, get_password_hasher),
        tokens=provided(request, get_token_issuer),
        refresh_tokens=provided(request, get_opaque_tokens),
        key_hasher=provided(request, get_key_hasher),
        throttle=provided(request, get_login_throttle),
        precedence=provided(request, get_precedence),
        clock=provided(request, get_clock),
        password_grant=get_resources(request).settings.password_grant,
    )


async def get_session_service(request: Request) -> SessionService:
    """Return the service over logins."""
    return SessionService(
        store=provided(request, get_store),
        tokens=provided(request, get_token_issuer),
        refresh_tokens=provided(request, get_opaque_tokens),
        clock=provided(request, get_clock),
    )


async def get_member_service(request: Request, unit: UnitDep) -> MemberService:
    """Return the member service in the request's unit of work."""
    return MemberService(unit=unit, cursors=provided(request, get_cursor_codec))


async def get_own_tenant_service(request: Request, unit: UnitDep) -> OwnTenantService:
    """Return the service of the caller's own tenant in the request's unit of work."""
    return OwnTenantService(unit=unit, clock=provided(request, get_clock))


async def get_tenant_service(request: Request, unit: UnitDep, caller: PlatformAdmin) -> TenantService:
    """Return the operator's tenant service in the request's unit of work: nobody else is given one."""
    return TenantService(
        unit=unit,
        passwords=provided(request, get_password_hasher),
        admission=provided(request, get_admission),
        clock=provided(request, get_clock),
        actor=caller.actor,
    )


async def get_plan_service(request: Request, unit: UnitDep) -> PlanService:
    """Return the plan service in the request's unit of work."""
    return PlanService(unit=unit, cursors=provided(request, get_cursor_codec))


async def get_subscription_service(request: Request, unit: UnitDep) -> SubscriptionService:
    """Return the service over what tenants are on, in the request's unit of work."""
    return SubscriptionService(
        unit=unit, admission=provided(request, get_admission), clock=provided(request, get_clock)
    )


async def get_service_account_service(request: Request, unit: UnitDep) -> ServiceAccountService:
    """Return the service account service in the request's unit of work."""
    return ServiceAccountService(
        unit=unit,
        hasher=provided(request, get_key_hasher),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_invitation_service(request: Request, unit: UnitDep) -> InvitationService:
    """Return the invitation service in the request's unit of work."""
    return InvitationService(
        unit=unit,
        tokens=provided(request, get_mailed_tokens),
        outbox=provided(request, get_outbox),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
        public_url=get_resources(request).settings.public_url,
    )


async def get_acceptance_service(request: Request) -> AcceptanceService:
    """Return the invitees' service."""
    return AcceptanceService(
        store=provided(request, get_store),
        tokens=provided(request, get_mailed_tokens),
        passwords=provided(request, get_password_hasher),
        reauthentication=_reauthentication(request),
        clock=provided(request, get_clock),
    )


async def get_password_service(request: Request) -> PasswordService:
    """Return the password service."""
    return PasswordService(
        store=provided(request, get_store),
        tokens=provided(request, get_mailed_tokens),
        passwords=provided(request, get_password_hasher),
        reauthentication=_reauthentication(request),
        outbox=provided(request, get_outbox),
        clock=provided(request, get_clock),
        public_url=get_resources(request).settings.public_url,
    )


async def get_sign_up_service(request: Request) -> SignUpService:
    """Return the sign-up service."""
    settings = get_resources(request).settings
    return SignUpService(
        store=provided(request, get_store),
        tokens=provided(request, get_mailed_tokens),
        passwords=provided(request, get_password_hasher),
        outbox=provided(request, get_outbox),
        clock=provided(request, get_clock),
        public_url=settings.public_url,
        offered=settings.sign_up,
        plan=settings.sign_up_plan,
    )


def _reauthentication(request: Request) -> Reauthentication:
    return Reauthentication(
        passwords=provided(request, get_password_hasher), throttle=provided(request, get_login_throttle)
    )


async def get_usage_service(request: Request) -> UsageService:
    """Return the usage service."""
    return UsageService(
        reader=provided(request, get_usage_reader),
        waiting=provided(request, get_waiting_usage),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_webhook_service(request: Request, unit: UnitDep) -> WebhookService:
    """Return the webhook service in the request's unit of work."""
    return WebhookService(
        unit=unit,
        sealer=provided(request, get_webhook_sealer),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_audit_service(request: Request, unit: UnitDep) -> AuditService:
    """Return the audit service in the request's unit of work."""
    return AuditService(unit=unit, cursors=provided(request, get_cursor_codec))


async def get_idempotency_service(request: Request, unit: UnitDep) -> IdempotencyService:
    """Return the service that keeps answers, in the request's unit of work."""
    return IdempotencyService(
        unit=unit, sealer=provided(request, get_answer_sealer), clock=provided(request, get_clock)
    )


async def get_limits_service(request: Request) -> LimitsService:
    """Return the limits service."""
    return LimitsService(admission=provided(request, get_admission))


async def get_rollout_service(request: Request, unit: UnitDep) -> RolloutService:
    """Return the rollout service in the request's unit of work."""
    return RolloutService(unit=unit, rollouts=provided(request, get_model_rollouts))


async def get_limit_lowering_service(request: Request, unit: UnitDep) -> LimitLoweringService:
    """Return the service that lowers limits, in the request's unit of work."""
    return LimitLoweringService(
        unit=unit, admission=provided(request, get_admission), clock=provided(request, get_clock)
    )


LimitLoweringServiceDep = Annotated[LimitLoweringService, Depends(get_limit_lowering_service)]
LimitsServiceDep = Annotated[LimitsService, Depends(get_limits_service)]
AuditServiceDep = Annotated[AuditService, Depends(get_audit_service)]
ApiKeyServiceDep = Annotated[ApiKeyService, Depends(get_api_key_service)]
IdempotencyServiceDep = Annotated[IdempotencyService, Depends(get_idempotency_service)]
AcceptanceServiceDep = Annotated[AcceptanceService, Depends(get_acceptance_service)]
InvitationServiceDep = Annotated[InvitationService, Depends(get_invitation_service)]
MemberServiceDep = Annotated[MemberService, Depends(get_member_service)]
OwnTenantServiceDep = Annotated[OwnTenantService, Depends(get_own_tenant_service)]
PasswordServiceDep = Annotated[PasswordService, Depends(get_password_service)]
ServiceAccountServiceDep = Annotated[ServiceAccountService, Depends(get_service_account_service)]
SessionServiceDep = Annotated[SessionService, Depends(get_session_service)]
SignUpServiceDep = Annotated[SignUpService, Depends(get_sign_up_service)]
PlanServiceDep = Annotated[PlanService, Depends(get_plan_service)]
SubscriptionServiceDep = Annotated[SubscriptionService, Depends(get_subscription_service)]
TenantServiceDep = Annotated[TenantService, Depends(get_tenant_service)]
RolloutServiceDep = Annotated[RolloutService, Depends(get_rollout_service)]
PeopleServiceDep = Annotated[PeopleService, Depends(get_people_service)]
TokenServiceDep = Annotated[TokenService, Depends(get_token_service)]
WebhookServiceDep = Annotated[WebhookService, Depends(get_webhook_service)]
UsageServiceDep = Annotated[UsageService, Depends(get_usage_service)]
PredictionServiceDep = Annotated[PredictionService, Depends(get_prediction_service)]
