"""The demo's two tenants, their admins and keys, and the file that says how to sign in.

Everything is ensured, not created: a second start finds what the first one made, and a database that was set up from
elsewhere gets new credentials for the same accounts, since the old ones cannot be read back.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.composition import Shared
from backend.domain.api_keys import Environment, parse_key
from backend.domain.audit import OPERATOR as OPERATOR_ACTOR
from backend.domain.callers import ActorKind, Caller
from backend.domain.ids import TenantId
from backend.domain.scopes import TENANT_SCOPES, PlatformRole, Role, Scope
from backend.services.api_keys import ApiKeyService, KeyWish
from backend.services.ports import CursorCodec, KeyHasher, PasswordHasher, UnitOfWork
from backend.services.service_accounts import ServiceAccountService
from backend.services.tenants import TenantService

TENANTS = (("acme", "Acme", "enterprise"), ("globex", "Globex", "free"))
OPERATOR = "operator@forecourt.example"
# More than a new key has by itself, so that every line that the demo prints works with the same key.
KEY_SCOPES = frozenset({Scope.PREDICT, Scope.MODELS_READ, Scope.USAGE_READ, Scope.LIMITS_READ})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What seeding needs besides the store."""

    passwords: PasswordHasher
    key_hasher: KeyHasher
    cursors: CursorCodec


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one step, readable by its owner alone from its first byte on."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    draft.replace(path)


async def ensure_accounts(shared: Shared, tools: Tools, known: dict[str, Any], base_url: str) -> dict[str, Any]:
    """Make sure that the demo's accounts exist; return the content of ``demo.json``.

    Args:
        shared: the opened store and admission.
        tools: hashers.
        known: what an earlier start wrote; its credentials are kept as long as they still work.
        base_url: where the server will listen.
    """
    async with shared.database.unit_of_work(of_all_tenants=True) as unit:
        tenants = TenantService(unit=unit, passwords=tools.passwords, admission=shared.admission, clock=shared.clock)
        await tenants.seed_plans()
        seeded = [
            await _ensure_tenant(unit, tenants, shared, tools, known, slug=slug, name=name, plan=plan)
            for slug, name, plan in TENANTS
        ]
        known_operator = known.get("operator", {}).get("password")
        operator = await _ensure_user(unit, tenants, tools, OPERATOR, known_operator, PlatformRole.OPERATOR)
        billing = await _ensure_billing(unit, shared, tools, known.get("billing", {}))
    return {"base_url": base_url, "tenants": seeded, "operator": operator, "billing": billing}


async def _ensure_tenant(
    unit: UnitOfWork,
    tenants: TenantService,
    shared: Shared,
    tools: Tools,
    known: dict[str, Any],
    *,
    slug: str,
    name: str,
    plan: str,
) -> dict[str, Any]:
    earlier: dict[str, Any] = next((each for each in known.get("tenants", []) if each.get("slug") == slug), {})
    tenant = await unit.tenants.by_slug(slug) or await tenants.create(slug=slug, name=name, plan=plan)
    admin = await _ensure_user(unit, tenants, tools, f"admin@{slug}.example", earlier.get("admin", {}).get("password"))
    user = await unit.users.by_email(admin["email"])
    if user is not None and await unit.memberships.find(tenant.id, user.id) is None:
        await tenants.seat(tenant.id, user.id, Role.OWNER)
    keys = ApiKeyService(
        unit=unit,
        hasher=tools.key_hasher,
        admission=shared.admission,
        cursors=tools.cursors,
        clock=shared.clock,
    )
    return {
        "slug": slug,
        "admin": admin,
        "api_key": await _ensure_key(unit, keys, tools, tenant.id, earlier.get("api_key"), Environment.LIVE),
        "test_key": await _ensure_key(unit, keys, tools, tenant.id, earlier.get("test_key"), Environment.TEST),
    }


async def _ensure_billing(unit: UnitOfWork, shared: Shared, tools: Tools, earlier: dict[str, str]) -> dict[str, str]:
    """Make sure that the billing job can sign in: a service account that reads every tenant's usage."""
    client_id, secret = earlier.get("client_id", ""), earlier.get("client_secret", "")
    account = await unit.service_accounts.by_client_id_of_all_tenants(client_id)
    if account and tools.key_hasher.verify(secret, account.secret_hash, account.pepper_version):
        return {"client_id": client_id, "client_secret": secret}
    accounts = ServiceAccountService(unit=unit, hasher=tools.key_hasher, cursors=tools.cursors, clock=shared.clock)
    account, secret = await accounts.create_of_platform(
        OPERATOR_ACTOR, name="demo billing", role=PlatformRole.BILLING_READER
    )
    return {"client_id": account.id, "client_secret": secret}


async def _ensure_user(
    unit: UnitOfWork,
    tenants: TenantService,
    tools: Tools,
    email: str,
    password: str | None,
    platform_role: PlatformRole | None = None,
) -> dict[str, str]:
    user = await unit.users.by_email(email)
    if user is None:
        password = secrets.token_urlsafe(18)
        await tenants.add_user(email=email, password=password, platform_role=platform_role)
    elif password is None or not await tools.passwords.verify(password, user.password_hash):
        password = secrets.token_urlsafe(18)
        await unit.users.set_password_hash(user.id, await tools.passwords.hash(password))
    return {"email": email, "password": password}


async def _ensure_key(
    unit: UnitOfWork,
    keys: ApiKeyService,
    tools: Tools,
    tenant_id: TenantId,
    written: str | None,
    environment: Environment,
) -> str:
    if written and await _still_works(unit, tools, tenant_id, written):
        return written
    owner = Caller(kind=ActorKind.USER, credential_id="demo", tenant_id=tenant_id, scopes=TENANT_SCOPES)
    wish = KeyWish(name=f"demo {environment}", environment=environment, scopes=KEY_SCOPES)
    _, secret = await keys.create(owner, wish)
    return secret


async def _still_works(unit: UnitOfWork, tools: Tools, tenant_id: TenantId, written: str) -> bool:
    presented = parse_key(written)
    key = await unit.api_keys.by_lookup_id(tenant_id, presented.lookup_id) if presented else None
    if presented is None or key is None or key.revoked_at is not None:
        return False
    return tools.key_hasher.verify(presented.secret, key.secret_hash, key.pepper_version)
