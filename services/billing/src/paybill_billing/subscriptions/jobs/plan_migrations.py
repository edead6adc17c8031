"""Worker that runs plan migrations: it requests the changes of one batch, waits for their end, and continues."""

import asyncio
import logging

from paybill_contracts.envelope import Origin
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.subscriptions.domain import plan_migrations
from paybill_billing.subscriptions.domain.plan_migrations import ChangeCounts, PlanMigration, Status
from paybill_billing.subscriptions.tables import (
    CHANGE_COUNTS,
    CHANGES,
    NEXT_SUBSCRIBERS,
    PLAN_MIGRATIONS,
    REMAINING_SUBSCRIBERS,
    RUNNING_MIGRATIONS,
    SUBSCRIPTIONS,
)

log = logging.getLogger(__name__)

BATCH_SIZE = 32
"""The size of a batch: a pause takes effect, and a customer's own change waits, after at most so many changes."""
POLL_S = 0.25
IDLE_S = 1.0


class PlanMigrationRunner:
    """Continues all running migrations. Only the holder of the webhook lease works."""

    def __init__(self, context: ServiceContext, leases: Leases) -> None:
        self._context = context
        self._leases = leases

    async def run(self) -> None:
        """Runs until cancelled. The progress is in the tables, so that any process can continue a migration."""
        while True:
            running = []
            try:
                if held := self._leases.held_of([LEASE]):
                    found = [PLAN_MIGRATIONS.load(row.state) for row in await self._context.rows(RUNNING_MIGRATIONS)]
                    running = [migration for migration in found if migration.status is Status.RUNNING]
                    for migration in running:
                        await self._run_one(migration, held)
            except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
                log.warning("plan migrations wait: %s", error)
            await asyncio.sleep(POLL_S if running else IDLE_S)

    async def _run_one(self, migration: PlanMigration, held: dict[str, int]) -> None:
        """Isolates the errors of one migration from the others."""
        try:
            await self._step(migration, held)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError):
            raise
        except Exception:
            log.exception("the plan migration %s failed; it is retried", migration.id)

    async def _step(self, migration: PlanMigration, held: dict[str, int]) -> None:
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
        self, migration: PlanMigration, batch: dict[str, str | None], counts: ChangeCounts, held: dict[str, int]
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


async def run_plan_migrations(context: ServiceContext, leases: Leases) -> None:
    """Runs plan migrations until the service stops."""
    await PlanMigrationRunner(context, leases).run()
