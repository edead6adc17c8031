"""Moves at work: a batch of subscribers is asked to change, and when all of them have, the next one."""

import asyncio
import logging

from paybill_contracts.envelope import Origin
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from sqlalchemy import text

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.subscriptions.domain import plan_migrations
from paybill_billing.subscriptions.domain.plan_migrations import ChangeCounts, PlanMigration, Status
from paybill_billing.subscriptions.tables import CHANGES, PLAN_MIGRATIONS, SUBSCRIPTIONS
from paybill_billing.webhooks.jobs import LEASE

log = logging.getLogger(__name__)

AT_ONCE = 32
"""How many change at the same time: a pause takes effect, and a person's change waits, for so many at most."""
POLL_S = 0.25
IDLE_S = 1.0

SUBSCRIBED_TO_VERSION = (
    "state->'subscription'->'plan'->>'plan' = :plan AND state->'subscription'->'plan'->>'version' = :version "
    "AND access NOT IN ('ended', 'pending')"
)
"""Who subscribes to a plan version."""

_RUNNING = text("SELECT id, state::text AS state FROM moves WHERE open_from IS NOT NULL ORDER BY id")
_CHANGE_COUNTS = text(
    "SELECT count(*) AS asked, count(*) FILTER (WHERE status = 'applied') AS moved, "
    "count(*) FILTER (WHERE open_for IS NULL AND status <> 'applied') AS refused FROM changes WHERE move_id = :move"
)
_NEXT = text(
    "SELECT s.id, o.id AS open FROM subscriptions AS s LEFT JOIN changes AS o ON o.open_for = s.id "  # noqa: S608
    f"WHERE s.id > :after AND {SUBSCRIBED_TO_VERSION.replace('state', 's.state')} ORDER BY s.id LIMIT {AT_ONCE}"
)
_REMAINING = text(f"SELECT count(*) AS left_over FROM subscriptions WHERE {SUBSCRIBED_TO_VERSION}")  # noqa: S608  # from our code


class PlanMigrationRunner:
    """Goes on with every move that runs. Only the process that holds the lease of the webhooks works."""

    def __init__(self, context: ServiceContext, leases: Leases) -> None:
        self._context = context
        self._leases = leases

    async def run(self) -> None:
        """Go on, for ever. What a move has done is in the tables, so that any process goes on where another ended."""
        while True:
            going = []
            try:
                if held := self._leases.held_of([LEASE]):
                    found = [PLAN_MIGRATIONS.load(row.state) for row in await self._context.rows(_RUNNING)]
                    going = [move for move in found if move.status is Status.RUNNING]
                    for move in going:
                        await self._one(move, held)
            except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
                log.warning("moves wait: %s", error)
            await asyncio.sleep(POLL_S if going else IDLE_S)

    async def _one(self, move: PlanMigration, held: dict[str, int]) -> None:
        """Whatever is wrong with one move concerns no other."""
        try:
            await self._step(move, held)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError):
            raise
        except Exception:
            log.exception("the move %s cannot go on; it is tried again", move.id)

    async def _step(self, move: PlanMigration, held: dict[str, int]) -> None:
        """Ask the next batch, unless the one before is still being changed; finish when nobody is left."""
        counted = (await self._context.rows(_CHANGE_COUNTS, {"move": move.id}))[0]
        settled = ChangeCounts(counted.asked, counted.moved, counted.refused)
        if settled.open:
            return
        who = {"plan": move.from_plan, "version": str(move.from_version)}
        batch = await self._context.rows(_NEXT, {**who, "after": move.after})
        if batch:
            await self._request_batch(move, {row.id: row.open for row in batch}, settled, held)
            return
        left = (await self._context.rows(_REMAINING, who))[0].left_over

        def finish(unit: UnitOfWork, _: DecisionContext) -> None:
            found = plan_migrations.existing(unit.get(PLAN_MIGRATIONS, move.id), move.id)
            unit.record(PLAN_MIGRATIONS, move.id, plan_migrations.finish(found, settled, left))

        await self._context.decide(_origin(move), finish, writes=[PLAN_MIGRATIONS.key(move.id)], leases=held)

    async def _request_batch(
        self, move: PlanMigration, batch: dict[str, str | None], settled: ChangeCounts, held: dict[str, int]
    ) -> None:
        """batch: the subscriptions, each with the change of it that is open."""
        ids = {subscription_id: plan_migrations.change_id(move.id, subscription_id) for subscription_id in batch}

        def ask(unit: UnitOfWork, _: DecisionContext) -> None:
            sold = unit.get(CATALOGUES, catalogue.CATALOGUE)
            found = plan_migrations.existing(unit.get(PLAN_MIGRATIONS, move.id), move.id)
            events = plan_migrations.progress(found, max(batch), len(batch), settled)
            unit.record(PLAN_MIGRATIONS, move.id, events)
            if not events or sold is None:
                return
            for subscription_id, open_change in batch.items():
                standing, change_id = unit.get(SUBSCRIPTIONS, subscription_id), ids[subscription_id]
                if standing is not None and unit.get(CHANGES, change_id) is None:
                    asked = plan_migrations.request_change(found, sold, standing.subscription, open_change)
                    unit.record(CHANGES, change_id, asked)

        await self._context.decide(
            _origin(move),
            ask,
            writes=[PLAN_MIGRATIONS.key(move.id), *(CHANGES.key(id_) for id_ in ids.values())],
            reads=[CATALOGUES.key(catalogue.CATALOGUE), *(SUBSCRIPTIONS.key(id_) for id_ in batch)],
            leases=held,
        )


def _origin(move: PlanMigration) -> Origin:
    return Origin(move.id, move.id, "service:billing", "")


async def run_plan_migrations(context: ServiceContext, leases: Leases) -> None:
    """Go on with every move that runs, until the service ends."""
    await PlanMigrationRunner(context, leases).run()
