"""The processes of a running stack: which there are, replicas that join and leave, and who holds the relay's lease."""

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

from faults.nursery import Fork, Nursery
from faults.points import REACHED

SERVICES = ("tenant", "billing", "provisioner")
LEASE_S = 2.0
"""How long a silent replica keeps its leases; those of the supervised processes last ten seconds."""


@dataclass(slots=True)
class Replica:
    """A second process of a service. url: its HTTP. point: where it is to die or to stop, empty when nowhere."""

    service: str
    fork: Fork
    url: str
    point: str = ""


@dataclass(slots=True)
class Fleet:
    """Everything that runs. data_dir: of `paybill up`. addresses: its parts, by name."""

    data_dir: Path
    addresses: Mapping[str, str]
    operator_key: str
    nursery: Nursery
    replicas: list[Replica] = field(default_factory=list)
    _environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def pid(self, name: str) -> int:
        """The supervised process of this name. Raises ProcessLookupError while there is none."""
        try:
            return self._pid(name)
        except (OSError, StopIteration, IndexError, TypeError, ValueError) as error:
            raise ProcessLookupError(name) from error

    def _pid(self, name: str) -> int:
        if name == "postgres":
            return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        if name == "nats":
            mark = str(self.data_dir / "nats" / "nats-server.conf").encode()
            return next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _has(path, mark))
        pid = int(json.loads((self.data_dir / "stack.json").read_text())["services"][name]["pid"])
        if f"paybill_{name}".encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise ProcessLookupError(name)  # the number is from before; who has it now is none of ours
        return pid

    def remember_environments(self) -> None:
        """Read what the supervised processes were started with: replicas get the same."""
        for name in SERVICES:
            pairs = Path(f"/proc/{self.pid(name)}/environ").read_bytes().decode().rstrip("\0").split("\0")
            self._environments[name] = dict(pair.split("=", 1) for pair in pairs)

    @property
    def reached(self) -> list[list[str]]:
        """The points that were reached: name, `die` or `stop`, and the process."""
        path = self.data_dir / "reached"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def join(self, service: str, how: str = "", point: str = "", occurrence: int = 1) -> Replica:
        """Start a replica. how: `die` or `stop`, at the point, when it gets there for so many times."""
        port = free_port()
        more = {
            "PAYBILL_HTTP_PORT": str(port),
            "PAYBILL_LEASE_S": str(LEASE_S),
            REACHED: str(self.data_dir / "reached"),
        }
        arguments = [service, f"--{how}-at", f"{point}:{occurrence}"] if how else [service]
        fork = self.nursery.start(arguments, self._environments[service] | more)
        replica = Replica(service, fork, f"http://127.0.0.1:{port}", point)
        self.replicas.append(replica)
        return replica

    def living(self, service: str = "") -> list[Replica]:
        """The replicas that have not ended, of one service or of all."""
        self.replicas = [replica for replica in self.replicas if replica.fork.state]
        return [replica for replica in self.replicas if service in ("", replica.service)]

    def urls(self, service: str) -> list[str]:
        """Where a customer may reach the service now."""
        return [self.addresses[service], *(replica.url for replica in self.living(service))]

    def password(self, name: str) -> str:
        """A password of the stack, such as `pg-tenant` or `nats-operator`."""
        return (self.data_dir / "credentials" / name).read_text().strip()

    @property
    def stack(self) -> dict[str, Any]:
        """What the stack says about itself."""
        told: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        return told

    def database(self, role: str, database: str = "") -> str:
        """The address of a database, without the password."""
        server = self.stack["postgres"]
        return f"postgresql://{role}@{server['host']}:{server['port']}/{database or role}"

    async def holding(self, service: str, lease: str = "relay") -> int | None:
        """The process that holds this lease of the service; None when nobody does who is there."""
        query = (
            "SELECT client_port FROM pg_stat_activity JOIN chassis.lease ON owner = application_name "
            "WHERE lease.name = $1 AND client_port IS NOT NULL LIMIT 1"
        )
        connection = await asyncpg.connect(self.database(service), password=self.password(f"pg-{service}"), timeout=3)
        try:
            port = await connection.fetchval(query, lease)
        finally:
            await connection.close()
        mine = [replica.fork.pid for replica in self.living(service)]
        with suppress(ProcessLookupError):
            mine.append(self.pid(service))
        return next((pid for pid in mine if port is not None and _has_socket(pid, _inode(port))), None)


def _has(path: Path, mark: bytes) -> bool:
    try:
        return mark in path.read_bytes()
    except OSError:
        return False


def _inode(port: int) -> str:
    """The socket of this machine that is connected from 127.0.0.1:port."""
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == wanted:
            return words[9]
    return ""


def _has_socket(pid: int, inode: str) -> bool:
    mark = f"socket:[{inode}]"
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208  # names are all that is needed
    except OSError:
        return False
    for name in names:
        with suppress(OSError):
            if re.fullmatch(re.escape(mark), os.readlink(f"/proc/{pid}/fd/{name}")):  # noqa: PTH115  # it is no path
                return True
    return False
