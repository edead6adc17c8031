"""Addresses and credentials of a measured process: one JSON argument; passwords stay in files."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url

INPUT_SUBJECT = "paybill.events.*.billing.hop_metered.v1"
"""Subjects that every hop consumes; it publishes one `tenant.hop_noted` of the same size for each fact."""
PEER_CONSUMER = "tenant-1"
"""Name of a peer's consumer: its login is that of the tenant service, which may use no others."""


def output_subject(input_subject: str) -> str:
    """Returns the subject of the hop's fact: the same partition, since it concerns the same tenant."""
    return f"paybill.events.{input_subject.split('.', 3)[2]}.tenant.hop_noted.v1"


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Addresses of the servers, with users and password files."""

    nats_url: str
    nats_user: str
    nats_password_file: str
    database_url: str
    database_password_file: str

    @property
    def nats_password(self) -> str:
        """Returns the password of `nats_user`."""
        return Path(self.nats_password_file).read_text(encoding="ascii").strip()

    @property
    def database_password(self) -> str:
        """Returns the password of the role in `database_url`."""
        return Path(self.database_password_file).read_text(encoding="ascii").strip()

    def engine_url(self, driver: str) -> URL:
        """Returns the URL for SQLAlchemy, with the password."""
        return make_url(self.database_url).set(drivername=f"postgresql+{driver}", password=self.database_password)

    def argument(self) -> str:
        """Returns the command-line argument for a child process."""
        return json.dumps(asdict(self))


def from_command_line() -> ServerAccess:
    """Returns the access that the command line contains."""
    return ServerAccess(**json.loads(sys.argv[1]))
