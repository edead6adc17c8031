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
REVOKE ALL ON DATABASE template1, postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO :"name";
"""


def databases_script(services: Sequence[str], password_of: Callable[[str], str], iterations: int = ITERATIONS) -> str:
    """Returns the script: a database and a role for each service, and the role that creates tenants' databases."""
    parts = ["\\set VERBOSITY terse\n"]
    for name in services:
        parts += [_variables(name, password_of(name), iterations), _ROLE, _DATABASE]
    parts += [_variables(DRIVER_ROLE, password_of(DRIVER_ROLE), iterations), _ROLE, _DRIVER]
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
