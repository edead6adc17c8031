"""Attempts of a tenant to escape its isolation, on a real PostgreSQL."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset

PRESETS = list(Preset)

ESCAPE_ATTEMPTS = (
    'SET ROLE "{neighbour_role}"',
    "SET ROLE postgres",
    "SET ROLE provisioner_driver",
    "SET ROLE pg_read_all_data",
    "SET ROLE pg_write_all_data",
    'SET SESSION AUTHORIZATION "{neighbour_role}"',
    "SET SESSION AUTHORIZATION postgres",
    'GRANT "{neighbour_role}" TO "{tenant_role}"',
    'GRANT provisioner_driver TO "{tenant_role}"',
    'ALTER ROLE "{tenant_role}" CREATEROLE',
    'ALTER ROLE "{tenant_role}" BYPASSRLS',
    'ALTER ROLE "{tenant_role}" SUPERUSER',
    'ALTER ROLE "{tenant_role}" CONNECTION LIMIT 1000',
    "ALTER ROLE \"{neighbour_role}\" PASSWORD 'mine now'",
    "CREATE ROLE intruder",
    "CREATE DATABASE intruder",
    'ALTER DATABASE "{database}" OWNER TO "{tenant_role}"',
    "CREATE SCHEMA intruder",
    "CREATE TABLE public.intruder (a int)",
    "CREATE TABLE {schema}.intruder (a int)",
    "CREATE TEMPORARY TABLE intruder (a int)",
    "CREATE TEMPORARY VIEW intruder AS SELECT * FROM {schema}.documents",
    "CREATE VIEW {schema}.intruder AS SELECT * FROM {schema}.documents",
    "CREATE FUNCTION {schema}.tenant_of() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$",
    "CREATE FUNCTION pg_temp.intruder() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 $$",
    "CREATE EXTENSION vector",
    "CREATE FOREIGN DATA WRAPPER intruder",
    "CREATE PUBLICATION intruder FOR ALL TABLES",
    "CREATE SUBSCRIPTION intruder CONNECTION 'host=127.0.0.1' PUBLICATION p",
    "CREATE EVENT TRIGGER intruder ON ddl_command_end EXECUTE FUNCTION pg_catalog.lo_manage()",
    "CREATE TRIGGER a BEFORE UPDATE ON {schema}.documents EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE intruder AS ON SELECT TO {schema}.documents DO INSTEAD SELECT 1",
    "CREATE POLICY intruder ON {schema}.documents USING (true)",
    "CREATE INDEX intruder ON {schema}.documents (id)",
    "ALTER TABLE {schema}.documents DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {schema}.documents NO FORCE ROW LEVEL SECURITY",
    'ALTER TABLE {schema}.documents OWNER TO "{tenant_role}"',
    "ALTER TABLE {schema}.documents ALTER COLUMN id SET DEFAULT 'x'",
    "DROP TABLE {schema}.documents",
    "DROP SCHEMA {schema} CASCADE",
    'DROP OWNED BY "{neighbour_role}"',
    'REASSIGN OWNED BY "{neighbour_role}" TO "{tenant_role}"',
    "TRUNCATE {schema}.documents",
    "COPY {schema}.documents TO '/dev/null'",
    "COPY {schema}.documents FROM '/etc/passwd'",
    "COPY {schema}.documents TO PROGRAM 'true'",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_user_mapping",
    "SELECT * FROM pg_statistic",
    "SELECT * FROM pg_largeobject",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_reload_conf()",
    "SELECT pg_terminate_backend({backend})",
    "SELECT pg_cancel_backend({backend})",
    "SELECT lo_import('/etc/passwd')",
    "SELECT set_config('role', '{neighbour_role}', false)",
    "SELECT set_config('session_authorization', '{neighbour_role}', false)",
    "SELECT query_to_xml('SELECT * FROM pg_authid', true, true, '')",
    "ALTER SYSTEM SET row_security = off",
    "SET session_replication_role = replica",
    "SET session_preload_libraries = 'intruder'",
    "LOAD '/tmp/intruder.so'",
    "DO $$ BEGIN EXECUTE 'SET ROLE postgres'; END $$",
    'PREPARE intruder AS SELECT 1; SET LOCAL ROLE "{neighbour_role}"',
)

# Refused for another reason than a missing privilege: a role in use keeps its name; the extension does not exist.
UNAVAILABLE_FEATURES = (
    'ALTER ROLE "{tenant_role}" RENAME TO "{neighbour_role}0"',
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE LANGUAGE plpython3u",
    "CREATE SERVER intruder FOREIGN DATA WRAPPER postgres_fdw",
    "SECURITY LABEL ON TABLE {schema}.documents IS 'x'",
)
# PostgreSQL ignores these with a warning.
INEFFECTIVE = (
    'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC',
    'GRANT ALL ON DATABASE "{database}" TO "{neighbour_role}"',
    "GRANT SELECT ON {schema}.documents TO PUBLIC",
    'GRANT USAGE ON SCHEMA {schema} TO "{neighbour_role}"',
    "VACUUM pg_authid",
    "ANALYZE {schema}.documents",
)


async def attempt_to_escape(harness, pair, attempts=ESCAPE_ATTEMPTS) -> None:
    """Runs the attempts as the tenant of the pair: each is refused, and both tenants see their own row only."""
    allowed = []
    async with harness.connect(pair.neighbour) as neighbour, harness.connect(pair.tenant) as connection:
        names = pair.names | {"backend": neighbour.get_server_pid()}
        for statement in attempts:
            try:
                await connection.execute(statement.format(**names))
                allowed.append((statement, "allowed"))
            except asyncpg.InsufficientPrivilegeError:
                pass
            except asyncpg.PostgresError as error:
                allowed.append((statement, type(error).__name__, str(error)))
            await connection.execute("ROLLBACK; RESET ALL")

        assert not allowed, "\n".join(map(repr, allowed))
        assert await connection.fetchval("SELECT current_user::text") == pair.tenant_role
        assert await connection.fetchval("SELECT string_agg(id, ',') FROM documents") == "mine"
        assert await neighbour.fetchval("SELECT string_agg(id, ',') FROM documents") == "theirs"


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_escape_attempt_is_refused(harness, preset) -> None:
    await attempt_to_escape(harness, await harness.tenant_pair(preset))


@pytest.mark.parametrize("preset", PRESETS)
async def test_unavailable_features_stay_unavailable(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    async with harness.connect(pair.tenant) as connection:
        for statement in UNAVAILABLE_FEATURES:
            with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.UndefinedObjectError, asyncpg.DataError)):
                await connection.execute(statement.format(**pair.names))


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_tenant_cannot_pass_on_its_privileges(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    database = pair.tenant.connections[0].database
    query = """SELECT (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
                      (SELECT string_agg(nspacl::text, '' ORDER BY oid) FROM pg_namespace),
                      (SELECT string_agg(relacl::text, '' ORDER BY oid) FROM pg_class WHERE relname = 'documents')"""
    before = await harness.as_superuser(database, query)
    async with harness.connect(pair.tenant) as connection:
        for statement in INEFFECTIVE:
            await connection.execute(statement.format(**pair.names))

    assert await harness.as_superuser(database, query) == before
