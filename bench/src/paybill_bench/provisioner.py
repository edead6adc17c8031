"""The provisioner alone: a process with servers of its own, which gets the facts of the other services from here."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nats.aio.client import Client
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.event import Event
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import Source, TenantRequested
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import connect

from paybill_bench.activations import facts_from_now
from paybill_bench.blueprints import blueprint_file
from paybill_bench.deadlines import StallDetector
from paybill_bench.facts import Message
from paybill_bench.journeys import Stack
from paybill_bench.servers import BenchmarkError, BenchServers, publish, started_servers

REGISTERED = "provisioner.environment_registered"
READY = "provisioner.environment_ready"
PENDING = "provisioner.step_pending"
TIERS = {Preset.POOLED: "starter", Preset.BRIDGE: "team", Preset.SILO: "business"}
REGION = "eu-central"
SLOW_SILOS = "paybill_bench.inside_provisioner.slow_silos"
_REST_S = 0.1


@dataclass
class RunningProvisioner:
    """A running provisioner. connections: of the environments that became ready, by tenant."""

    servers: BenchServers
    bus: NatsServer
    stack: Stack
    connections: dict[str, Mapping[str, str]] = field(default_factory=dict)

    async def register(self, amount: int, region: str = REGION) -> list[str]:
        """Registers new tenants; returns their ids once their environments are registered."""
        tenants = [f"ten_{uuid.uuid4().hex}" for _ in range(amount)]
        async with facts_from_now(self.bus, REGISTERED) as consumer:
            facts = [self.message(_requested(each, region)) for each in tenants]
            await publish(self.bus, facts, "tenant")
            await self._arrived(consumer, set(tenants))
        return tenants

    async def build_all(self, tenants: Sequence[str], preset: Preset = Preset.POOLED) -> float:
        """Entitles all tenants at once; returns the seconds until the last environment is ready."""
        facts = [self.message(entitled(each, preset)) for each in tenants]
        clock = asyncio.get_running_loop().time
        async with facts_from_now(self.bus, READY) as consumer:
            begin = clock()
            await publish(self.bus, facts)
            await self._arrived(consumer, set(tenants))
            return clock() - begin

    async def build_one_by_one(self, tenants: Sequence[str], preset: Preset = Preset.POOLED) -> list[float]:
        """Returns the milliseconds from the entitlement of each tenant until its environment is ready."""
        clock, elapsed = asyncio.get_running_loop().time, []
        client = await connect(self.bus.url, "billing", self.bus.password("billing"))
        try:
            async with facts_from_now(self.bus, READY) as consumer:
                for tenant in tenants:
                    fact = self.message(entitled(tenant, preset))
                    begin = clock()
                    await _publish(client, fact)
                    await self._arrived(consumer, {tenant})
                    elapsed.append((clock() - begin) * 1000)
                    await asyncio.sleep(_REST_S)
        finally:
            await client.close()
        return elapsed

    async def begin(self, tenants: Sequence[str], preset: Preset) -> None:
        """Entitles tenants; returns once an operation of each is pending at the provider."""
        async with facts_from_now(self.bus, PENDING) as consumer:
            await publish(self.bus, [self.message(entitled(each, preset)) for each in tenants])
            await self._arrived(consumer, set(tenants))

    def message(self, event: Event, revision: int = 1) -> Message:
        """Returns the message of a fact of a service that does not run."""
        return self.stack.signed(event, revision)

    async def _arrived(self, consumer: OrderedConsumer, left: set[str]) -> None:
        progress = StallDetector()
        while left:
            for message in await consumer.fetch(1.0):
                fact = json.loads(message.data)
                left.discard(fact["tenant_id"])
                if fact.get("connections"):
                    self.connections[fact["tenant_id"]] = fact["connections"][0]
            if left and progress.stalled(len(left)):
                raise BenchmarkError(f"the provisioner did not answer about {len(left)} tenants")


@asynccontextmanager
async def running_provisioner(
    cells: int, module: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[RunningProvisioner]:
    """Runs the provisioner until the end of the block. cells: pools in each region; module: if not its own."""
    with started_servers() as servers:
        async with servers.bus() as bus:
            stack = Stack(
                servers,
                bus,
                blueprints=blueprint_file(servers.folder, cells),
                services=("provisioner",),
                commands={"provisioner": [sys.executable, "-P", "-m", module]} if module else {},
                environment={"provisioner": environment or {}},
            )
            try:
                await stack.start()
                yield RunningProvisioner(servers, bus, stack)
            finally:
                await stack.stop()


def _requested(tenant: str, region: str) -> TenantRequested:
    return TenantRequested(
        tenant_id=tenant,
        slug=f"bench-{tenant[4:20]}",
        name="Bench",
        plan="starter",
        region=region,
        contact_email=Personal[str](key=f"tenant/{tenant}", sealed="A" * 60),
        source=Source.API,
    )


def entitled(tenant: str, preset: Preset, features: Sequence[Feature] = ()) -> EntitlementsSet:
    """Returns the fact that a tenant has the tier of a placement."""
    return EntitlementsSet(
        tenant_id=tenant,
        subscription_id=f"sub_{tenant[4:]}",
        plan=PlanRef(plan=TIERS[preset], version=1, catalogue_hash="ab" * 32),
        tier=TIERS[preset],
        placement=preset,
        features=tuple(features),
        allows_access=True,
        entitlements_hash="ab" * 32,
    )


async def _publish(client: Client, fact: Message) -> None:
    await client.jetstream().publish(fact.subject, fact.payload, headers=fact.headers)
