"""Users in SQL."""

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.engine import violated_constraint
from backend.adapters.db.tables import UserRow
from backend.domain.errors import AlreadyExists
from backend.domain.ids import UserId
from backend.domain.scopes import PlatformRole
from backend.domain.tenants import User


def user_from_row(row: UserRow) -> User:
    """Return the domain value of a row."""
    return User(
        id=UserId(row.id),
        email=row.email,
        password_hash=row.password_hash,
        disabled=row.disabled,
        platform_role=PlatformRole(row.platform_role) if row.platform_role else None,
        created_at=row.created_at,
    )


class SqlUsers:
    """People."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: User) -> None:
        """Store a new user."""
        self._session.add(
            UserRow(
                id=user.id,
                email=user.email,
                password_hash=user.password_hash,
                disabled=user.disabled,
                platform_role=user.platform_role,
                created_at=user.created_at,
            )
        )
        try:
            await self._session.flush()
        except IntegrityError as error:
            if violated_constraint(error) in {"uq_users_email", "users.email"}:
                raise AlreadyExists("A user with this address exists.") from error
            raise

    async def get(self, user_id: UserId) -> User | None:
        """Return one user."""
        row = await self._session.get(UserRow, user_id)
        return user_from_row(row) if row else None

    async def by_email(self, email: str) -> User | None:
        """Return the user of a normalised address."""
        row = await self._session.scalar(select(UserRow).where(col(UserRow.email) == email))
        return user_from_row(row) if row else None

    async def set_password_hash(self, user_id: UserId, password_hash: str) -> None:
        """Replace the stored hash."""
        await self._session.execute(
            update(UserRow).where(col(UserRow.id) == user_id).values(password_hash=password_hash)
        )

    async def set_disabled(self, user_id: UserId, *, disabled: bool) -> None:
        """Lock a user out, or let them in again."""
        await self._session.execute(update(UserRow).where(col(UserRow.id) == user_id).values(disabled=disabled))

    async def list_all(self) -> list[User]:
        """Return every user, by address."""
        rows = await self._session.scalars(select(UserRow).order_by(col(UserRow.email)))
        return [user_from_row(row) for row in rows]
