"""Part the ledger by month on PostgreSQL, let whole months expire, and survive a move to another server.

**Months.** The partition key is the event's id, which begins with the millisecond in which it was minted: so the one
constraint that keeps an event from being booked twice stays ``(tenant_id, event_id)``, over all months. Ids of any
other form, and of months that nobody has made, go to ``usage_events_other``, so that no insert ever fails.

**Rights.** The application's role makes months, and lets them expire, through functions that belong to the tables'
owner. It has no right on a partition itself; each has row-level security and the trigger of its own. What may expire is
decided by the function, not by who calls it: every tenant's month is closed and rolled up, and is not the last one.

**Another server.** Commit order is the transaction's number. A server that a dump is restored into counts anew, so
``forecourt migrate`` sets an offset beyond whatever is stored.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
from backend.adapters.db.tables import UtcDateTime

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

MINE = (
    "tenant_id = (SELECT current_setting('app.tenant_id', true)) "
    "OR (SELECT current_setting('app.platform', true)) = 'on'"
)
NUMBERED = ("usage_events", "usage_adjustments", "period_closings")
# New: a period of every tenant, in commit order.
OF_ALL_TENANTS = "ix_usage_events_all"
INDEXES = {
    OF_ALL_TENANTS: "period, commit_xid, position",
    "ix_usage_events_tenant_occurred": "tenant_id, occurred_at",
    "ix_usage_events_commit": "tenant_id, commit_xid, position",
    "ix_usage_events_period": "tenant_id, period, commit_xid, position",
    "ix_usage_events_order": "commit_xid, position",
}
COLUMNS = (
    "position, event_id, tenant_id, credential_id, environment, model, model_version, units, cached_units, "
    "billable_units, reason, plan_id, plan_version, request_id, occurred_at, period, fingerprint, stored_at, commit_xid"
)

OFFSET = """
CREATE FUNCTION public.forecourt_transaction_offset() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 0::bigint'
"""
OLDEST = """
CREATE FUNCTION public.forecourt_oldest_transaction() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS
'SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + public.forecourt_transaction_offset()'
"""
# The ten characters that a ULID of a month's first millisecond begins with.
BOUND = """
CREATE FUNCTION public.forecourt_usage_bound(month date) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE rest bigint := extract(epoch FROM month)::bigint * 1000; digits text := '';
BEGIN
  FOR place IN 1..10 LOOP
    digits := substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (rest & 31)::integer + 1, 1) || digits;
    rest := rest >> 5;
  END LOOP;
  RETURN 'evt_' || digits;
END $$
"""
PROTECT = f"""
CREATE FUNCTION public.forecourt_protect_usage(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                 'FOR EACH STATEMENT EXECUTE FUNCTION public.forecourt_refuse_change()', name);
  EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', name);
  EXECUTE format($p$CREATE POLICY tenant_rows ON public.%I USING ({MINE}) WITH CHECK ({MINE})$p$, name);
END $$
"""  # a constant of this file
# Whoever reads holds the default partition for a moment; whoever writes does not. So this waits, and holds up, shortly.
MAKE = f"""
CREATE FUNCTION public.forecourt_make_usage_month(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
  name name := 'usage_events_' || to_char(month, 'YYYY_MM');
  low text := public.forecourt_usage_bound(date_trunc('month', month::timestamp)::date);
  high text := public.forecourt_usage_bound((date_trunc('month', month::timestamp) + interval '1 month')::date);
BEGIN
  -- Whoever finds another at it leaves it to the other, or to the next time.
  IF NOT pg_try_advisory_xact_lock(hashtextextended('usage months', 13))
     OR EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = name) THEN
    RETURN false;
  END IF;
  PERFORM set_config('app.platform', 'on', true);
  EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_events INCLUDING DEFAULTS INCLUDING INDEXES)', name);
  LOCK TABLE public.usage_events_other IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM public.usage_events_other WHERE event_id >= low AND event_id < high) THEN
    ALTER TABLE public.usage_events_other DISABLE TRIGGER usage_events_append_only;
    EXECUTE format('INSERT INTO public.%I ({COLUMNS}) SELECT {COLUMNS} FROM public.usage_events_other '
                   'WHERE event_id >= $1 AND event_id < $2', name) USING low, high;
    DELETE FROM public.usage_events_other WHERE event_id >= low AND event_id < high;
    ALTER TABLE public.usage_events_other ENABLE TRIGGER usage_events_append_only;
  END IF;
  EXECUTE format('ALTER TABLE public.usage_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                 name, low, high);
  PERFORM public.forecourt_protect_usage(name);
  RETURN true;
END $$
"""  # noqa: S608  # a constant of this file
# Taking a month out needs the whole ledger for an instant: it waits for that shortly, and is tried again.
EXPIRE = """
CREATE FUNCTION public.forecourt_expire_usage_month(before_period text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE name text; blocked boolean; held text := $p$
  WITH RECURSIVE pairs AS (
    (SELECT tenant_id, period FROM public.%1$I ORDER BY tenant_id, period LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, following.period FROM pairs CROSS JOIN LATERAL (
      SELECT event.tenant_id, event.period FROM public.%1$I AS event
      WHERE (event.tenant_id, event.period) > (pairs.tenant_id, pairs.period)
      ORDER BY event.tenant_id, event.period LIMIT 1) AS following)
  $p$;
BEGIN
  IF before_period > to_char(now() AT TIME ZONE 'UTC' - interval '1 month', 'YYYY-MM') THEN
    RAISE EXCEPTION 'usage of % may not expire yet', before_period USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Whoever finds another at it leaves it to the other, or to the next time.
  IF NOT pg_try_advisory_xact_lock(hashtextextended('usage retention', 13)) THEN
    RETURN NULL;
  END IF;
  PERFORM set_config('app.platform', 'on', true);
  FOR name IN
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'public.usage_events'::regclass AND child.relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'
      AND replace(right(child.relname, 7), '_', '-') < before_period
    ORDER BY child.relname
  LOOP
    -- From here on nobody adds to it, and everybody reads on.
    EXECUTE format('LOCK TABLE public.%I IN SHARE MODE', name);
    EXECUTE format(held || 'SELECT EXISTS (SELECT FROM pairs LEFT JOIN public.closed_periods AS closed '
      'USING (tenant_id, period) WHERE closed.period IS NULL OR pairs.period >= $1) OR EXISTS (SELECT FROM public.%1$I '
      'AS event JOIN public.usage_checkpoints AS folded ON folded.name = ''rollups'' '
      'AND (event.commit_xid, event.position) > (folded.xid, folded."row"))', name) INTO blocked USING before_period;
    CONTINUE WHEN blocked;
    EXECUTE format(held || 'INSERT INTO public.expired_periods (tenant_id, period, expired_at) '
      'SELECT tenant_id, period, now() FROM pairs ON CONFLICT DO NOTHING', name);
    LOCK TABLE ONLY public.usage_events IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE public.usage_events DETACH PARTITION public.%I', name);
    EXECUTE format('ALTER TABLE public.%I RENAME TO %I', name, replace(name, 'events', 'expired'));
    RETURN replace(right(name, 7), '_', '-');
  END LOOP;
  RETURN NULL;
END $$
"""
# In a transaction of its own: removing large files takes time, and here nobody waits for it.
DROP = """
CREATE FUNCTION public.forecourt_drop_expired_usage() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE name text; count integer := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('usage retention', 13)) THEN
    RETURN 0;
  END IF;
  FOR name IN SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname ~ '^usage_expired_[0-9]{4}_[0-9]{2}$'
  LOOP
    EXECUTE format('DROP TABLE IF EXISTS public.%I', name);
    count := count + 1;
  END LOOP;
  RETURN count;
END $$
"""
FUNCTIONS = {
    "forecourt_drop_expired_usage()": DROP,
    "forecourt_expire_usage_month(text)": EXPIRE,
    "forecourt_make_usage_month(date)": MAKE,
    "forecourt_protect_usage(text)": PROTECT,
    "forecourt_usage_bound(date)": BOUND,
    "forecourt_oldest_transaction()": OLDEST,
    "forecourt_transaction_offset()": OFFSET,
}
PARTED = """
DO $$ DECLARE month date; BEGIN
  FOR month IN SELECT DISTINCT (period || '-01')::date FROM usage_events_before
    WHERE period ~ '^2[0-9]{3}-(0[1-9]|1[0-2])$'
    UNION SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date
    FROM generate_series(0, 2) AS ahead
  LOOP
    PERFORM public.forecourt_make_usage_month(month);
  END LOOP;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "expired_periods",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("period", sa.String(), primary_key=True),
        sa.Column("expired_at", UtcDateTime(), nullable=False),
    )
    if op.get_bind().dialect.name != "postgresql":
        _let_closed_periods_expire_on_sqlite()
        return
    # The owner is held to row-level security too, and this is about everybody's rows.
    op.execute("SELECT set_config('app.platform', 'on', true)")
    for function in reversed(FUNCTIONS.values()):
        op.execute(function)
    for signature in FUNCTIONS:
        if "transaction" not in signature and "bound" not in signature:
            op.execute(f"REVOKE ALL ON FUNCTION public.{signature} FROM PUBLIC")
    for signature in list(FUNCTIONS)[:3]:
        op.execute(f"GRANT EXECUTE ON FUNCTION public.{signature} TO forecourt_app")
    _number_transactions("pg_current_xact_id()::text::bigint + public.forecourt_transaction_offset()")
    _replace_ledger("PARTITION BY RANGE (event_id)", collation="C")
    op.execute("CREATE TABLE usage_events_other PARTITION OF usage_events DEFAULT")
    op.execute("SELECT public.forecourt_protect_usage('usage_events_other')")
    op.execute(PARTED)
    _move_events()
    _protect("expired_periods", "SELECT")


def _let_closed_periods_expire_on_sqlite() -> None:
    op.execute("DROP TRIGGER usage_events_no_delete")
    op.execute(
        "CREATE TRIGGER usage_events_no_delete BEFORE DELETE ON usage_events WHEN NOT EXISTS (SELECT 1 FROM "
        "expired_periods WHERE tenant_id = OLD.tenant_id AND period = OLD.period) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append only'); END"
    )
    op.execute(
        "CREATE TRIGGER expired_periods_are_closed BEFORE INSERT ON expired_periods WHEN NOT EXISTS (SELECT 1 FROM "
        "closed_periods WHERE tenant_id = NEW.tenant_id AND period = NEW.period) "
        "BEGIN SELECT RAISE(ABORT, 'this period is not closed'); END"
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER expired_periods_no_{verb.lower()} BEFORE {verb} ON expired_periods "
            f"BEGIN SELECT RAISE(ABORT, 'expired_periods is append only'); END"
        )


def _number_transactions(expression: str) -> None:
    for table in NUMBERED:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN commit_xid SET DEFAULT ({expression})")


def _replace_ledger(partitioning: str, *, collation: str) -> None:
    """Put an empty ledger in the place of the one that is there, which is ``usage_events_before`` from then on."""
    op.execute("ALTER TABLE usage_events RENAME TO usage_events_before")
    op.execute("ALTER TABLE usage_events_before DROP CONSTRAINT uq_usage_events_tenant_event")
    op.execute("ALTER TABLE usage_events_before DROP CONSTRAINT IF EXISTS usage_events_pkey")
    for index in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {index}")
    if not partitioning:
        op.execute(f"CREATE TABLE usage_events (LIKE usage_events_before INCLUDING DEFAULTS) {partitioning}")
        op.execute(f'ALTER TABLE usage_events ALTER COLUMN event_id TYPE varchar COLLATE "{collation}"')
    else:
        # Bounds are compared byte by byte, whatever the database's own order is.
        op.execute(f'ALTER TABLE usage_events_before ALTER COLUMN event_id TYPE varchar COLLATE "{collation}"')
        op.execute(f"CREATE TABLE usage_events (LIKE usage_events_before INCLUDING DEFAULTS) {partitioning}")
    op.execute("ALTER SEQUENCE usage_events_position_seq OWNED BY usage_events.position")
    op.execute("ALTER TABLE usage_events ADD CONSTRAINT uq_usage_events_tenant_event UNIQUE (tenant_id, event_id)")
    for index, columns in INDEXES.items():
        if partitioning or index != OF_ALL_TENANTS:
            op.execute(f"CREATE INDEX {index} ON usage_events ({columns})")
    _protect("usage_events", "SELECT, INSERT")


def _move_events() -> None:
    op.execute(f"INSERT INTO usage_events ({COLUMNS}) SELECT {COLUMNS} FROM usage_events_before")  # noqa: S608
    op.execute("DROP TABLE usage_events_before")


def _protect(table: str, verbs: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION forecourt_refuse_change()"
    )
    op.execute(f"GRANT {verbs} ON {table} TO forecourt_app")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_rows ON {table} USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    op.drop_table("expired_periods")
    if op.get_bind().dialect.name != "postgresql":
        op.execute("DROP TRIGGER usage_events_no_delete")
        op.execute(
            "CREATE TRIGGER usage_events_no_delete BEFORE DELETE ON usage_events "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append only'); END"
        )
        return
    op.execute("SELECT set_config('app.platform', 'on', true)")
    _replace_ledger("", collation="default")
    op.execute("ALTER TABLE usage_events ADD PRIMARY KEY (position)")
    _move_events()
    _number_transactions("pg_current_xact_id()::text::bigint")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION public.{signature}")
