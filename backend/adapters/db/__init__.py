"""The store of record on SQLite and PostgreSQL: one set of tables, two dialects."""
