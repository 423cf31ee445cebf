"""Name what a batch of usage events is made of, so that PostgreSQL can be sent one as an array of records.

It is a type of its own, not the ledger's: a server that is still running sends what it knows when a column is added.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# In the order in which they are sent: first what the events of one customer have in common.
FIELDS = (
    "tenant_id varchar, credential_id varchar, environment varchar, model varchar, model_version varchar, "
    "units integer, cached_units integer, billable_units integer, reason varchar, plan_id varchar, "
    "plan_version integer, period varchar, event_id varchar, request_id varchar, occurred_at timestamptz, "
    "fingerprint bytea, stored_at timestamptz"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE TYPE public.forecourt_usage_event AS ({FIELDS})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TYPE public.forecourt_usage_event")
