"""Roll usage up by the hour, and give plans their prices.

Sums are derived: the application may change them, and they can be formed anew from the ledger. The ledger's indexes
now follow commit order within a tenant's period, and over all tenants.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson, UtcDateTime

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

MINE = (
    "tenant_id = (SELECT current_setting('app.tenant_id', true)) "
    "OR (SELECT current_setting('app.platform', true)) = 'on'"
)
FREE: dict[str, object] = {
    "currency": "USD",
    "flat_fee_micros": 0,
    "included_units": 0,
    "model": "flat",
    "rate": None,
    "tiers": [],
    "package": None,
    "overage": None,
}
# The prices that the plans of every installation begin with, as domain/plans.py has them.
SEEDED: dict[str, dict[str, object]] = {
    "pln_00000000000000000000000002": {
        "flat_fee_micros": 49_000_000,
        "included_units": 100_000,
        "model": "graduated",
        "tiers": [
            {"up_to": 500_000, "rate": {"micros": 200, "per_units": 1}, "flat_micros": 0},
            {"up_to": None, "rate": {"micros": 120, "per_units": 1}, "flat_micros": 0},
        ],
        "overage": {"micros": 250, "per_units": 1},
    },
    "pln_00000000000000000000000003": {
        "flat_fee_micros": 990_000_000,
        "included_units": 10_000_000,
        "model": "per_unit",
        "rate": {"micros": 80_000, "per_units": 1_000},
    },
}


def upgrade() -> None:
    _price_plans()
    op.create_table(
        "usage_rollups",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("hour", UtcDateTime(), primary_key=True),
        sa.Column("period", sa.String(), primary_key=True),
        sa.Column("environment", sa.String(), primary_key=True),
        sa.Column("credential_id", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), primary_key=True),
        sa.Column("model_version", sa.String(), primary_key=True),
        sa.Column("plan_id", sa.String(), primary_key=True),
        sa.Column("plan_version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("cached_units", sa.BigInteger(), nullable=False),
        sa.Column("billable_units", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_usage_rollups_tenant_period", "usage_rollups", ["tenant_id", "period"])
    checkpoints = op.create_table(
        "usage_checkpoints",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(checkpoints, [{"name": "rollups", "xid": 0, "row": 0}])
    op.drop_index("ix_usage_events_tenant_period", "usage_events")
    if op.get_bind().dialect.name != "postgresql":
        op.create_index("ix_usage_events_period", "usage_events", ["tenant_id", "period", "position"])
        return
    op.create_index("ix_usage_events_period", "usage_events", ["tenant_id", "period", "commit_xid", "position"])
    op.create_index("ix_usage_events_order", "usage_events", ["commit_xid", "position"])
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollups TO forecourt_app")
    op.execute("GRANT SELECT, UPDATE ON usage_checkpoints TO forecourt_app")
    op.execute("ALTER TABLE usage_rollups ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE usage_rollups FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_rows ON usage_rollups USING ({MINE}) WITH CHECK ({MINE})")


def _price_plans() -> None:
    # None is free of charge: so are the plans that were made before there were prices.
    op.add_column("plans", sa.Column("pricing", NullableJson))
    table = sa.table("plans", sa.column("id", sa.String()), sa.column("pricing", NullableJson))
    for plan_id, prices in SEEDED.items():
        op.execute(table.update().where(table.c.id == plan_id).values(pricing=FREE | prices))


def downgrade() -> None:
    op.drop_index("ix_usage_events_period", "usage_events")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_usage_events_order", "usage_events")
    op.create_index("ix_usage_events_tenant_period", "usage_events", ["tenant_id", "period", "environment"])
    op.drop_table("usage_checkpoints")
    op.drop_table("usage_rollups")
    op.drop_column("plans", "pricing")
