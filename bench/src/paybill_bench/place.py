"""Where a measured process finds its servers: one JSON argument; passwords stay in files."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url

HEARD = "paybill.events.*.billing.hop_metered.v1"
"""What every hop hears; it answers each fact with one of `tenant.hop_noted`, of the same size."""


def answer_subject(heard: str) -> str:
    """Where the answer to a fact goes: the same partition, for it is about the same tenant."""
    return f"paybill.events.{heard.split('.', 3)[2]}.tenant.hop_noted.v1"


@dataclass(frozen=True, slots=True)
class Place:
    """The servers, and as whom they are used."""

    nats_url: str
    nats_user: str
    nats_password_file: str
    database_url: str
    database_password_file: str

    @property
    def nats_password(self) -> str:
        """Of `nats_user`."""
        return Path(self.nats_password_file).read_text(encoding="ascii").strip()

    @property
    def database_password(self) -> str:
        """Of the role in `database_url`."""
        return Path(self.database_password_file).read_text(encoding="ascii").strip()

    def engine_url(self, driver: str) -> URL:
        """For SQLAlchemy, with the password."""
        return make_url(self.database_url).set(drivername=f"postgresql+{driver}", password=self.database_password)

    def argument(self) -> str:
        """For the command line of a child."""
        return json.dumps(asdict(self))


def here() -> Place:
    """What the command line says."""
    return Place(**json.loads(sys.argv[1]))
