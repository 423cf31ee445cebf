"""Passwords: changed by who knows the old one, or set anew by who reads the account's mail."""

from datetime import timedelta

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.callers import ActorKind, Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import LinkExpired, Unauthenticated
from backend.domain.ids import UserId
from backend.domain.mail import reset_mail
from backend.domain.mailed_tokens import MOST_PER_HOUR, MailedToken, MailPurpose
from backend.domain.passwords import require_strong
from backend.domain.tenants import User, normalise_email
from backend.services.ports import OpaqueTokens, Outbox, PasswordHasher, Store, UnitOfWork
from backend.services.reauthentication import Reauthentication


class PasswordService:
    """What people do about their passwords. Hashes are computed while no transaction is open."""

    def __init__(
        self,
        *,
        store: Store,
        tokens: OpaqueTokens,
        passwords: PasswordHasher,
        reauthentication: Reauthentication,
        outbox: Outbox,
        clock: Clock,
        public_url: str,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._reauthentication = reauthentication
        self._outbox = outbox
        self._clock = clock
        self._public_url = public_url

    async def change(self, caller: Caller | PlatformCaller, *, current: str | None, new: str) -> None:
        """Set a new password and end every other login.

        Raises:
            ReauthenticationRequired: the current password is missing or wrong.
            WeakPassword: the new one will not do.
        """
        async with self._store.unit_of_work(read_only=True) as unit:
            user = await unit.users.get(UserId(caller.credential_id))
        if user is None:
            raise Unauthenticated
        await self._reauthentication.require(user, current, caller.address or "")
        require_strong(new, context=(user.email,), pointer="/new_password")
        password_hash = await self._passwords.hash(new)
        async with self._store.unit_of_work() as unit:
            ended = await self._set(unit, user, password_hash, besides=caller.session_id)
            entry = AuditEntry(
                actor=caller.actor,
                action=Action.PASSWORD_CHANGED,
                target_id=user.id,
                after={"sessions_ended": ended},
            )
            await unit.audit.record(caller.chain, entry)

    async def forget(self, email: str) -> None:
        """Mail a link to set a new password. For an unknown address the same is done, but for the message."""
        now = self._clock.now()
        email = normalise_email(email)
        token = self._tokens.mint()
        async with self._store.unit_of_work() as unit:
            user = await unit.users.by_email(email)
            sent = await unit.mailed_tokens.count_since(MailPurpose.RESET, email, now - timedelta(hours=1))
            kept = MailedToken.fresh(
                MailPurpose.RESET, email, self._tokens.hash(token), now, user_id=user.id if user else None
            )
            await unit.mailed_tokens.add(kept)
        if user is not None and not user.disabled and sent < MOST_PER_HOUR:
            self._outbox.post(reset_mail(to=user.email, public_url=self._public_url, token=token))

    async def reset(self, *, token: str, new: str, address: str, request_id: str) -> None:
        """Set a new password with a mailed token, and end every login.

        Raises:
            LinkExpired: the token is unknown, used, too old, or its user is locked out.
            WeakPassword: the new password will not do; the token still counts.
        """
        async with self._store.unit_of_work(read_only=True) as unit:
            user = await self._user_of(unit, token)
        require_strong(new, context=(user.email,), pointer="/new_password")
        password_hash = await self._passwords.hash(new)
        async with self._store.unit_of_work() as unit:
            # Read again under its lock: of two at once only one finds it unused.
            user = await self._user_of(unit, token)
            ended = await self._set(unit, user, password_hash, besides=None)
            entry = AuditEntry(
                actor=Actor(kind=ActorKind.USER, id=user.id, address=address, request_id=request_id),
                action=Action.PASSWORD_RESET,
                target_id=user.id,
                after={"sessions_ended": ended},
            )
            await unit.audit.record(PLATFORM_CHAIN, entry)

    async def _user_of(self, unit: UnitOfWork, token: str) -> User:
        found = await unit.mailed_tokens.by_hash(self._tokens.hash(token))
        if found is None or found.user_id is None or not found.is_good(MailPurpose.RESET, self._clock.now()):
            raise LinkExpired
        user = await unit.users.get(found.user_id)
        # Bound to the address it was mailed to: it dies with a change of address.
        if user is None or user.disabled or user.email != found.email:
            raise LinkExpired
        return user

    async def _set(self, unit: UnitOfWork, user: User, password_hash: str, *, besides: str | None) -> int:
        now = self._clock.now()
        await unit.users.set_password_hash(user.id, password_hash)
        await unit.mailed_tokens.use_up(MailPurpose.RESET, user.email, now)
        return await unit.sessions.revoke_all(user.id, now, besides=besides)
