"""Processes of a running stack: the supervised ones, replicas that join and leave, and lease owners."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from paybill_embedded.ports import free_port

from faults.failpoints import REACHED
from faults.fork_server import ForkedProcess, ForkServer

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
LEASE_S = 2.0
"""Time after which a stopped replica loses its leases; those of the supervised processes last ten seconds."""


@dataclass(slots=True)
class Replica:
    """A second process of a service. url: its HTTP address. point: its armed failpoint, empty for none."""

    service: str
    fork: ForkedProcess
    url: str
    point: str = ""


@dataclass(slots=True)
class Fleet:
    """All processes. data_dir: of `paybill up`. addresses: of its parts, by name."""

    data_dir: Path
    addresses: Mapping[str, str]
    operator_key: str
    fork_server: ForkServer
    replicas: list[Replica] = field(default_factory=list)
    _environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def pid(self, name: str) -> int:
        """Returns the id of the supervised process. Raises ProcessLookupError while there is none."""
        try:
            return self._pid(name)
        except (OSError, StopIteration, IndexError, TypeError, ValueError) as error:
            raise ProcessLookupError(name) from error

    def _pid(self, name: str) -> int:
        if name == "postgres":
            return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        if name == "nats":
            marker = str(self.data_dir / "nats" / "nats-server.conf").encode()
            return next(
                int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _contains(path, marker)
            )
        pid = int(json.loads((self.data_dir / "stack.json").read_text())["services"][name]["pid"])
        if f"paybill_{name.replace('-', '_')}".encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise ProcessLookupError(name)  # an old number; the process that has it now is another one
        return pid

    def store_environments(self) -> None:
        """Stores the environments of the supervised processes for the replicas."""
        for name in SERVICES:
            pairs = Path(f"/proc/{self.pid(name)}/environ").read_bytes().decode().rstrip("\0").split("\0")
            self._environments[name] = dict(pair.split("=", 1) for pair in pairs)

    @property
    def reached(self) -> list[list[str]]:
        """Returns the failpoints reached so far: name, `die` or `stop`, and the process."""
        path = self.data_dir / "reached"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def join(self, service: str, how: str = "", point: str = "", occurrence: int = 1) -> Replica:
        """Starts a replica. how: `die` or `stop`, at the `occurrence`th time that it reaches the failpoint."""
        port = free_port()
        more = {
            "PAYBILL_HTTP_PORT": str(port),
            "PAYBILL_LEASE_S": str(LEASE_S),
            REACHED: str(self.data_dir / "reached"),
        }
        arguments = [service, f"--{how}-at", f"{point}:{occurrence}"] if how else [service]
        fork = self.fork_server.start(arguments, self._environments[service] | more)
        replica = Replica(service, fork, f"http://127.0.0.1:{port}", point)
        self.replicas.append(replica)
        return replica

    def running(self, service: str = "") -> list[Replica]:
        """Returns the replicas that have not ended, of one service or of all."""
        self.replicas = [replica for replica in self.replicas if replica.fork.state]
        return [replica for replica in self.replicas if service in ("", replica.service)]

    def urls(self, service: str) -> list[str]:
        """Returns the addresses of the service's processes."""
        return [self.addresses[service], *(replica.url for replica in self.running(service))]

    def password(self, name: str) -> str:
        """Returns a password of the stack, such as `pg-tenant` or `nats-operator`."""
        return (self.data_dir / "credentials" / name).read_text().strip()

    @property
    def stack(self) -> dict[str, Any]:
        """Returns the description of the stack in stack.json."""
        described: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        return described

    def database(self, role: str, database: str = "") -> str:
        """Returns the address of a database, without the password."""
        server = self.stack["postgres"]
        return f"postgresql://{role}@{server['host']}:{server['port']}/{database or role}"

    async def lease_owner(self, service: str, lease: str = "relay") -> int | None:
        """Returns the process that owns this lease of the service; None when no running process does."""
        query = (
            "SELECT client_port FROM pg_stat_activity JOIN chassis.lease ON owner = application_name "
            "WHERE lease.name = $1 AND client_port IS NOT NULL LIMIT 1"
        )
        connection = await asyncpg.connect(self.database(service), password=self.password(f"pg-{service}"), timeout=3)
        try:
            port = await connection.fetchval(query, lease)
        finally:
            await connection.close()
        pids = [replica.fork.pid for replica in self.running(service)]
        with suppress(ProcessLookupError):
            pids.append(self.pid(service))
        return next((pid for pid in pids if port is not None and _has_socket(pid, _inode(port))), None)


def _contains(path: Path, marker: bytes) -> bool:
    try:
        return marker in path.read_bytes()
    except OSError:
        return False


def _inode(port: int) -> str:
    """Returns the inode of this machine's socket that is connected from 127.0.0.1:port."""
    address = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == address:
            return words[9]
    return ""


def _has_socket(pid: int, inode: str) -> bool:
    marker = f"socket:[{inode}]"
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208  # only names are needed
    except OSError:
        return False
    for name in names:
        with suppress(OSError):
            if re.fullmatch(re.escape(marker), os.readlink(f"/proc/{pid}/fd/{name}")):  # noqa: PTH115  # not a path
                return True
    return False
