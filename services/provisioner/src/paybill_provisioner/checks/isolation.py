"""Scheduled check of the isolation of every cell: breaches are facts, and close the cell for new tenants."""

from collections.abc import Mapping, Sequence

from paybill_contracts.blueprints import Blueprint
from paybill_contracts.cells import Breach
from paybill_contracts.envelope import Origin
from paybill_contracts.incidents import IncidentStatus
from paybill_contracts.placement import Isolation
from paybill_definitions.resources import cell_database
from paybill_runtime.database.leases import RELAY
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.telemetry import span

from paybill_provisioner.domain import isolation
from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.cells import SHARED, Cell, existing
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.drivers import Driver, Drivers
from paybill_provisioner.tables import AGENT_RIGHTS, BLUEPRINTS, CELLS, ENVIRONMENTS, INCIDENTS, SILOS

CHECK_ISOLATION = "check_isolation"
"""Kind of the job."""


PAGE = 50
"""Silos that one run inspects; the next run continues behind them."""


class IsolationChecks:
    """Inspects the databases of all cells, and those of silos in turn."""

    def __init__(self, context: ServiceContext, drivers: Drivers) -> None:
        self._context = context
        self._drivers = drivers
        self._last_silo = ""

    def kind(self) -> Kind:
        """Returns the kind of its job."""
        return Kind(CHECK_ISOLATION, self._run, RELAY, Priority.INTERACTIVE, recurring=True)

    async def _run(self, job: ClaimedJob) -> float:
        with span(f"job {CHECK_ISOLATION}", None):
            await self.check_all(job.leases)
        every_s: float = self._context.settings.isolation_every_s
        return every_s

    async def check_all(self, leases: Mapping[str, int]) -> None:
        """Checks every driver and every cell once, and the next silos.

        Raises RetryAfter when a provider is away: nothing is known then.
        """
        for cloud, driver in self._drivers.items():
            await self._record_problem(cloud, await driver.check(), leases)
        blueprints = await load_state(self._context, BLUEPRINTS, BLUEPRINT_ID)
        in_force = [each.content for each in blueprints.in_force] if blueprints else []
        for level in SHARED:
            cells = await load_state(self._context, CELLS, level)
            for cell in cells.cells if cells else ():
                databases = isolation.databases_of(in_force, level, cell)
                main, found = cell_database(level, cell.region, cell.number), list[Breach]()
                for cloud, driver in self._drivers.items():
                    for database in sorted({main, *databases.get(cloud, ())}):
                        found += await self._breaches(driver, level, database, in_force)
                await self._record(level, cell, found, leases)
        await self._check_silos(in_force, leases)

    async def _breaches(
        self, driver: Driver, level: Isolation, database: str, blueprints: Sequence[Blueprint]
    ) -> Sequence[Breach]:
        """Returns the breaches in one database, by rights of agents that were in force during the whole inspection."""
        while True:
            rights = await self._rights(blueprints)
            found = await driver.breaches(level, database, rights)
            if not found or rights == await self._rights(blueprints):
                return found

    async def _rights(self, blueprints: Sequence[Blueprint]) -> RightsByBlueprint:
        known = {each.name: await load_state(self._context, AGENT_RIGHTS, each.name) for each in blueprints}
        return {name: rights.allowed if rights is not None else () for name, rights in known.items()}

    async def _check_silos(self, blueprints: Sequence[Blueprint], leases: Mapping[str, int]) -> None:
        rows = await self._context.rows(SILOS, {"after": self._last_silo, "limit": PAGE})
        self._last_silo = rows[-1].id if len(rows) == PAGE else ""
        for row in rows:
            environment = await load_state(self._context, ENVIRONMENTS, row.id)
            cloud = environment.plan.cloud if environment is not None and environment.plan is not None else ""
            if environment is None or cloud not in self._drivers:
                continue
            found = list[Breach]()
            for database in isolation.silos_of(environment):
                found += await self._breaches(self._drivers[cloud], Isolation.SILO, database, blueprints)
            await self._record_silo(environment, found, leases)

    async def _record_silo(self, environment: Environment, found: Sequence[Breach], leases: Mapping[str, int]) -> None:
        """Opens or closes the incident of a silo."""
        subject = isolation.subject_of_silo(environment.id)
        key = INCIDENTS.key_of(isolation.INCIDENT, subject)
        known = await load_state(self._context, INCIDENTS, key.id)
        is_open = known is not None and known.status is IncidentStatus.OPEN
        finding = isolation.silo_finding(environment, found) if found else None
        if not is_open if finding is None else known is not None and known.shows(finding):
            return

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            if finding is not None:
                INCIDENTS.open(unit, finding, at.now)
            else:
                INCIDENTS.close(unit, isolation.INCIDENT, subject, "all guarantees hold again", at.now)

        cause = f"job:{CHECK_ISOLATION}"
        origin = Origin(cause, cause, "service:provisioner", "")
        await self._context.decide(origin, decide, writes=[key], leases=leases)

    async def _record_problem(self, cloud: str, problem: str | None, leases: Mapping[str, int]) -> None:
        """Opens or closes the incident of a driver that cannot work."""
        finding = isolation.driver_finding(cloud, problem or "it can work")
        key = INCIDENTS.key_of(finding.kind, finding.subject)
        known = await load_state(self._context, INCIDENTS, key.id)
        is_open = known is not None and known.status is IncidentStatus.OPEN
        if not is_open if problem is None else known is not None and known.shows(finding):
            return

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            if problem is not None:
                INCIDENTS.open(unit, finding, at.now)
            else:
                INCIDENTS.close(unit, finding.kind, finding.subject, "the driver can work again", at.now)

        cause = f"job:{CHECK_ISOLATION}"
        origin = Origin(cause, cause, "service:provisioner", "")
        await self._context.decide(origin, decide, writes=[key], leases=leases)

    async def _record(self, level: Isolation, cell: Cell, found: Sequence[Breach], leases: Mapping[str, int]) -> None:
        if not found and not cell.breaches:
            return
        region, number = cell.region, cell.number
        subject = isolation.subject_of(level, region, number)

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            unit.record(CELLS, level, isolation.checked(unit.get(CELLS, level), level, region, number, found))
            after = existing(unit.get(CELLS, level), level, region, number)
            if after.breaches:
                INCIDENTS.open(unit, isolation.finding_of(level, after), at.now)
            else:
                INCIDENTS.close(unit, isolation.INCIDENT, subject, "all guarantees hold again", at.now)

        cause = f"job:{CHECK_ISOLATION}"
        await self._context.decide(
            Origin(cause, cause, "service:provisioner", ""),
            decide,
            writes=[CELLS.key(level), INCIDENTS.key_of(isolation.INCIDENT, subject)],
            leases=leases,
        )
