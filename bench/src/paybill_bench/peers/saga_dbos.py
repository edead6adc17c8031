"""The saga as a durable workflow of DBOS, with its real work as steps.

A webhook is verified, and acknowledged once DBOS has stored a workflow under the event's id. Its steps fetch the
subscription, publish the facts that are true then, store the secret where passwords are made at once, create folder
and role, and publish the other facts. A password is never the result of a step, which DBOS stores as text: the step
that creates the role reads the stored secret.
"""

import asyncio
import sys
from collections.abc import Sequence

from dbos import DBOS, DBOSConfig, DBOSConfiguredInstance, SetWorkflowID
from nats.aio.client import Client
from typing_extensions import override

from paybill_bench.facts import Message
from paybill_bench.peers.bare_webhooks import Application, Inbox
from paybill_bench.peers.outbox import connect_nats
from paybill_bench.peers.saga_work import (
    Checkout,
    ProviderClient,
    SagaSettings,
    TenantResources,
    outcome_facts,
    plan_facts,
    webhook_server,
)

CONCURRENT = 16
"""Workflows at a time: DBOS is slower with more, and with fewer."""


@DBOS.dbos_class()
class Saga(DBOSConfiguredInstance):
    """The workflow and its steps."""

    def __init__(
        self, provider: ProviderClient, resources: TenantResources, client: Client, *, credentials_at_once: bool
    ) -> None:
        super().__init__("saga")
        self._credentials_at_once = credentials_at_once
        self._provider = provider
        self._resources = resources
        self._client = client
        self._limit = asyncio.Semaphore(CONCURRENT)

    @DBOS.workflow()
    async def run(self, body: str) -> None:
        """Activates a tenant that has paid."""
        checkout = Checkout.of(body)
        async with self._limit:
            subscription = await self.fetch(checkout.subscription)
            await self.publish_plan(body, subscription)
            secret = await self.store_secret(checkout.tenant) if self._credentials_at_once else None
            await self.create_folder(checkout.tenant)
            await self.create_role(checkout.tenant)
            await self.publish_outcome(body, secret)

    @DBOS.step()
    async def fetch(self, subscription: str) -> dict[str, object]:
        """Fetches the provider's current subscription."""
        return await self._provider.subscription(subscription)

    @DBOS.step()
    async def store_secret(self, tenant: str) -> str:
        """Stores a password; returns its reference."""
        return await self._resources.store_secret(tenant, self._resources.password(tenant))

    @DBOS.step()
    async def create_folder(self, tenant: str) -> None:
        """Creates the tenant's folder."""
        await self._resources.create_folder(tenant)

    @DBOS.step()
    async def create_role(self, tenant: str) -> None:
        """Creates the tenant's role, with the stored password if there is one."""
        password = self._resources.password(tenant) if self._credentials_at_once else None
        await self._resources.create_role(tenant, password)

    @DBOS.step()
    async def publish_plan(self, body: str, subscription: dict[str, object]) -> None:
        """Publishes the facts that are true before anything is built."""
        await self._publish(plan_facts(Checkout.of(body), subscription))

    @DBOS.step()
    async def publish_outcome(self, body: str, secret: str | None) -> None:
        """Publishes the facts about the built resources and the active tenant."""
        await self._publish(outcome_facts(Checkout.of(body), secret))

    async def _publish(self, facts: Sequence[Message]) -> None:
        """Publishes in order: a connection transfers the facts in the order in which they are sent."""
        jetstream = self._client.jetstream()
        await asyncio.gather(*(jetstream.publish(fact.subject, fact.payload, headers=fact.headers) for fact in facts))


class WorkflowStarter(Inbox):
    """Stores each webhook as the argument of a workflow; a duplicate has the id of a workflow that exists."""

    def __init__(self, saga: Saga) -> None:
        self._saga = saga

    @override
    async def keep(self, event_id: str, body: bytes) -> None:
        with SetWorkflowID(event_id):
            await DBOS.start_workflow_async(self._saga.run, body.decode())


async def run(settings: SagaSettings) -> None:
    """Serves until the process is stopped."""
    url = settings.servers.engine_url("psycopg").set(drivername="postgresql")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url.render_as_string(hide_password=False),
        "log_level": "ERROR",
    }
    DBOS(config=config)
    async with TenantResources.opened(settings) as resources:
        client = await connect_nats(settings.servers)
        provider = ProviderClient(settings.provider_port)
        saga = Saga(provider, resources, client, credentials_at_once=settings.credentials_at_once)
        DBOS.launch()  # in the event loop, so that recovered workflows run in it
        await webhook_server(Application(WorkflowStarter(saga), settings.webhook_secret), settings.port).serve()


if __name__ == "__main__":
    asyncio.run(run(SagaSettings.of(sys.argv[1])))
