"""Builds the service from its parts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter
from paybill_contracts.envelope import Origin
from paybill_contracts.event import digest
from paybill_contracts.placement import Isolation
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState
from paybill_runtime.jobs.effects import Timer
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.security.secrets import Secrets
from paybill_runtime.settings import read_secret

from paybill_provisioner.api import read_state, router
from paybill_provisioner.checks.drift import DriftChecks
from paybill_provisioner.checks.isolation import IsolationChecks
from paybill_provisioner.checks.sessions import SessionWatchdog
from paybill_provisioner.checks.upgrades import Upgrades
from paybill_provisioner.consumer import HANDLERS
from paybill_provisioner.domain import approvals, blueprints, policy, size_invariant
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.domain.policy import POLICY_ID
from paybill_provisioner.drivers import Drivers
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_provisioner.jobs import JOBS
from paybill_provisioner.settings import Settings
from paybill_provisioner.tables import (
    BLUEPRINTS,
    BREACH_COUNTS,
    BUILT_IN_SHARED,
    CELL_KEYS,
    DRIFT_COUNTS,
    ENVIRONMENTS,
    INCIDENTS,
    POLICY,
    STATES,
    VIOLATIONS,
    record_cells,
)

TIMERS = (Timer(ENVIRONMENTS, "approval_expires", approvals.on_time),)
INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(ENVIRONMENTS, id_of=id_of, tenant_of=lambda each: each.tenant_id),),
    rules=(size_invariant.SIZE,),
)
"""Invariants of the service (docs/invariants.md)."""


async def publish_blueprint(context: ServiceContext) -> None:
    """Publishes the blueprint of the settings at the first start; later ones are published by a person."""
    blueprint = context.settings.blueprint()
    async with context.database.transaction() as connection:
        built = await connection.execute(BUILT_IN_SHARED)
        tenants = {(Isolation(row.isolation), row.region): row.tenants for row in built}

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(BLUEPRINTS, BLUEPRINT_ID, blueprints.publish_first(unit.get(BLUEPRINTS, BLUEPRINT_ID), blueprint))
        record_cells(unit, tenants)

    cause = f"blueprint:{digest(blueprint)}"
    origin = Origin(cause, cause, "service:provisioner", "")
    await context.decide(origin, decide, writes=[BLUEPRINTS.key(BLUEPRINT_ID), *CELL_KEYS])


async def publish_policy(context: ServiceContext) -> None:
    """Publishes the shipped policy at the first start; later ones are published by a person."""
    content = context.settings.policy()

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(POLICY, POLICY_ID, policy.publish_first(unit.get(POLICY, POLICY_ID), content))

    cause = f"policy:{digest(content)}"
    await context.decide(Origin(cause, cause, "service:provisioner", ""), decide, writes=[POLICY.key(POLICY_ID)])


def service() -> Service:
    """Returns the provisioner service with the local driver."""
    opened: list[LocalDriver] = []
    watchdogs: list[SessionWatchdog] = []
    drift_checks: dict[int, DriftChecks] = {}

    def drivers(settings: Settings, secrets: Secrets) -> Drivers:
        password = read_secret(settings.local_database_password_file)
        server = TenantServer(settings.local_database_url, password)
        trusted_s = min(settings.isolation_trusted_s, settings.isolation_every_s)
        opened.append(LocalDriver(server, settings.local_dir, secrets, trusted_s))
        watchdogs.append(SessionWatchdog(server, settings.tenant_statement_s, settings.tenant_idle_transaction_s))
        return {"local": opened[-1]}

    def job_kinds(context: ServiceContext) -> Sequence[Kind]:
        """Returns the kinds of the scheduled checks, with the driver of this process."""
        found: Drivers = {"local": opened[-1]}
        drift_checks[id(context)] = DriftChecks(context, found)
        return [IsolationChecks(context, found).kind(), drift_checks[id(context)].kind(), Upgrades(found).kind()]

    def routes(context: ServiceContext) -> APIRouter:
        """Returns the routes, with the checks of this process; a context without jobs is only documented."""
        return router(context, drift_checks.get(id(context)) or DriftChecks(context, {}))

    @asynccontextmanager
    async def lifespan(_: ServiceContext) -> AsyncIterator[None]:
        """Watches the sessions of tenants, and closes the connections to their databases when the service stops."""
        running = [asyncio.create_task(each.run()) for each in watchdogs]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for driver in opened:
                await driver.close()

    return Service(
        name="provisioner",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        jobs=JOBS,
        router=routes,
        effects=drivers,
        on_start=(publish_policy, publish_blueprint),
        lifespan=lifespan,
        job_kinds=job_kinds,
        incidents=INCIDENTS,
        invariants=INVARIANTS,
        timers=TIMERS,
        read_state=read_state,
        counts=(DRIFT_COUNTS, BREACH_COUNTS),
    )
