"""Let tenants put limits on themselves, below what their plan gives."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("lowered_limits", NullableJson))


def downgrade() -> None:
    op.drop_column("tenants", "lowered_limits")
