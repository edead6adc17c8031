"""Random schedules: tenants that come, change and go, on a provider whose calls fail, in a process that crashes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any

from fake_cloud import Call, Cloud, Fault
from paybill_contracts.envelope import Origin
from paybill_contracts.placement import Preset
from paybill_contracts.policy import DriftHandling, Handling, Policy
from paybill_provisioner.app import service
from paybill_provisioner.checks.drift import DriftChecks, ProviderAwayError
from paybill_provisioner.domain import planning, policy
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.domain.planning import EnvironmentNotFailedError
from paybill_provisioner.domain.policy import POLICY_ID, SAFE
from paybill_provisioner.domain.steps import is_shared
from paybill_provisioner.drivers import Drivers
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELL_KEYS,
    ENVIRONMENTS,
    PLANNING_READS,
    POLICY,
    cells_in_force,
    plan_inputs,
    record,
)
from paybill_runtime.app import Service
from paybill_runtime.clock import new_id
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.testing import until
from sqlalchemy import text

BACKOFF_S = 0.02
FAULTS = 8
"""Faults of a schedule at most: after them the provider works."""
OF_METHOD = {
    "find": [Fault.ERROR, Fault.THROTTLED],
    "create": [
        *[Fault.LOST, Fault.LATE, Fault.HIDDEN, Fault.PENDING] * 2,
        Fault.ERROR,
        Fault.THROTTLED,
        Fault.REFUSED,
    ],
    "update": [*[Fault.LOST, Fault.LATE] * 2, Fault.ERROR, Fault.THROTTLED, Fault.PENDING, Fault.REFUSED],
    "delete": [*[Fault.LOST, Fault.LATE] * 2, Fault.ERROR, Fault.THROTTLED, Fault.REFUSED],
    "observe": [*[Fault.PARTIAL] * 4, Fault.ERROR, Fault.THROTTLED],
    "poll": [Fault.ERROR, Fault.THROTTLED],
    "set_access": [Fault.ERROR, Fault.THROTTLED, Fault.LOST],
    "absence": [Fault.ERROR, Fault.THROTTLED],
}
UNATTENDED = SAFE.model_copy(
    update={"name": "standard", "version": 2}
    | {"drift": DriftHandling.REPAIR}
    | dict.fromkeys(("deletes", "replaces", "moves_data"), Handling.UNATTENDED)
)
YAML = {"Content-Type": "application/yaml"}
_OPEN_JOBS = text("SELECT count(*) FROM chassis.job WHERE state = 'pending' AND queue = :tenant")
_JOBS = text("SELECT kind, state, attempts, error FROM chassis.job WHERE queue = :tenant ORDER BY position")
_STATE = text("SELECT state::text FROM environments WHERE id = :id")


@dataclass
class Schedule:
    """The journey of one tenant. random: of its faults and actions; open: the access that it is to have at the end."""

    tenant: Any
    random: Random
    faults: int = FAULTS
    open: bool = True
    actions: list[str] = field(default_factory=list)
    calls: list[tuple[str, Fault]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The tenant's id."""
        return str(self.tenant.tenant)

    def fault(self, call: Call) -> Fault:
        """Returns the fault of a call."""
        found = Fault.NONE
        if self.faults and call.method in OF_METHOD and self.random.random() < 0.4:
            found = self.random.choice(OF_METHOD[call.method])
            self.faults -= 1
        self.calls.append((f"{call.method} {call.kind} {call.name}", found))
        return found

    def next_facts(self, about: Callable[..., SimpleNamespace]) -> list[Any]:
        """Returns the facts of the tenant's next action."""
        action = self.random.choice(["other_size", "block", "reactivate", "nothing"])
        self.actions.append(action)
        match action:
            case "other_size":
                other = about(self.random.choice(list(Preset)))
                return [other.entitled.model_copy(update={"tenant_id": self.id})]
            case "block":
                self.open = False
                return [self.tenant.blocked]
            case "reactivate":
                self.open = True
                return [self.tenant.reactivated]
            case _:
                return []


def faults_of(schedules: list[Schedule]) -> Callable[[Call], Fault]:
    """Returns the faults of the calls about these schedules' tenants."""
    by_tenant = {each.id: each for each in schedules}
    return lambda call: by_tenant[call.tenant].fault(call) if call.tenant in by_tenant else Fault.NONE


def service_on(driver: Any, checks: Callable[[ServiceContext, Drivers], Sequence[Kind]] = lambda *_: ()) -> Service:
    """Returns the service whose only driver is this one. checks: its scheduled checks."""
    drivers = {"local": driver}
    return replace(service(), effects=lambda *_: drivers, job_kinds=lambda context: checks(context, drivers))


class Process:
    """The provisioner as a process that can crash: what it knows afterwards is in PostgreSQL."""

    def __init__(self, start: Any, service_: Service, settings: dict[str, Any], url: str, driver: Any = None) -> None:
        self._start = start
        self._service = service_
        self._settings = settings
        self._url = url
        self._driver = driver
        self.served: Any = None

    async def begin(self) -> None:
        """Starts it. Jobs that fail are tried again soon."""
        self.served = await self._start(self._service, url=self._url, **self._settings)
        kinds = self.served.running.worker.kinds
        for name, kind in kinds.items():
            kinds[name] = replace(kind, backoff_s=lambda _: BACKOFF_S)

    async def crash(self) -> None:
        """Ends every task at the await where it is."""
        await self.served.running.__aexit__()

    async def publish_policy(self, content: Policy) -> None:
        """Publishes a policy, and has the environments compared by it."""

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            unit.record(POLICY, POLICY_ID, policy.publish(unit.get(POLICY, POLICY_ID), content))

        await self._decide(decide, POLICY.key(POLICY_ID))

    async def retry(self, tenant: str) -> None:
        """Plans again after a failure or a refusal; nothing without one."""
        id_ = id_of(tenant)

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            environment, blueprints = unit.get(ENVIRONMENTS, id_), require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID))
            with suppress(EnvironmentNotFailedError):
                events = planning.retry(
                    environment, tenant, blueprints, cells_in_force(unit), at.now, plan_inputs(unit)
                )
                record(unit, id_, events)

        await self._decide(decide, ENVIRONMENTS.key(id_), *CELL_KEYS)

    async def _decide(self, decide: Callable[[UnitOfWork, DecisionContext], None], *keys: Key) -> None:
        cause = new_id()
        origin = Origin(cause, cause, "operator:test", "")
        await self.served.running.context.decide(origin, decide, writes=keys, reads=PLANNING_READS)

    async def publish_blueprint(self, text_: str) -> None:
        """Publishes a blueprint, and has the environments planned by it."""
        answer = await self.served.client.post("/v1/blueprints", content=text_, headers=YAML)
        assert answer.status_code == 200, answer.text

    async def check_drift(self, tenant: str) -> None:
        """Compares the environment of a tenant with what the provider lists, once it answers."""
        checks = DriftChecks(self.served.running.context, {"local": self._driver})
        with suppress(ProviderAwayError, ConnectionError):
            await checks.check_tenant(tenant)

    async def handled(self) -> None:
        """Returns when every fact in the log is handled."""

        async def all_handled() -> bool:
            return all([await each.lag() == 0 for each in self.served.running.consumers.values()])

        await until(all_handled)

    async def environment(self, tenant: str) -> Environment | None:
        """Returns the state of a tenant's environment, as PostgreSQL has it."""
        async with self.served.running.database.transaction() as connection:
            found = (await connection.execute(_STATE, {"id": id_of(tenant)})).scalar()
        return ENVIRONMENTS.load(found) if found is not None else None

    async def settled(self, tenant: str, *statuses: Status, or_paused: bool = False) -> Environment:
        """Returns the environment once nothing is done about it any more. or_paused: a block may pause its plan."""

        async def found() -> Environment | None:
            environment = await self.environment(tenant)
            if environment is None or not (environment.status in statuses or (or_paused and environment.paused)):
                return None
            async with self.served.running.database.transaction() as connection:
                is_open = (await connection.execute(_OPEN_JOBS, {"tenant": tenant})).scalar()
            return None if is_open else environment

        try:
            return await until(found, timeout_s=60)
        except TimeoutError as error:
            raise AssertionError(await self._about(tenant)) from error

    async def _about(self, tenant: str) -> str:
        """Returns what is known about a tenant that does not settle."""
        environment = await self.environment(tenant)
        async with self.served.running.database.transaction() as connection:
            jobs = [tuple(row) for row in await connection.execute(_JOBS, {"tenant": tenant})]
        shown = (
            (environment.status, environment.desired, environment.refusal, environment.failure, environment.remaining)
            if environment
            else None
        )
        return f"{tenant} does not settle: {shown}, its jobs are {jobs}"


def problems(environment: Environment, cloud: Cloud, *, is_open: bool, is_checked: bool = False) -> list[str]:
    """Returns what is wrong with a tenant about which nothing is done any more.

    is_checked: its drift was checked by complete lists.
    """
    there = cloud.of(environment.tenant_id)
    built = [each.resource for each in environment.built if not is_shared(each.resource)]
    remaining = [step.resource for step in environment.remaining] if environment.paused else []
    recorded = {(each.kind, each.identity) for each in (*built, *environment.replaced, *remaining)}
    found = [f"{kind} {name} exists {number} times" for (kind, name), number in there.items() if number > 1]
    found += [f"{kind} {name} is in no record" for kind, name in sorted(there.keys() - recorded)]
    found += [f"{each.address} is recorded and does not exist" for each in built if not _exists(each, there)]
    planned, desired = environment.planned_size, environment.desired_size
    waits = environment.pending is not None or environment.refusal is not None or environment.failure is not None
    if environment.status is Status.READY and planned != desired and not waits:
        found.append(f"{planned} is planned, {desired} is desired, and nothing shows it")
    if environment.status is Status.READY and (environment.remaining or environment.replaced) and not waits:
        found.append("the plan is not complete")
    if environment.status is Status.READY and not waits:
        found += [f"{each.address} differs from its record" for each in built if _differs(each, cloud, environment)]
        found += [f"the difference {each.difference.text} does not exist" for each in environment.drift if is_checked]
    logins = [
        each.open for each in cloud.things if each.tenant == environment.tenant_id and each.resource.kind == "role"
    ]
    expected = is_open and environment.status is Status.READY
    if environment.status is Status.READY and set(logins) - {expected}:
        found.append(f"the logins are open: {logins}, and are to be {expected}")
    if environment.status is not Status.READY and any(logins) and not (environment.epoch and is_open):
        found.append(f"a login is open although the environment is {environment.status}")
    return found


def _differs(resource: Any, cloud: Cloud, environment: Environment) -> bool:
    return any(each.resource != resource for each in cloud.named(resource, environment.tenant_id))


def _exists(resource: Any, there: Counter[tuple[str, str]]) -> bool:
    return (resource.kind, resource.identity) in there


async def pause(random: Random) -> None:
    """Lets the other tasks run for a random number of turns and a random time."""
    await asyncio.sleep(random.uniform(0, 0.25))
    for _ in range(random.randrange(30)):
        await asyncio.sleep(0)
