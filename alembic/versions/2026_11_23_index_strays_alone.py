"""Keep two indexes fewer: in a month of the ledger nearly every event is of that month's period.

Each index costs the server some microseconds of every event. Two had the period in them, so that a period could be read
in its order. Its own month is read by the other two that have that order, and passes over next to nothing. What another
month holds of it, served around midnight, is found by an index of those alone: its *strays*. PostgreSQL sees that it
may use it where a statement spells the period out.

Events of no month go to ``usage_events_other``, which has both indexes still.
"""

import runpy
from collections.abc import Sequence
from pathlib import Path

from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BEFORE = runpy.run_path(str(Path(__file__).with_name("2026_11_22_part_the_ledger_by_month.py")))
"""What migration 0013 made."""
COLUMNS = BEFORE["COLUMNS"]
INDEXES = {
    "ix_usage_events_all": "period, commit_xid, position",
    "ix_usage_events_period": "tenant_id, period, commit_xid, position",
}
OF_OTHERS = {
    "usage_events_other_all": INDEXES["ix_usage_events_all"],
    "usage_events_other_period": INDEXES["ix_usage_events_period"],
}

INDEX_STRAYS = """
CREATE FUNCTION public.forecourt_index_strays(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE INDEX %I ON public.%I (tenant_id, period, commit_xid, position) WHERE period <> %L',
                 name || '_strays', name, replace(right(name, 7), '_', '-'));
END $$
"""
# As before, and the index.
MAKE = f"""
CREATE OR REPLACE FUNCTION public.forecourt_make_usage_month(month date) RETURNS boolean
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
  PERFORM public.forecourt_index_strays(name);
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
"""  # noqa: S608  # a constant of that file
# As before, but for how a month's pairs are found: all tenants that have any event of it, and the strays.
EXPIRE = """
CREATE OR REPLACE FUNCTION public.forecourt_expire_usage_month(before_period text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE name text; own text; blocked boolean; held text := $p$
  WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM public.%1$I ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id FROM tenants CROSS JOIN LATERAL (
      SELECT event.tenant_id FROM public.%1$I AS event WHERE event.tenant_id > tenants.tenant_id
      ORDER BY event.tenant_id LIMIT 1) AS following),
  pairs AS (
    SELECT tenants.tenant_id, %2$L AS period FROM tenants WHERE EXISTS (
      SELECT FROM public.%1$I AS event WHERE event.tenant_id = tenants.tenant_id AND event.period = %2$L)
    UNION
    SELECT stray.tenant_id, stray.period FROM public.%1$I AS stray WHERE stray.period <> %2$L)
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
  FOR name, own IN
    SELECT child.relname, replace(right(child.relname, 7), '_', '-')
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'public.usage_events'::regclass AND child.relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'
      AND replace(right(child.relname, 7), '_', '-') < before_period
    ORDER BY child.relname
  LOOP
    -- From here on nobody adds to it, and everybody reads on.
    EXECUTE format('LOCK TABLE public.%I IN SHARE MODE', name);
    EXECUTE format(held || 'SELECT EXISTS (SELECT FROM pairs LEFT JOIN public.closed_periods AS closed '
      'USING (tenant_id, period) WHERE closed.period IS NULL OR pairs.period >= $1) OR EXISTS (SELECT FROM public.%1$I '
      'AS event JOIN public.usage_checkpoints AS folded ON folded.name = ''rollups'' '
      'AND (event.commit_xid, event.position) > (folded.xid, folded."row"))', name, own)
      INTO blocked USING before_period;
    CONTINUE WHEN blocked;
    EXECUTE format(held || 'INSERT INTO public.expired_periods (tenant_id, period, expired_at) '
      'SELECT tenant_id, period, now() FROM pairs ON CONFLICT DO NOTHING', name, own);
    LOCK TABLE ONLY public.usage_events IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE public.usage_events DETACH PARTITION public.%I', name);
    EXECUTE format('ALTER TABLE public.%I RENAME TO %I', name, replace(name, 'events', 'expired'));
    RETURN own;
  END LOOP;
  RETURN NULL;
END $$
"""
OF_EACH_MONTH = """
DO $do$ DECLARE name text; BEGIN
  FOR name IN
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'public.usage_events'::regclass AND child.relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'
  LOOP
    STATEMENT;
  END LOOP;
END $do$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(INDEX_STRAYS)
    op.execute("REVOKE ALL ON FUNCTION public.forecourt_index_strays(text) FROM PUBLIC")
    op.execute(OF_EACH_MONTH.replace("STATEMENT", "PERFORM public.forecourt_index_strays(name)"))
    for index, columns in OF_OTHERS.items():
        op.execute(f"CREATE INDEX {index} ON usage_events_other ({columns})")
    for index in INDEXES:
        op.execute(f"DROP INDEX {index}")
    op.execute(MAKE)
    op.execute(EXPIRE)


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for name in ("MAKE", "EXPIRE"):
        op.execute(BEFORE[name].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    for index in OF_OTHERS:
        op.execute(f"DROP INDEX {index}")
    for index, columns in INDEXES.items():
        op.execute(f"CREATE INDEX {index} ON usage_events ({columns})")
    op.execute(OF_EACH_MONTH.replace("STATEMENT", "EXECUTE format('DROP INDEX public.%I', name || '_strays')"))
    op.execute("DROP FUNCTION public.forecourt_index_strays(text)")
