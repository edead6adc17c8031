"""Peers of the saga as processes: each with a new database and an empty log, on the PostgreSQL server of our stack."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from paybill_embedded.databases import DRIVER_ROLE
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port

from paybill_bench.load_generator import WebhookEndpoint
from paybill_bench.peers.saga_work import ROLE_PREFIX, SagaSettings
from paybill_bench.servers import BenchServers, accepts_connections, child

BARE = "paybill_bench.peers.saga_bare"
DBOS = "paybill_bench.peers.saga_dbos"

_DROP_ROLES = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, '{prefix}') LOOP
        EXECUTE format('DROP ROLE %I', name);
    END LOOP;
END $$
"""


@dataclass(frozen=True, slots=True)
class PeerEnvironment:
    """The parts that a peer uses and does not start.

    provider_port: port of the recorded provider; credentials_at_once: as of SagaSettings.
    """

    servers: BenchServers
    provider_port: int
    webhook_secrets: Path
    credentials_at_once: bool = False

    async def settings(self, bus: NatsServer) -> SagaSettings:
        """Returns settings with a new database and an empty folder."""
        directory = self.servers.folder / f"peer-{uuid.uuid4().hex}"
        directory.mkdir()
        postgres = self.servers.postgres
        return SagaSettings(
            await self.servers.access(bus),
            free_port(),
            str(self.webhook_secrets),
            self.provider_port,
            postgres.url(DRIVER_ROLE, "postgres"),
            str(postgres.password_file(DRIVER_ROLE)),
            str(directory),
            self.credentials_at_once,
        )


@asynccontextmanager
async def started_peer(servers: BenchServers, module: str, settings: SagaSettings) -> AsyncIterator[WebhookEndpoint]:
    """Runs the peer `module` until the end of the block; returns its endpoint once it accepts connections."""
    log = servers.folder / "child.log"
    with child(module, settings.argument(), log=log) as process:
        await accepts_connections(process, settings.port, log)
        yield WebhookEndpoint(settings.port, Path(settings.webhook_secret_file))


@asynccontextmanager
async def running_peer(environment: PeerEnvironment, module: str) -> AsyncIterator[tuple[NatsServer, WebhookEndpoint]]:
    """Runs the peer `module` on an empty log; drops the roles that it made, so that they do not slow the next run."""
    servers = environment.servers
    async with servers.bus() as bus:
        settings = await environment.settings(bus)
        try:
            async with started_peer(servers, module, settings) as endpoint:
                yield bus, endpoint
        finally:
            await drop_roles(servers)


async def drop_roles(servers: BenchServers) -> None:
    """Drops the roles of the peers' tenants."""
    postgres = servers.postgres
    connection = await asyncpg.connect(postgres.url(DRIVER_ROLE, "postgres"), password=postgres.password(DRIVER_ROLE))
    try:
        await connection.execute(_DROP_ROLES.format(prefix=ROLE_PREFIX))
    finally:
        await connection.close()


def new_tenants(amount: int) -> list[str]:
    """Returns ids of tenants that nobody knows."""
    return [f"ten_{uuid.uuid4().hex}" for _ in range(amount)]
