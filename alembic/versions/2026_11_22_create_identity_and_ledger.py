"""Create identity, plans and the ledger.

The ledger refuses UPDATE and DELETE: by a trigger on both dialects, and on PostgreSQL by the grants of the role that
the application acts as. There it also carries ``commit_xid``, the writing transaction's 64-bit id: with the snapshot's
``xmin`` it tells a reader below which position nothing can still appear.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import NullableJson, RowNumber, UtcDateTime

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TABLES = (
    "tenants",
    "users",
    "memberships",
    "plans",
    "subscriptions",
    "api_keys",
    "sessions",
    "refresh_tokens",
    "signing_keys",
    "usage_events",
)


def upgrade() -> None:
    _create_tenancy()
    _create_plans()
    _create_credentials()
    _create_ledger()
    if op.get_bind().dialect.name == "postgresql":
        _protect_ledger_on_postgresql()
        _grant_to_application()
    else:
        _protect_ledger_on_sqlite()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER usage_events_append_only ON usage_events")
        op.execute("DROP FUNCTION forecourt_refuse_change()")
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_tenancy() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("slug", name="uq_tenants_slug"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("platform_role", sa.String()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "memberships",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant_id", sa.String(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.String(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("tenant_id", "user_id", name="uq_memberships_tenant_user"),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"])


def _create_plans() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("rate_per_minute", sa.Integer(), nullable=False),
        sa.Column("monthly_quota", sa.BigInteger()),
        sa.Column("quota_mode", sa.String(), nullable=False),
        sa.Column("bills_cache_hits", sa.Boolean(), nullable=False),
        sa.Column("max_api_keys", sa.Integer(), nullable=False),
        sa.UniqueConstraint("name", "version", name="uq_plans_name_version"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant_id", sa.String(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("plan_id", sa.String(), sa.ForeignKey("plans.id"), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
    )
    op.create_index("ix_subscriptions_tenant_id", "subscriptions", ["tenant_id"])
    # One running subscription a tenant: a second would make every key of the tenant ambiguous.
    op.create_index(
        "uq_subscriptions_running",
        "subscriptions",
        ["tenant_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _create_credentials() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant_id", sa.String(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("lookup_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("pepper_version", sa.Integer(), nullable=False),
        sa.Column("last4", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("models", NullableJson),
        sa.Column("allowed_cidrs", NullableJson),
        sa.Column("rate_per_minute", sa.Integer()),
        sa.Column("monthly_quota", sa.BigInteger()),
        sa.Column("labels", NullableJson, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
        sa.Column("last_used_at", UtcDateTime()),
        sa.UniqueConstraint("lookup_id", name="uq_api_keys_lookup_id"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id", "id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("user_id", sa.String(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("tenant_id", sa.String(), sa.ForeignKey("tenants.id")),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime()),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("session_id", sa.String(), sa.ForeignKey("sessions.id"), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("rotated_at", UtcDateTime()),
        sa.Column("successor_id", sa.String()),
        sa.UniqueConstraint("token_hash", name="uq_refresh_tokens_token_hash"),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(), primary_key=True),
        sa.Column("public_pem", sa.String(), nullable=False),
        sa.Column("sealed_private", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("retired_at", UtcDateTime()),
    )


def _create_ledger() -> None:
    op.create_table(
        "usage_events",
        sa.Column("position", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("credential_id", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("cached_units", sa.Integer(), nullable=False),
        sa.Column("billable_units", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("plan_id", sa.String(), nullable=False),
        sa.Column("plan_version", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("tenant_id", "event_id", name="uq_usage_events_tenant_event"),
    )
    op.create_index("ix_usage_events_tenant_period", "usage_events", ["tenant_id", "period", "environment"])
    op.create_index("ix_usage_events_tenant_occurred", "usage_events", ["tenant_id", "occurred_at"])


def _protect_ledger_on_sqlite() -> None:
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER usage_events_no_{verb.lower()} BEFORE {verb} ON usage_events "
            f"BEGIN SELECT RAISE(ABORT, 'the ledger is append only'); END"
        )


def _protect_ledger_on_postgresql() -> None:
    op.execute(
        "ALTER TABLE usage_events ADD COLUMN commit_xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint)"
    )
    op.execute("CREATE INDEX ix_usage_events_commit ON usage_events (tenant_id, commit_xid, position)")
    op.execute(
        "CREATE FUNCTION forecourt_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege'; END $$"
    )
    op.execute(
        "CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION forecourt_refuse_change()"
    )


def _grant_to_application() -> None:
    # Roles belong to the whole server: another database's migration may create it at the same moment. An administrator
    # may have made it before, so that whoever migrates need not be allowed to make roles.
    op.execute(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'forecourt_app') THEN "
        "CREATE ROLE forecourt_app NOLOGIN; END IF; "
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    # Whoever migrates must be able to act as the role; a superuser is by nature.
    op.execute(
        "DO $$ BEGIN IF NOT pg_has_role(current_user, 'forecourt_app', 'MEMBER') THEN "
        "EXECUTE format('GRANT forecourt_app TO %I', current_user); END IF; END $$"
    )
    op.execute("GRANT USAGE ON SCHEMA public TO forecourt_app")
    for table in TABLES:
        verbs = "SELECT, INSERT" if table == "usage_events" else "SELECT, INSERT, UPDATE, DELETE"
        op.execute(f"GRANT {verbs} ON {table} TO forecourt_app")
    op.execute("GRANT USAGE ON SEQUENCE usage_events_position_seq TO forecourt_app")
    op.execute("GRANT SELECT ON alembic_version TO forecourt_app")
