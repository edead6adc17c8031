"""A gateway in this process, with a pool database of tenants in which the example's agents refund orders."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

from gateway_samples import ENABLED
from paybill_agent_gateway.act import Gate, act
from paybill_agent_gateway.app import service
from paybill_agent_gateway.domain import approvals, freezes
from paybill_agent_gateway.domain.answers import Answer, RefusalError
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.domain.calls import Call, CallCaller, Start, Take
from paybill_agent_gateway.domain.runs import Run, existing
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.tables import AGENTS, BUNDLES, DAYS, FREEZE_STATES, IN_FORCE, RUNS, TENANTS
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_bundles import Amounts, Bundle, BundleActivated, BundlePublished, Verb
from paybill_contracts.agent_runs import ActionIntended, RunStarted
from paybill_contracts.agent_tenants import AgentTenantChanged, AgentTenantStatus
from paybill_contracts.agents import FREEZES, AgentRegistered
from paybill_contracts.envelope import Origin
from paybill_contracts.environment_plans import Connection
from paybill_contracts.event import Event, digest
from paybill_contracts.placement import Preset
from paybill_definitions.agent_bundle import read_bundle
from paybill_definitions.blueprints_file import read_blueprint
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.clock import now
from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.http.listing import load_state
from paybill_runtime.telemetry import child
from paybill_runtime.testing import Served
from tenant_pool import TenantPool

EXAMPLE = Path(__file__).parents[3] / "examples" / "support-agent"
FILES = {path.name: path.read_text() for path in (EXAMPLE / "agents").iterdir()}
RIGHTS = {
    "tickets": {"SELECT": "*"},
    "orders": {"SELECT": "*"},
    "customers": {"SELECT": "id, name"},
    "refunds": {"SELECT": "*", "INSERT": "*", "UPDATE": "amount, reason", "DELETE": "*"},
}
_numbers = count(1)


@cache
def bundle_of(**changed: str) -> Bundle:
    """Returns the example's bundle; `changed` replaces files, `refund` and `grants`, or adds them."""
    names = {"grants": "grants.cedar", "resources": "resources.yaml"}
    files = FILES | {names.get(name, f"{name}.yaml"): text for name, text in changed.items()}
    return read_bundle(files, read_blueprint((EXAMPLE / "blueprints.yaml").read_text(), "blueprints.yaml").content)


@dataclass
class World:
    """The gateway and its tenants."""

    served: Served
    gate: Gate
    pool: TenantPool
    agents: dict[str, CallCaller] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    async def record(self, stored: Stored[Any], event: Event) -> None:
        """Records a fact of the gateway, as its decision would."""
        id_ = event.aggregate_id.partition("/")[2]
        await self.gate.context.decide(
            origin(), lambda unit, _: unit.record(stored, id_, [event]), writes=[stored.key(id_)]
        )

    async def publish(self, bundle: Bundle) -> str:
        """Publishes a bundle and brings it into force."""
        hash_ = digest(bundle)
        if await load_state(self.gate.context, BUNDLES, hash_) is None:
            published = BundlePublished(content_hash=hash_, content=bundle, published_by="user:ann", published_at=now())
            await self.record(BUNDLES, published)
        activated = BundleActivated(
            blueprint=bundle.blueprint.name, bundle_hash=hash_, rights=(), activated_by="user:ann", activated_at=now()
        )
        await self.record(IN_FORCE, activated)
        return hash_

    async def tenant(self, name: str = "acme", **changes: Any) -> CallCaller:
        """Adds a tenant with tickets, orders and one agent, which it returns."""
        endpoint = await self.pool.tenant()
        self.endpoints[endpoint.tenant_id] = endpoint
        await self.change_tenant(endpoint.tenant_id, slug=name, **changes)
        rows = [
            ("tickets", "'t-17', 'o-1', 'c-1', 'Broken', 'It is broken', 'open'"),
            ("tickets", "'t-18', 'o-2', 'c-1', 'Late', 'It came late', 'open'"),
            ("orders", "'o-1', 'c-1', 'lamp', 4500"),
            ("orders", "'o-2', 'c-1', 'chair', 9000"),
            ("customers", "'c-1', 'Ann', 'ann@example.com'"),
        ]
        for table, values in rows:
            await self.pool.execute(f"INSERT INTO product.{table} VALUES ('{endpoint.tenant_id}', {values})")
        return await self.agent(endpoint.tenant_id)

    async def change_tenant(self, tenant_id: str, **changes: Any) -> None:
        """Records the state of a tenant; running and entitled by default."""
        of = self.endpoints[tenant_id]
        login = Connection(
            address="role.agents", host=of.host, port=of.port, database=of.database, schema_name=of.schema,
            username=of.username, secret=of.secret,
        )  # fmt: skip
        agents = AgentConnection(connection=login, blueprint="support-agent", preset=Preset.POOLED, epoch=of.epoch)
        state = {
            "tenant_id": tenant_id, "slug": "acme", "status": AgentTenantStatus.RUNNING, "allows_access": True,
            "feature": ENABLED, "agents": agents, "epoch": of.epoch, "is_open": True,
        }  # fmt: skip
        await self.record(TENANTS, AgentTenantChanged(**(state | changes)))

    async def agent(self, tenant_id: str, role: str = "support", valid: timedelta = timedelta(days=1)) -> CallCaller:
        """Registers an agent of a tenant."""
        number = next(_numbers)
        id_ = f"agt_{number:032x}"
        registered = AgentRegistered(
            tenant_id=tenant_id, agent_id=id_, name=f"worker-{number}", role=role, key_id=f"key-{id_[-8:]}",
            sha256="0" * 64, registered_by="user:ann", registered_at=now(), expires_at=now() + valid,
        )  # fmt: skip
        await self.record(AGENTS, registered)
        return CallCaller(tenant_id, f"agent:{id_}", id_, role)

    async def freeze(self, name: str) -> None:
        """Freezes what `name` names."""

        def decide(unit: Any, at: Any) -> None:
            events = freezes.freeze(unit.get(FREEZE_STATES, FREEZES), name, None, "drill", "user:ann", at.now)
            unit.record(FREEZE_STATES, FREEZES, events)

        await self.gate.context.decide(origin(), decide, writes=[FREEZE_STATES.key(FREEZES)])

    async def decide(self, run_id: str, verb: Any) -> None:
        """Records the events of `verb(run, now)`."""

        def decide(unit: Any, at: Any) -> None:
            unit.record(RUNS, run_id, verb(existing(unit.get(RUNS, run_id), run_id), at.now))

        await self.gate.context.decide(origin(), decide, writes=[RUNS.key(run_id)])

    async def approve(self, approval_id: str, run_id: str, approver: str = "user:bob") -> None:
        """Approves a call."""
        await self.decide(
            run_id,
            lambda run, at: approvals.grant(
                run, approval_id, approvals.find(run, approval_id).subject_hash, approver, at
            ),
        )

    async def deny(self, approval_id: str, run_id: str) -> None:
        """Denies a call."""
        await self.decide(run_id, lambda run, at: approvals.deny(run, approval_id, "user:bob", "no", at))

    async def run(self, run_id: str) -> Run:
        """Returns the state of a run."""
        return existing(await load_state(self.gate.context, RUNS, run_id), run_id)

    async def in_doubt(self, tenant_id: str, agent_id: str | None = None) -> str:
        """Records a run with an intent of a minute ago whose outcome is unknown, and returns its id."""
        id_, at = f"run_{next(_numbers):032x}", now() - timedelta(minutes=1)
        of = {"tenant_id": tenant_id, "run_id": id_, "bundle_hash": digest(bundle_of()), "workflow": "refund"}
        begun = RunStarted(
            **of, agent_id=agent_id, role="support", blueprint="support-agent", inputs={}, has_trusted_inputs=True,
            first_seq=1, digest="1" * 64, reserved=Amounts(calls=9), started_by="user:ann", started_at=at,
            expires_at=at + timedelta(hours=1),
        )  # fmt: skip
        intended = ActionIntended(
            **of, seq=1, step="propose", verb=Verb.CREATE, resource="refunds", digest="2" * 64, arguments={},
            grants=(), reserved=Amounts(calls=1), approval_id=None, intended_at=at,
        )  # fmt: skip
        events = [begun, intended]
        await self.gate.context.decide(origin(), lambda unit, _: unit.record(RUNS, id_, events), writes=[RUNS.key(id_)])
        return id_

    async def has_ended(self, run_id: str) -> bool:
        """Returns whether a run has ended."""
        return (await self.run(run_id)).ended is not None

    async def settled(self, tenant_id: str) -> bool:
        """Returns whether no run of today holds a part of the tenant's budgets."""
        day = await load_state(self.gate.context, DAYS, day_id(tenant_id, now()))
        return day is not None and not day.open

    async def refunds(self) -> list[tuple[Any, ...]]:
        """Returns the refunds of all tenants."""
        return await self.pool.fetch("SELECT order_id, amount, reason FROM product.refunds ORDER BY order_id")

    async def start(self, caller: CallCaller, workflow: str = "refund", request: str = "r", **inputs: Any) -> Answer:
        """Starts a workflow."""
        return await act(self.gate, Call(caller, Start(workflow, inputs, request), origin(caller.subject)))

    async def take(self, caller: CallCaller, step: str, run: str, seq: int, **values: Any) -> Answer:
        """Takes a step of a run."""
        return await act(self.gate, Call(caller, Take(run, seq, step, values), origin(caller.subject)))

    async def refused(self, call: Any) -> RefusalError:
        """Returns the refusal of a call."""
        try:
            answer = await call
        except RefusalError as error:
            return error
        raise AssertionError(f"the call was answered: {answer}")


def origin(actor: str = "user:ann") -> Origin:
    """Returns the origin of a call."""
    return Origin("test", "test", actor, child(None))


@asynccontextmanager
async def world(
    start: Any,
    postgres: PostgresServer,
    bundle: Bundle | None = None,
    rights: Mapping[str, Mapping[str, str]] = RIGHTS,
    **settings: Any,
) -> AsyncIterator[World]:
    """Provides a gateway with the example's bundle in force, and a pool without tenants."""
    served = await start(service(), **settings)
    context = served.running.context
    content = bundle or bundle_of()
    pool = await TenantPool.create(postgres, context.secrets)
    gate = Gate.of(context, monotonic)
    try:
        for resource in content.resources:
            await pool.create_table(resource)
            await pool.grant(resource.name, rights[resource.name])
        found = World(served, gate, pool)
        await found.publish(content)
        yield found
    finally:
        gate.databases.close()
        await pool.drop()
