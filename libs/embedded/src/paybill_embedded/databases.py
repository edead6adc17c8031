"""The databases and roles of the services, as a script for psql that can run again and again."""

import hashlib
import hmac
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence

DRIVER_ROLE = "provisioner_driver"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ITERATIONS = 4096  # PostgreSQL's default; the passwords are random, 256 bits


def databases_script(services: Sequence[str], password_of: Callable[[str], str]) -> str:
    """The script: a database and a role for each service, and the role that makes tenants' databases.

    PostgreSQL lets everybody connect to each new database. Here nobody may, but the owner: PUBLIC loses that right
    everywhere, also on the databases that every cluster begins with. The driver alone keeps `postgres`, for CREATE
    DATABASE has to be said from somewhere.
    """
    parts = [_revoke("template1"), _revoke("postgres")]
    for name in services:
        parts += [
            _role(name, "NOCREATEDB NOCREATEROLE", password_of(name)),
            f"SELECT 'CREATE DATABASE {_checked(name)} OWNER {name}'"
            f" WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec",
            _revoke(name),
        ]
    parts += [
        _role(DRIVER_ROLE, "CREATEDB CREATEROLE", password_of(DRIVER_ROLE)),
        f"GRANT CONNECT ON DATABASE postgres TO {DRIVER_ROLE};",
    ]
    return "\n".join(["\\set VERBOSITY terse", *parts, ""])


def _role(name: str, rights: str, password: str) -> str:
    return (
        f"SELECT 'CREATE ROLE {_checked(name)}'"
        f" WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec\n"
        f"ALTER ROLE {name} LOGIN NOSUPERUSER NOREPLICATION NOBYPASSRLS {rights} PASSWORD '{scram_verifier(password)}';"
    )


def _revoke(database: str) -> str:
    return f"REVOKE ALL ON DATABASE {_checked(database)} FROM PUBLIC;"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a database here: a lower-case letter, then lower-case letters, digits and _"
        raise ValueError(msg)
    return name


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for `password` (RFC 5803), so that the password itself is never in a statement.

    password: ASCII, for which SASLprep changes nothing.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (b64encode(part).decode("ascii") for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"
