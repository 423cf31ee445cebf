"""Refusals of who asks."""

from backend.domain.errors.base import ForecourtError


class Unauthenticated(ForecourtError):
    """The credential is missing, malformed or not ours; which of these is not said."""

    code = "invalid-credentials"
    title = "Invalid credentials"
    default_detail = "The credential is missing, malformed or unknown."


class KeyExpired(Unauthenticated):
    """The secret verified, and the key's time is over."""

    code = "key-expired"
    title = "Key expired"
    default_detail = "This API key has expired."


class KeyRevoked(Unauthenticated):
    """The secret verified, and the key has been revoked."""

    code = "key-revoked"
    title = "Key revoked"
    default_detail = "This API key has been revoked."


class Forbidden(ForecourtError):
    """The caller is known and may not do this."""

    code = "forbidden"
    title = "Forbidden"


class InsufficientScope(Forbidden):
    """The credential lacks the scope that the route asks for."""

    code = "insufficient-scope"
    title = "Insufficient scope"


class ScopeExceedsGrantor(Forbidden):
    """Somebody tried to hand out more than they hold."""

    code = "scope-exceeds-grantor"
    title = "Scope exceeds grantor"


class ModelNotAllowed(Forbidden):
    """The key's allow-list does not hold the model."""

    code = "model-not-allowed"
    title = "Model not allowed"
    default_detail = "This API key may not call this model."


class AddressNotAllowed(Forbidden):
    """The key's CIDR list does not hold the caller's address."""

    code = "ip-not-allowed"
    title = "Address not allowed"
    default_detail = "This API key may not be used from this address."


class TenantSuspended(Forbidden):
    """The tenant is suspended."""

    code = "tenant-suspended"
    title = "Tenant suspended"
    default_detail = "This tenant is suspended."


class RoleNotGrantable(Forbidden):
    """Somebody tried to give or take a seat that is above their own."""

    code = "role-not-grantable"
    title = "Role not grantable"
    default_detail = "You can give or take only roles within your own scopes, and only owners make owners."


class ReauthenticationRequired(Forbidden):
    """The caller has to prove once more who they are: with their password."""

    code = "reauthentication-required"
    title = "Reauthentication required"
    default_detail = "Prove that it is you: the current password is missing or wrong."


class OAuthError(ForecourtError):
    """An RFC 6749 section 5.2 refusal of the token endpoint; ``oauth_code`` is the ``error`` field."""

    code = "oauth-error"
    title = "OAuth error"

    def __init__(self, oauth_code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.oauth_code = oauth_code
