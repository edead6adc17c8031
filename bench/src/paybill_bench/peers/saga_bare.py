"""A saga without Paybill's runtime: one process, with the minimum of work that still loses nothing.

A webhook is verified and stored by a group commit before it is acknowledged. Then its subscription is fetched, and
role, folder and, where passwords are made at once, a secret are built concurrently. The tenant and its facts are stored
by another group commit, and a relay publishes the facts. It validates and traces nothing; it has no leases, no retries
and no domain. After a crash it continues with the stored webhooks that have no tenant.
"""

import asyncio
import sys
import uuid
from typing import Any

import asyncpg
from typing_extensions import override

from paybill_bench.facts import Message
from paybill_bench.peers import bare_webhooks, outbox
from paybill_bench.peers.outbox import OutboxRelay
from paybill_bench.peers.saga_work import (
    Checkout,
    ProviderClient,
    SagaSettings,
    TenantResources,
    headers_of,
    outcome_facts,
    plan_facts,
    webhook_server,
)

WORKERS = 16
"""Sagas at a time: fewer are slower."""

TABLES = """
CREATE TABLE tenants (tenant_id text PRIMARY KEY, event_id text NOT NULL UNIQUE, secret text);
"""
UNFINISHED = "SELECT body FROM webhooks AS w WHERE NOT EXISTS (SELECT FROM tenants AS t WHERE t.event_id = w.event_id)"
# A tenant that exists already has its facts: they are stored once.
FINISH = """
WITH activated AS (
    INSERT INTO tenants SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS n (tenant_id, event_id, secret)
    ORDER BY tenant_id ON CONFLICT DO NOTHING RETURNING tenant_id
)
INSERT INTO outbox (id, cause, tenant_id, subject, payload)
SELECT id, cause, tenant_id, subject, payload
FROM unnest($4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bytea[])
WITH ORDINALITY AS n (id, cause, tenant_id, subject, payload, place) JOIN activated USING (tenant_id) ORDER BY place
"""


class SagaInbox(bare_webhooks.Inbox):
    """Stores webhooks, then starts their sagas, once for each event."""

    def __init__(self, connection: asyncpg.Connection, sagas: asyncio.Queue[Checkout]) -> None:
        super().__init__(connection)
        self._sagas = sagas
        self._started: set[str] = set()

    def start(self, body: bytes) -> None:
        """Starts the saga of a stored webhook."""
        checkout = Checkout.of(body)
        if checkout.event_id not in self._started:
            self._started.add(checkout.event_id)
            self._sagas.put_nowait(checkout)

    @override
    async def keep(self, event_id: str, body: bytes) -> None:
        await super().keep(event_id, body)
        self.start(body)


class Results:
    """Group commit of finished sagas: one statement at a time, with all that finished meanwhile."""

    def __init__(self, pool: Any, relay: OutboxRelay) -> None:
        self._pool = pool
        self._relay = relay
        self._pending: list[tuple[Checkout, str | None, list[Message]]] = []
        self._arrived = asyncio.Event()

    def add(self, checkout: Checkout, secret: str | None, messages: list[Message]) -> None:
        """Adds a saga to the next group."""
        self._pending.append((checkout, secret, messages))
        self._arrived.set()

    async def write(self) -> None:
        """Writes groups until the process is stopped."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            group, self._pending = self._pending, []
            rows = [
                (message, uuid.uuid5(uuid.NAMESPACE_OID, checkout.event_id), checkout.tenant)
                for checkout, _, messages in group
                for message in messages
            ]
            await self._pool.execute(
                FINISH,
                [checkout.tenant for checkout, _, _ in group],
                [checkout.event_id for checkout, _, _ in group],
                [secret for _, secret, _ in group],
                [message.headers["ce-id"] for message, _, _ in rows],
                [cause for _, cause, _ in rows],
                [tenant for _, _, tenant in rows],
                [message.subject for message, _, _ in rows],
                [message.payload for message, _, _ in rows],
            )
            self._relay.wake()


async def _work(
    sagas: asyncio.Queue[Checkout],
    provider: ProviderClient,
    resources: TenantResources,
    results: Results,
    *,
    credentials_at_once: bool,
) -> None:
    while True:
        checkout = await sagas.get()
        subscription = await provider.subscription(checkout.subscription)
        tenant, secret = checkout.tenant, None
        if credentials_at_once:
            password = resources.password(tenant)
            secret, _, _ = await asyncio.gather(
                resources.store_secret(tenant, password),
                resources.create_folder(tenant),
                resources.create_role(tenant, password),
            )
        else:
            await asyncio.gather(resources.create_folder(tenant), resources.create_role(tenant, None))
        results.add(checkout, secret, [*plan_facts(checkout, subscription), *outcome_facts(checkout, secret)])


def _headers(row: Any) -> dict[str, str]:
    type_ = row["subject"].split(".", 3)[3].rpartition(".")[0]
    return headers_of(str(row["id"]), type_, str(row["cause"]), row["tenant_id"])


async def run(settings: SagaSettings) -> None:
    """Serves until the process is stopped."""
    access, sagas = settings.servers, asyncio.Queue[Checkout]()
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    if not await connection.fetchval("SELECT to_regclass('tenants')"):
        await connection.execute(f"BEGIN; {bare_webhooks.TABLES}; {outbox.TABLE}; {TABLES}; COMMIT")
    inbox = SagaInbox(connection, sagas)
    for row in await connection.fetch(UNFINISHED):
        inbox.start(row["body"])
    server = webhook_server(bare_webhooks.Application(inbox, settings.webhook_secret), settings.port)
    async with (
        asyncpg.create_pool(access.database_url, password=access.database_password, min_size=2, max_size=4) as pool,
        TenantResources.opened(settings) as resources,
        asyncio.TaskGroup() as tasks,
    ):
        relay = OutboxRelay(await outbox.connect_nats(access), pool, _headers)
        results = Results(pool, relay)
        tasks.create_task(inbox.write())
        tasks.create_task(results.write())
        tasks.create_task(relay.run())
        for _ in range(WORKERS):
            provider = ProviderClient(settings.provider_port)
            at_once = settings.credentials_at_once
            tasks.create_task(_work(sagas, provider, resources, results, credentials_at_once=at_once))
        tasks.create_task(server.serve())


if __name__ == "__main__":
    asyncio.run(run(SagaSettings.of(sys.argv[1])))
