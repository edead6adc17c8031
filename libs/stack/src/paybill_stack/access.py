"""Addresses of NATS and PostgreSQL, with one password file per user."""

from dataclasses import dataclass
from pathlib import Path

from paybill_embedded.databases import DRIVER_ROLE

STEWARD = "steward"
"""The NATS user that may create and change streams."""
MAINTENANCE_DATABASE = "postgres"
"""The database in which the provisioner's driver runs CREATE DATABASE; every server has it."""


@dataclass(frozen=True, slots=True)
class BusAccess:
    """NATS at `url`; the password of a user is in `credentials`/nats-<user>.

    steward_file: with the password of the steward, unless it is beside the others.
    """

    url: str
    credentials: Path
    steward_file: Path | None = None

    def password_file(self, user: str) -> Path:
        """Returns the path of the file with the password of `user`."""
        if user == STEWARD and self.steward_file is not None:
            return self.steward_file
        return self.credentials / f"nats-{user}"

    def password(self, user: str) -> str:
        """Reads the password of `user`."""
        return self.password_file(user).read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """PostgreSQL at host:port; the password of a role is in `credentials`/pg-<role>."""

    host: str
    port: int
    credentials: Path

    def url(self, role: str, database: str | None = None) -> str:
        """Returns the URL for `role` without a password; `database` defaults to the name of the role."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{role}@{host}:{self.port}/{database or role}"

    def password_file(self, role: str) -> Path:
        """Returns the path of the file with the password of `role`."""
        return self.credentials / f"pg-{role}"

    def driver(self) -> tuple[str, Path]:
        """Returns the URL and the password file of the role that creates tenants' databases."""
        return self.url(DRIVER_ROLE, MAINTENANCE_DATABASE), self.password_file(DRIVER_ROLE)
