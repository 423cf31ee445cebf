"""Rotate API keys with an overlap, and keep what creating requests were answered for 24 hours."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson, UtcDateTime

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("previous_hash", sa.LargeBinary()))
    op.add_column("api_keys", sa.Column("previous_pepper_version", sa.Integer()))
    op.add_column("api_keys", sa.Column("previous_valid_until", UtcDateTime()))
    op.add_column("api_keys", sa.Column("previous_last_used_at", UtcDateTime()))
    op.create_table(
        "idempotency_records",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("credential_id", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", NullableJson, nullable=False),
        sa.Column("sealed_body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_idempotency_records_expires_at", "idempotency_records", ["expires_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_records TO forecourt_app")


def downgrade() -> None:
    op.drop_table("idempotency_records")
    for name in ("previous_last_used_at", "previous_valid_until", "previous_pepper_version", "previous_hash"):
        op.drop_column("api_keys", name)
