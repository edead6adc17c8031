"""Nodes of a real NATS cluster on loopback, with the users and permissions of production."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from paybill_embedded import free_port
from paybill_embedded.nats import DEFAULT_PUBLISHERS
from paybill_embedded.users import IDENTITIES, Cluster, render_conf

REPLICAS = 3
OBSERVER = "observer"
"""A user of the account of JetStream, that may subscribe and publish to every subject."""
INSTALLED_SERVER = Path(sys.executable).parent / "nats-server"
SERVER = Path(os.environ.get("PAYBILL_TEST_CLUSTER_NATS_SERVER", INSTALLED_SERVER))
"""The program nats-server: the one of this environment, or another version."""


@contextmanager
def running_nodes(
    folder: Path, configurations: Mapping[str, str], health: Mapping[str, int], server: Path = SERVER
) -> Iterator[None]:
    """Runs a node for each configuration; starts the block when all are healthy.

    health: the port of each node's HTTP monitoring.
    """
    with ExitStack() as stack:
        for node, text in configurations.items():
            (folder / f"{node}.conf").write_text(text)
            process = subprocess.Popen([server, "--config", folder / f"{node}.conf", "--log", folder / f"{node}.log"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        deadline = time.monotonic() + 30
        while not all(_is_healthy(port) for port in health.values()):
            assert time.monotonic() < deadline, "the nodes never became healthy"
            time.sleep(0.1)
        yield


def _is_healthy(port: int) -> bool:
    """Sends the request of a node's health check."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).is_success
    except httpx.TransportError:
        return False


class NatsCluster:
    """Three nodes below `folder`; has the addresses and passwords of an embedded `NatsServer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = [free_port() for _ in range(REPLICAS)]
        self.url = f"nats://127.0.0.1:{self._ports[0]}"
        self._passwords = {user: secrets.token_hex(16) for user in (*IDENTITIES, *DEFAULT_PUBLISHERS)}
        self._observer_password = secrets.token_hex(16)
        for user, password in self._passwords.items():
            self.password_file(user).write_text(password)

    def password(self, user: str) -> str:
        """Returns the password of a user."""
        return self._observer_password if user == OBSERVER else self._passwords[user]

    def password_file(self, user: str) -> Path:
        """Returns the file with the password of a user."""
        return self.folder / f"nats-{user}"

    @contextmanager
    def running(self, server: Path = SERVER) -> Iterator["NatsCluster"]:
        """Runs the nodes until the end of the block; again on the same stores when it ran before."""
        routes = [free_port() for _ in range(REPLICAS)]
        health = {f"n{number}": free_port() for number in range(REPLICAS)}
        addresses = tuple(f"nats-route://route:together@127.0.0.1:{port}" for port in routes)
        observer = f'    users: [{{user: "{OBSERVER}", password: "{self._observer_password}"}}]\n'
        configurations = {
            node: render_conf(
                self._passwords,
                listen=f"127.0.0.1:{port}",
                store_dir=str(self.folder / node),
                server_name=node,
                monitor=f"127.0.0.1:{health[node]}",
                cluster=Cluster("paybill", f"127.0.0.1:{route}", addresses, "route", "together"),
            ).replace("    exports: [\n", f"{observer}    exports: [\n")
            for node, port, route in zip(health, self._ports, routes, strict=True)
        }
        with running_nodes(self.folder, configurations, health, server):
            yield self
