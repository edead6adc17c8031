"""Worker that runs plan migrations: it requests the changes of one batch, waits for their end, and continues."""

import logging
from collections.abc import Mapping

from paybill_contracts.envelope import Origin
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError, reason
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, Kind

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.subscriptions.domain import plan_migrations
from paybill_billing.subscriptions.domain.plan_migrations import ChangeCounts, PlanMigration, Status
from paybill_billing.subscriptions.tables import (
    CHANGE_COUNTS,
    CHANGES,
    NEXT_SUBSCRIBERS,
    PLAN_MIGRATION_JOB,
    PLAN_MIGRATIONS,
    REMAINING_SUBSCRIBERS,
    RUNNING_MIGRATIONS,
    SUBSCRIPTIONS,
    request_plan_migrations,
)

log = logging.getLogger(__name__)

BATCH_SIZE = 32
"""The size of a batch: a pause takes effect, and a customer's own change waits, after at most so many changes."""
POLL_S = 0.25


class PlanMigrationRunner:
    """Continues all running migrations."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def kind(self) -> Kind:
        """Returns the kind of its job, which exists while a migration runs."""
        return Kind(PLAN_MIGRATION_JOB, self._run, priority=Priority.BULK)

    async def _run(self, job: ClaimedJob) -> float | None:
        """Runs a step of each migration. The progress is in the tables, so that any process can continue it."""
        found = [PLAN_MIGRATIONS.load(row.state) for row in await self._context.rows(RUNNING_MIGRATIONS)]
        running = [migration for migration in found if migration.status is Status.RUNNING]
        errors = [error for migration in running if (error := await self._run_one(migration, job.leases)) is not None]
        if errors:
            raise AttemptFailedError(reason(errors[0]))
        return POLL_S if running else None

    async def _run_one(self, migration: PlanMigration, held: Mapping[str, int]) -> Exception | None:
        """Runs a step of one migration; returns its error, which does not stop the others."""
        try:
            await self._step(migration, held)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError):
            raise
        except Exception as error:
            log.exception("the plan migration %s failed; it is retried", migration.id)
            return error
        return None

    async def _step(self, migration: PlanMigration, held: Mapping[str, int]) -> None:
        """Requests the next batch after the end of the last one; finishes when no subscription is left."""
        row = (await self._context.rows(CHANGE_COUNTS, {"migration": migration.id}))[0]
        counts = ChangeCounts(row.requested, row.applied, row.refused)
        if counts.open:
            return
        version = {"plan": migration.from_plan, "version": str(migration.from_version)}
        batch = await self._context.rows(NEXT_SUBSCRIBERS, {**version, "after": migration.after, "limit": BATCH_SIZE})
        if batch:
            await self._request_batch(migration, {row.id: row.open for row in batch}, counts, held)
            return
        left = (await self._context.rows(REMAINING_SUBSCRIBERS, version))[0].remaining

        def finish(unit: UnitOfWork, _: DecisionContext) -> None:
            found = plan_migrations.existing(unit.get(PLAN_MIGRATIONS, migration.id), migration.id)
            unit.record(PLAN_MIGRATIONS, migration.id, plan_migrations.finish(found, counts, left))

        await self._context.decide(_origin(migration), finish, writes=[PLAN_MIGRATIONS.key(migration.id)], leases=held)

    async def _request_batch(
        self, migration: PlanMigration, batch: dict[str, str | None], counts: ChangeCounts, held: Mapping[str, int]
    ) -> None:
        """Requests the changes of a batch. batch: the subscriptions, each with its open change."""
        ids = {subscription_id: plan_migrations.change_id(migration.id, subscription_id) for subscription_id in batch}

        def request(unit: UnitOfWork, _: DecisionContext) -> None:
            known = unit.get(CATALOGUES, catalogue.CATALOGUE)
            found = plan_migrations.existing(unit.get(PLAN_MIGRATIONS, migration.id), migration.id)
            progressed = plan_migrations.progress(found, max(batch), len(batch), counts)
            unit.record(PLAN_MIGRATIONS, migration.id, progressed)
            if not progressed or known is None:
                return
            for subscription_id, open_change in batch.items():
                state, change_id = unit.get(SUBSCRIPTIONS, subscription_id), ids[subscription_id]
                if state is not None and unit.get(CHANGES, change_id) is None:
                    events = plan_migrations.request_change(found, known, state.subscription, open_change)
                    unit.record(CHANGES, change_id, events)

        await self._context.decide(
            _origin(migration),
            request,
            writes=[PLAN_MIGRATIONS.key(migration.id), *(CHANGES.key(id_) for id_ in ids.values())],
            reads=[CATALOGUES.key(catalogue.CATALOGUE), *(SUBSCRIPTIONS.key(id_) for id_ in batch)],
            leases=held,
        )


def _origin(migration: PlanMigration) -> Origin:
    return Origin(migration.id, migration.id, "service:billing", "")


async def continue_plan_migrations(context: ServiceContext) -> None:
    """Requests the job at the start of the service, for migrations that an older version has started."""
    if await context.rows(RUNNING_MIGRATIONS):
        statement = Statement()
        request_plan_migrations(context.now(), statement)
        async with context.database.direct(committing=True) as connection:
            await statement.execute(connection)
