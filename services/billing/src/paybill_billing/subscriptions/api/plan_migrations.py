"""HTTP routes that preview, start, show, pause and resume plan migrations."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Self
from uuid import uuid4

from fastapi import APIRouter, Query, Response, status
from paybill_contracts.catalogue import Interval, PlanRef, PlanVersion
from paybill_contracts.changes import FeatureDifference, MigrationId
from paybill_contracts.inputs import PlainText
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.http import Operator, Viewer
from paybill_billing.subscriptions.api.changes import MAX_COUNT, When
from paybill_billing.subscriptions.domain import plan_migrations
from paybill_billing.subscriptions.domain.change_requests import NoSuchPriceError, price_index
from paybill_billing.subscriptions.domain.plan_migrations import (
    PlanMigration,
    PlanMigrationEvent,
    Status,
    UnknownPlanMigrationError,
)
from paybill_billing.subscriptions.domain.quotes import differences
from paybill_billing.subscriptions.tables import (
    MIGRATION_COUNTS,
    PLAN_MIGRATIONS,
    SUBSCRIBER_GROUPS,
    request_plan_migrations,
)

Version = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class PlanMigrationBody(BaseModel):
    """The old and the new plan version. Both must be published."""

    model_config = ConfigDict(extra="forbid")

    from_plan: Key
    from_version: Version
    to_plan: Key
    to_version: Version
    when: When = When.PERIOD_END
    reason: Annotated[PlainText, Field(description="Kept permanently in the log: no personal data.")]


class PauseBody(BaseModel):
    """The reason for the pause."""

    model_config = ConfigDict(extra="forbid")

    reason: PlainText


class PriceDifference(BaseModel):
    """The total price of the subscriptions with one currency and interval, before and after; null: no such price."""

    currency: str
    interval: Interval
    subscriptions: int
    before: Money
    after: Money | None


class PlanMigrationPreview(BaseModel):
    """The effect of a plan migration. `refused_now`: the subscriptions that would be refused in their current state."""

    subscriptions: int
    by_access: dict[str, int]
    refused_now: int
    prices: list[PriceDifference]
    features: list[FeatureDifference]
    tier_before: str
    tier_after: str
    placement_before: str
    placement_after: str


class PlanMigrationView(BaseModel):
    """A plan migration and its progress: of `total` subscriptions, `asked` got a change and `moved` completed it."""

    id: MigrationId
    status: Status
    from_plan: str
    from_version: int
    to: PlanRef
    when: When
    reason: str
    total: Count
    asked: Count
    moved: Count
    refused: Count
    left: Annotated[int | None, Field(description="Subscriptions that still pin the old version; null until the end.")]

    @classmethod
    def of(cls, migration: PlanMigration, requested: int, applied: int, refused: int) -> Self:
        """Returns the view of `migration` with the current counts of its changes."""
        return cls(
            id=migration.id,
            status=migration.status,
            from_plan=migration.from_plan,
            from_version=migration.from_version,
            to=migration.to,
            when=When.PERIOD_END if migration.at_period_end else When.NOW,
            reason=migration.reason,
            total=migration.total,
            asked=requested,
            moved=applied,
            refused=refused,
            left=migration.left,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of plan migrations."""
    routes = Router(prefix="/v1/moves", tags=["moves"])

    async def act(
        principal: Caller, move_id: str, verb: str, decision: Callable[[PlanMigration], list[PlanMigrationEvent]]
    ) -> PlanMigrationView:
        def decide(unit: UnitOfWork, _: DecisionContext) -> PlanMigrationView:
            unit.record(
                PLAN_MIGRATIONS,
                move_id,
                decision(plan_migrations.existing(unit.get(PLAN_MIGRATIONS, move_id), move_id)),
            )
            migration = plan_migrations.existing(unit.get(PLAN_MIGRATIONS, move_id), move_id)
            return PlanMigrationView.of(migration, migration.asked, migration.moved, migration.refused)

        return await context.decide(
            principal.origin,
            decide,
            writes=[PLAN_MIGRATIONS.key(move_id)],
            extra_statements=partial(request_plan_migrations, context.now()),
            verb=verb,
            target=move_id,
            idempotency=principal.idempotency,
            response_type=PlanMigrationView,
        )

    @routes.get("/preview")
    async def preview(
        _: Viewer,
        from_plan: Annotated[Key, Query()],
        from_version: Annotated[int, Query(ge=1, le=MAX_COUNT)],
        to_plan: Annotated[Key, Query()],
        to_version: Annotated[int, Query(ge=1, le=MAX_COUNT)],
    ) -> PlanMigrationPreview:
        """Returns the subscriptions that would change, their prices before and after, and the feature differences."""
        known = catalogue.existing(await load_state(context, CATALOGUES, catalogue.CATALOGUE))
        before = catalogue.published(known, from_plan, from_version).plan
        after = catalogue.published(known, to_plan, to_version).plan
        groups = await context.rows(SUBSCRIBER_GROUPS, {"plan": from_plan, "version": str(from_version)})
        by_access: Counter[str] = Counter()
        for group in groups:
            by_access[group.access] += group.subscriptions
        return PlanMigrationPreview(
            subscriptions=by_access.total(),
            by_access=dict(by_access),
            refused_now=by_access["suspended"] + by_access["paused"],
            prices=_prices(groups, after),
            features=list(differences(before, after)),
            tier_before=before.tier,
            tier_after=after.tier,
            placement_before=before.placement,
            placement_after=after.placement,
        )

    @routes.post("", status_code=status.HTTP_202_ACCEPTED)
    async def start(body: PlanMigrationBody, principal: Operator, response: Response) -> PlanMigrationView:
        """Starts a plan migration: every subscription of the old version gets a confirmed change to the new one.

        It runs in the background and survives restarts. Refused with `unknown_plan`, `same_version`, `nobody_to_move`,
        or `move_runs` while another migration from this version is not finished.
        """
        groups = await context.rows(SUBSCRIBER_GROUPS, {"plan": body.from_plan, "version": str(body.from_version)})
        total = sum(group.subscriptions for group in groups)
        move_id = f"mov_{uuid4().hex}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> PlanMigrationView:
            known = catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
            events = plan_migrations.start(
                unit.get(PLAN_MIGRATIONS, move_id),
                known,
                move_id=move_id,
                from_plan=body.from_plan,
                from_version=body.from_version,
                to_plan=body.to_plan,
                to_version=body.to_version,
                at_period_end=body.when is When.PERIOD_END,
                total=total,
                reason=body.reason,
            )
            unit.record(PLAN_MIGRATIONS, move_id, events)
            return PlanMigrationView.of(plan_migrations.existing(unit.get(PLAN_MIGRATIONS, move_id), move_id), 0, 0, 0)

        view = await context.decide(
            principal.origin,
            decide,
            writes=[PLAN_MIGRATIONS.key(move_id)],
            reads=[CATALOGUES.key(catalogue.CATALOGUE)],
            extra_statements=partial(request_plan_migrations, context.now()),
            verb="move",
            target=f"{body.from_plan}@{body.from_version}",
            idempotency=principal.idempotency,
            response_type=PlanMigrationView,
        )
        response.headers["Location"] = f"/v1/moves/{view.id}"
        return view

    @routes.get("")
    async def show_all(_: Viewer, limit: Limit = 50) -> list[PlanMigrationView]:
        """Returns the plan migrations in the order of their ids."""
        rows = await context.rows(MIGRATION_COUNTS, {"id": "", "limit": limit})
        return [
            PlanMigrationView.of(PLAN_MIGRATIONS.load(row.state), row.requested, row.applied, row.refused)
            for row in rows
        ]

    @routes.get("/{move_id}")
    async def show(move_id: MigrationId, _: Viewer) -> PlanMigrationView:
        """Returns a plan migration with its progress; its refusals: `/v1/changes?move_id=…&status=refused`."""
        rows = await context.rows(MIGRATION_COUNTS, {"id": move_id, "limit": 1})
        if not rows:
            raise UnknownPlanMigrationError(f"there is no plan migration {move_id}")
        return PlanMigrationView.of(
            PLAN_MIGRATIONS.load(rows[0].state), rows[0].requested, rows[0].applied, rows[0].refused
        )

    @routes.post("/{move_id}/pause")
    async def pause(move_id: MigrationId, body: PauseBody, principal: Operator) -> PlanMigrationView:
        """Pauses the migration after the current batch. Refused with `move_finished`."""
        return await act(
            principal, move_id, "pause_move", lambda migration: plan_migrations.pause(migration, body.reason)
        )

    @routes.post("/{move_id}/resume")
    async def resume(move_id: MigrationId, principal: Operator) -> PlanMigrationView:
        """Resumes a paused migration. Refused with `move_finished`."""
        return await act(principal, move_id, "resume_move", plan_migrations.resume)

    return routes


def _prices(groups: Any, after: PlanVersion) -> list[PriceDifference]:
    """Sums prices by currency and interval; a subscription without an interval counts as monthly."""
    totals: dict[tuple[str, Interval], PriceDifference] = {}
    for group in groups:
        interval = Interval(group.interval or Interval.MONTH)
        try:
            price = after.prices[price_index(after, group.currency, interval)].amount
            more = Money(minor=price.minor * group.quantity, currency=group.currency)
        except NoSuchPriceError:
            more = None
        paid = Money(minor=group.paid, currency=group.currency)
        known = totals.get((group.currency, interval))
        if known is None:
            totals[group.currency, interval] = PriceDifference(
                currency=group.currency,
                interval=interval,
                subscriptions=group.subscriptions,
                before=paid,
                after=more,
            )
            continue
        known.subscriptions += group.subscriptions
        known.before += paid
        known.after = known.after + more if known.after is not None and more is not None else None
    return list(totals.values())
