-- Run once, by the database image, while it creates a new cluster.
--
-- The tables belong to the superuser that migrates. The service logs in as this role instead: row-level security and
-- the ledger's grants do not hold for a superuser or an owner. What the role may do is granted by the migrations.
\getenv app_password POSTGRES_APP_PASSWORD
CREATE ROLE forecourt_app LOGIN PASSWORD :'app_password' NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
