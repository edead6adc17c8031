"""Idempotent psql script that creates the databases and roles of the services."""

import hashlib
import hmac
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence

DRIVER_ROLE = "provisioner_driver"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
ITERATIONS = 4096
"""PostgreSQL's default. The passwords are random, 256 bits: fewer iterations would be as safe."""


# Each part begins with variables of psql, which quotes them as :"names" and :'texts'.
_ROLE = """
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \\gexec
ALTER ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'verifier';
GRANT pg_use_reserved_connections TO :"name";
"""
_DATABASE = """
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
"""
# PostgreSQL lets every role connect to every new database. Here only its owner may connect; the driver's role alone may
# also connect to `postgres`, where it runs CREATE DATABASE.
_DRIVER = """
ALTER ROLE :"name" CREATEDB CREATEROLE;
GRANT pg_read_all_stats, pg_signal_backend TO :"name";
REVOKE ALL ON DATABASE template1, postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO :"name";
"""

TENANT_TEMPLATE = "paybill_tenants"
"""Database from which the driver creates those of tenants: PUBLIC has fewer rights in it."""

SHARED_DATABASES = f"""
SELECT datname FROM pg_database
WHERE datallowconn AND datdba = '{DRIVER_ROLE}'::regrole AND datname ~ '^(pool|bridge)_' ORDER BY 1
"""  # noqa: S608  # a constant
"""Query for the databases that tenants share, which may be older than their template."""

_TEMPLATE = f"""
SELECT 'CREATE DATABASE {TENANT_TEMPLATE} TEMPLATE template0 ENCODING ''UTF8'' IS_TEMPLATE true'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{TENANT_TEMPLATE}') \\gexec
REVOKE ALL ON DATABASE {TENANT_TEMPLATE} FROM PUBLIC;
"""  # noqa: S608  # a constant
# Only a superuser may change the rights on objects of PostgreSQL itself, which are those of one database. Large objects
# are in no export and have no row-level security; advisory locks and messages in the log have effects on others; the
# rest shows other tenants. `pg_class` stays readable, without the columns that follow the number of all rows.
_FEWER_RIGHTS = f"""
SET client_min_messages = warning;
DO $paybill$
DECLARE
    each record;
    visible text;
BEGIN
    FOR each IN
        SELECT f.oid::regprocedure AS name FROM pg_proc AS f
        WHERE f.pronamespace = 'pg_catalog'::regnamespace
        AND f.proname ~ ('^(lo_|loread$|lowrite$|pg_(try_)?advisory_|pg_logical_emit_message$'
            || '|pg_stat_(get_(?!xact_)|have_))')
        UNION ALL
        SELECT f.oid::regprocedure FROM pg_proc AS f
        WHERE f.pronamespace = 'pg_catalog'::regnamespace
        AND f.proname ~ ('^pg_(prepared_xact|notification_queue_usage|isolation_test_session_is_blocked'
            || '|(safe_snapshot_)?blocking_pids|(relation|table|indexes|total_relation|database|tablespace)_size'
            || '|current_wal_(lsn|insert_lsn|flush_lsn))$')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', each.name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {DRIVER_ROLE}', each.name);
    END LOOP;
    REVOKE SELECT ON pg_roles, pg_user, pg_group, pg_auth_members, pg_database, pg_db_role_setting, pg_shdepend,
        pg_shdescription, pg_shseclabel, pg_largeobject_metadata, pg_class FROM PUBLIC;
    GRANT SELECT ON pg_roles, pg_user, pg_group, pg_auth_members, pg_database, pg_db_role_setting, pg_shdepend,
        pg_shdescription, pg_shseclabel, pg_largeobject_metadata, pg_class TO {DRIVER_ROLE};
    SELECT string_agg(quote_ident(attname), ', ') INTO visible FROM pg_attribute
    WHERE attrelid = 'pg_class'::regclass AND (attnum > 0 OR attname = 'tableoid')
    AND attname NOT IN ('reltuples', 'relpages', 'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid');
    EXECUTE format('GRANT SELECT (%s) ON pg_class TO PUBLIC', visible);
END $paybill$;
RESET client_min_messages;
"""  # noqa: S608  # constants


def tenant_rights_script(databases: Sequence[str]) -> str:
    """Returns the script that takes rights of PUBLIC away in `databases`, whose names PostgreSQL returned; idempotent.

    The rights are those that let a tenant leave its quota, reach its neighbours or learn of them.
    """
    return "".join(f'\\connect "{name}"\n{_FEWER_RIGHTS}' for name in databases)


def databases_script(services: Sequence[str], password_of: Callable[[str], str], iterations: int = ITERATIONS) -> str:
    """Returns the script: a database and a role for each service, and role and template of tenants' databases."""
    parts = ["\\set VERBOSITY terse\n"]
    for name in services:
        parts += [_variables(name, password_of(name), iterations), _ROLE, _DATABASE]
    parts += [_variables(DRIVER_ROLE, password_of(DRIVER_ROLE), iterations), _ROLE, _DRIVER]
    parts += [_TEMPLATE, tenant_rights_script([TENANT_TEMPLATE])]
    return "".join(parts)


def _variables(name: str, password: str, iterations: int) -> str:
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is not a database name: use a lower-case letter, then lower-case letters, digits, - and _"
        raise ValueError(msg)
    return f"\\set name {name}\n\\set verifier '{scram_verifier(password, iterations)}'\n"


def scram_verifier(password: str, iterations: int) -> str:
    """Returns the SCRAM verifier of `password` (RFC 5803), so that no statement contains the password itself.

    password: ASCII, for which SASLprep changes nothing.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (b64encode(part).decode("ascii") for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"
