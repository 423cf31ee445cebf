"""Close periods, and correct the books with signed rows: tables that are only ever added to."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson, RowNumber, UtcDateTime

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TABLES = ("usage_adjustments", "period_closings", "closed_periods")
MINE = (
    "tenant_id = (SELECT current_setting('app.tenant_id', true)) "
    "OR (SELECT current_setting('app.platform', true)) = 'on'"
)


def upgrade() -> None:
    _create_adjustments()
    op.create_table(
        "period_closings",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("period", sa.String(), primary_key=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "closed_periods",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("period", sa.String(), primary_key=True),
        sa.Column("closed_at", UtcDateTime(), nullable=False),
        sa.Column("content", NullableJson, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
        return
    for table in TABLES:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
            )


def _create_adjustments() -> None:
    op.create_table(
        "usage_adjustments",
        sa.Column("position", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("adjustment_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("corrects_period", sa.String(), nullable=False),
        sa.Column("event_id", sa.String()),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("billable_units", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.String(), nullable=False),
        sa.Column("plan_version", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("actor_kind", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("late_event", NullableJson),
        sa.Column("fingerprint", sa.LargeBinary()),
        sa.UniqueConstraint("tenant_id", "adjustment_id", name="uq_usage_adjustments_tenant_adjustment"),
    )
    for name, column in (("period", "period"), ("corrects", "corrects_period"), ("event", "event_id")):
        op.create_index(f"ix_usage_adjustments_tenant_{name}", "usage_adjustments", ["tenant_id", column])
    # An event that came late is booked once, however often it is handed in.
    op.create_index(
        "uq_usage_adjustments_late_event",
        "usage_adjustments",
        ["tenant_id", "event_id"],
        unique=True,
        sqlite_where=sa.text("kind = 'late-event'"),
        postgresql_where=sa.text("kind = 'late-event'"),
    )


def _protect_on_postgresql() -> None:
    for table in ("usage_adjustments", "period_closings"):
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN commit_xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint)"
        )
    op.execute("GRANT USAGE ON SEQUENCE usage_adjustments_position_seq TO forecourt_app")
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION forecourt_refuse_change()"
        )
        op.execute(f"GRANT SELECT, INSERT ON {table} TO forecourt_app")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_rows ON {table} USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
