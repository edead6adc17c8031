"""Every way around the walls that we could think of, tried as a tenant on a real PostgreSQL."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset

PRESETS = list(Preset)

TRICKS = (
    'SET ROLE "{them}"',
    "SET ROLE postgres",
    "SET ROLE provisioner_driver",
    "SET ROLE pg_read_all_data",
    "SET ROLE pg_write_all_data",
    'SET SESSION AUTHORIZATION "{them}"',
    "SET SESSION AUTHORIZATION postgres",
    'GRANT "{them}" TO "{me}"',
    'GRANT provisioner_driver TO "{me}"',
    'ALTER ROLE "{me}" CREATEROLE',
    'ALTER ROLE "{me}" BYPASSRLS',
    'ALTER ROLE "{me}" SUPERUSER',
    'ALTER ROLE "{me}" CONNECTION LIMIT 1000',
    "ALTER ROLE \"{them}\" PASSWORD 'mine now'",
    "CREATE ROLE accomplice",
    "CREATE DATABASE accomplice",
    'ALTER DATABASE "{database}" OWNER TO "{me}"',
    "CREATE SCHEMA accomplice",
    "CREATE TABLE public.accomplice (a int)",
    "CREATE TABLE {schema}.accomplice (a int)",
    "CREATE TEMPORARY TABLE accomplice (a int)",
    "CREATE TEMPORARY VIEW accomplice AS SELECT * FROM {schema}.documents",
    "CREATE VIEW {schema}.accomplice AS SELECT * FROM {schema}.documents",
    "CREATE FUNCTION {schema}.tenant_of() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$",
    "CREATE FUNCTION pg_temp.accomplice() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 $$",
    "CREATE EXTENSION vector",
    "CREATE FOREIGN DATA WRAPPER accomplice",
    "CREATE PUBLICATION accomplice FOR ALL TABLES",
    "CREATE SUBSCRIPTION accomplice CONNECTION 'host=127.0.0.1' PUBLICATION p",
    "CREATE EVENT TRIGGER accomplice ON ddl_command_end EXECUTE FUNCTION pg_catalog.lo_manage()",
    "CREATE TRIGGER a BEFORE UPDATE ON {schema}.documents EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE accomplice AS ON SELECT TO {schema}.documents DO INSTEAD SELECT 1",
    "CREATE POLICY accomplice ON {schema}.documents USING (true)",
    "CREATE INDEX accomplice ON {schema}.documents (id)",
    "ALTER TABLE {schema}.documents DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {schema}.documents NO FORCE ROW LEVEL SECURITY",
    'ALTER TABLE {schema}.documents OWNER TO "{me}"',
    "ALTER TABLE {schema}.documents ALTER COLUMN id SET DEFAULT 'x'",
    "DROP TABLE {schema}.documents",
    "DROP SCHEMA {schema} CASCADE",
    'DROP OWNED BY "{them}"',
    'REASSIGN OWNED BY "{them}" TO "{me}"',
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
    "SELECT set_config('role', '{them}', false)",
    "SELECT set_config('session_authorization', '{them}', false)",
    "SELECT query_to_xml('SELECT * FROM pg_authid', true, true, '')",
    "ALTER SYSTEM SET row_security = off",
    "SET session_replication_role = replica",
    "SET session_preload_libraries = 'accomplice'",
    "LOAD '/tmp/accomplice.so'",
    "DO $$ BEGIN EXECUTE 'SET ROLE postgres'; END $$",
    'PREPARE accomplice AS SELECT 1; SET LOCAL ROLE "{them}"',
)

# Refused for another reason than a missing right: a role in use keeps its name, and there is no such extension.
ABSENT = (
    'ALTER ROLE "{me}" RENAME TO "{them}0"',
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE LANGUAGE plpython3u",
    "CREATE SERVER accomplice FOREIGN DATA WRAPPER postgres_fdw",
    "SECURITY LABEL ON TABLE {schema}.documents IS 'x'",
)
# PostgreSQL answers these with a warning and does nothing.
IN_VAIN = (
    'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC',
    'GRANT ALL ON DATABASE "{database}" TO "{them}"',
    "GRANT SELECT ON {schema}.documents TO PUBLIC",
    'GRANT USAGE ON SCHEMA {schema} TO "{them}"',
    "VACUUM pg_authid",
    "ANALYZE {schema}.documents",
)


@pytest.mark.parametrize("preset", PRESETS)
async def test_inside_every_trick_is_refused(site, preset) -> None:
    there = await site.neighbours(preset)
    wrong = []
    async with site.enter(there.other) as neighbour, site.enter(there.mine) as connection:
        names = there.names | {"backend": neighbour.get_server_pid()}
        for trick in TRICKS:
            try:
                await connection.execute(trick.format(**names))
                wrong.append((trick, "allowed"))
            except asyncpg.InsufficientPrivilegeError:
                pass
            except asyncpg.PostgresError as error:
                wrong.append((trick, type(error).__name__, str(error)))
            await connection.execute("ROLLBACK; RESET ALL")

        assert not wrong, "\n".join(map(repr, wrong))
        assert await connection.fetchval("SELECT current_user::text") == there.me
        assert await connection.fetchval("SELECT string_agg(id, ',') FROM documents") == "mine"
        assert await neighbour.fetchval("SELECT string_agg(id, ',') FROM documents") == "theirs"


@pytest.mark.parametrize("preset", PRESETS)
async def test_inside_what_is_not_there_is_not_there(site, preset) -> None:
    there = await site.neighbours(preset)
    async with site.enter(there.mine) as connection:
        for trick in ABSENT:
            with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.UndefinedObjectError, asyncpg.DataError)):
                await connection.execute(trick.format(**there.names))


@pytest.mark.parametrize("preset", PRESETS)
async def test_inside_nobody_hands_on_what_was_given_to_it(site, preset) -> None:
    there = await site.neighbours(preset)
    database = there.mine.endpoint.database
    query = """SELECT (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
                      (SELECT string_agg(nspacl::text, '' ORDER BY oid) FROM pg_namespace),
                      (SELECT string_agg(relacl::text, '' ORDER BY oid) FROM pg_class WHERE relname = 'documents')"""
    before = await site.root(database, query)
    async with site.enter(there.mine) as connection:
        for trick in IN_VAIN:
            await connection.execute(trick.format(**there.names))

    assert await site.root(database, query) == before
