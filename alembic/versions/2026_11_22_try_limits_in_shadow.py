"""Let a subscription's limits only report, and give plans limits for single models."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("plans", sa.Column("model_rates", NullableJson))
    op.add_column("subscriptions", sa.Column("enforcement", sa.String(), nullable=False, server_default="enforce"))


def downgrade() -> None:
    op.drop_column("subscriptions", "enforcement")
    op.drop_column("plans", "model_rates")
