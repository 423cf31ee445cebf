"""Take usage events as records whose fields are in another order: first all that the events of one customer share.

Counts of rows stood among those, and differ. The type is a new one, and the one before stays: a server that is still
running sends its records in the order that it knows.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# In the order in which they are sent.
FIELDS = (
    "tenant_id varchar, credential_id varchar, environment varchar, model varchar, model_version varchar, "
    "reason varchar, plan_id varchar, plan_version integer, period varchar, event_id varchar, request_id varchar, "
    "units integer, cached_units integer, billable_units integer, occurred_at timestamptz, fingerprint bytea, "
    "stored_at timestamptz"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE TYPE public.forecourt_usage_record AS ({FIELDS})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TYPE public.forecourt_usage_record")
