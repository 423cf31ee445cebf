"""Hold rows to their tenant on PostgreSQL: row-level security, whatever a query forgets.

A transaction says whose rows it touches in ``app.tenant_id``, or with ``app.platform`` that it looks across tenants;
one that says neither sees nothing. ``FORCE`` holds the tables' owner to it as well, unless it is a superuser. What
belongs to people (users, sessions, mailed tokens) and to the platform (tenants, plans, signing keys) has no tenant.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TABLES = (
    "memberships",
    "invitations",
    "subscriptions",
    "api_keys",
    "service_accounts",
    "idempotency_records",
    "usage_events",
    "audit_log",
)
# In a subquery the settings are read once for each statement, not for each row.
MINE = (
    "tenant_id = (SELECT current_setting('app.tenant_id', true)) "
    "OR (SELECT current_setting('app.platform', true)) = 'on'"
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_rows ON {table} USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in TABLES:
        op.execute(f"DROP POLICY tenant_rows ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
