"""HTTP routes that request, show, confirm and discard subscription changes."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, Query, Response, status
from paybill_contracts.billing import Subscription
from paybill_contracts.catalogue import Interval
from paybill_contracts.changes import (
    ChangeId,
    ChangeKind,
    FeatureDifference,
    MigrationId,
    Overage,
    PendingEnvironment,
    Proration,
    WantedChange,
)
from paybill_contracts.inputs import PlainText
from paybill_contracts.money import Money
from paybill_contracts.values import Digest, Key, SubscriptionId, TenantId, Timestamp
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field, model_validator

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.http import Operator, Viewer
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.change_requests import ChangeIntent, UnknownSubscriptionError, WhileOverdue
from paybill_billing.subscriptions.domain.changes import Change, ChangeEvent, Status, UnknownChangeError
from paybill_billing.subscriptions.domain.quotes import drops_scheduled
from paybill_billing.subscriptions.tables import (
    ACCOUNTS,
    CHANGES,
    SUBSCRIPTIONS,
    open_change_of,
    subscription_of_change,
)

MAX_COUNT = 10**9


class When(StrEnum):
    """The time of a change: now, or at the end of the current period."""

    NOW = "now"
    PERIOD_END = "period_end"


class ChangeBody(BaseModel):
    """The requested change. A field that is left out stays the same."""

    model_config = ConfigDict(extra="forbid")

    kind: ChangeKind
    plan: Annotated[Key | None, Field(description="Only for the kind `plan`, as the next three fields.")] = None
    version: Annotated[int | None, Field(ge=1, le=MAX_COUNT, description="Default: the newest version on sale.")] = None
    interval: Interval | None = None
    quantity: Annotated[int | None, Field(ge=-MAX_COUNT, le=MAX_COUNT, description="Seats.")] = None
    when: When = When.NOW
    drop_scheduled: Annotated[bool, Field(description="Allow to drop the phases that are scheduled for later.")] = False
    reason: Annotated[PlainText, Field(description="Kept permanently in the log: no personal data.")]
    confirm: Annotated[bool, Field(description="Confirm the quote automatically.")] = False

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        """Refuses fields that the kind of change does not use."""
        has_plan_fields = {self.plan, self.version, self.interval, self.quantity} != {None}
        if has_plan_fields and self.kind is not ChangeKind.PLAN:
            raise ValueError(
                f"plan, version, interval and quantity are allowed for the kind `plan` only, not for {self.kind}"
            )
        if self.version is not None and self.plan is None:
            raise ValueError("a version needs its plan")
        return self


class ConfirmBody(BaseModel):
    """The hash of the quote to confirm."""

    model_config = ConfigDict(extra="forbid")

    quote_hash: Digest


class QuoteView(BaseModel):
    """The cost and the feature differences of a change. Confirm `quote_hash` before `valid_until`."""

    proration: Proration
    features: list[FeatureDifference]
    tier_before: str
    tier_after: str
    placement_before: str
    placement_after: str
    valid_until: Timestamp
    quote_hash: Digest
    overdue: Annotated[Money | None, Field(description="What the customer owes already.")]
    overage: Annotated[list[Overage], Field(description="Prices of usage beyond what is included, after the change.")]
    environment: Annotated[
        PendingEnvironment | None, Field(description="An earlier change that the environment has not followed yet.")
    ]


class ChangeView(BaseModel):
    """A change of a subscription. `applied`: the provider has made it or scheduled it for the end of the period."""

    id: ChangeId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    status: Status
    wanted: WantedChange
    reason: str
    move_id: MigrationId | None
    quote: Annotated[QuoteView | None, Field(description="Null until the provider has sent the quote.")]
    code: Annotated[str | None, Field(description="Code of the refusal, or `provider_refused`.")]
    refusal: str | None
    drops_scheduled: Annotated[
        str | None,
        Field(
            description="Why a confirmation of the quote is refused with `drops_scheduled_phases`; null when it is not."
        ),
    ] = None

    @classmethod
    def of(cls, change: Change) -> Self:
        """Returns the view of `change`."""
        quote = change.quote
        return cls(
            id=change.id,
            tenant_id=change.tenant_id,
            subscription_id=change.subscription_id,
            status=change.status,
            wanted=change.wanted,
            reason=change.reason,
            move_id=change.move_id,
            quote=None
            if quote is None
            else QuoteView(
                proration=quote.proration,
                features=list(quote.features),
                tier_before=quote.tier_before,
                tier_after=quote.tier_after,
                placement_before=quote.placement_before,
                placement_after=quote.placement_after,
                valid_until=quote.valid_until,
                quote_hash=quote.quote_hash,
                overdue=quote.overdue,
                overage=list(quote.overage),
                environment=quote.environment,
            ),
            code=change.code,
            refusal=change.refusal,
            drops_scheduled=drops_scheduled(change.wanted, quote.proration) if quote is not None else None,
        )


class ChangePage(BaseModel):
    """Changes in the order of their ids."""

    changes: list[ChangeView]
    next: Annotated[ChangeId | None, Field(description="Send it as `after` for the next page; null on the last.")]


async def _subscription(context: ServiceContext, subscription_id: str) -> Subscription:
    state = await load_state(context, SUBSCRIPTIONS, subscription_id)
    if state is None:
        raise UnknownSubscriptionError(f"there is no subscription {subscription_id}")
    return state.subscription


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of subscription changes."""
    routes = Router(prefix="/v1", tags=["changes"])
    _request_routes(routes, context)
    _read_routes(routes, context)
    _decision_routes(routes, context)
    return routes


def _request_routes(routes: APIRouter, context: ServiceContext) -> None:
    @routes.post("/subscriptions/{subscription_id}/changes", status_code=status.HTTP_202_ACCEPTED)
    async def request(
        subscription_id: SubscriptionId, body: ChangeBody, principal: Operator, response: Response
    ) -> ChangeView:
        """Requests a change. The provider quotes it, and it is applied when the quote is confirmed.

        An `Idempotency-Key` makes retries safe. Refused with `change_open` while another change of the
        subscription is open, and with `subscription_ended`, `subscription_pending`, `subscription_suspended`,
        `subscription_overdue`, `subscription_paused`, `subscription_cancels`, `not_paused`, `nothing_to_change`,
        `nothing_to_reactivate`, `no_period`, `only_now`, `tenant_leaving`, `unknown_plan`, `plan_not_on_sale`,
        `no_such_price` or `quantity_out_of_bounds` when the change is not possible. The quote is refused with
        `period_unpaid` when it would credit time that was not paid.
        """
        tenant_id = (await _subscription(context, subscription_id)).tenant_id
        open_changes = await context.rows(open_change_of(subscription_id))
        intent = ChangeIntent(
            kind=body.kind,
            at_period_end=body.when is When.PERIOD_END,
            plan=body.plan,
            version=body.version,
            interval=body.interval,
            quantity=body.quantity,
            drop_scheduled=body.drop_scheduled,
        )
        change_id = f"chg_{uuid4().hex}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> ChangeView:
            state, account = unit.get(SUBSCRIPTIONS, subscription_id), unit.get(ACCOUNTS, tenant_id)
            known = catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
            if state is None:
                raise UnknownSubscriptionError(f"there is no subscription {subscription_id}")
            leaving = account is not None and account.leaving
            events = changes.request(
                unit.get(CHANGES, change_id),
                state.subscription,
                change_requests.resolve(
                    known,
                    state.subscription,
                    intent,
                    leaving=leaving,
                    while_overdue=WhileOverdue(context.settings.changes_while_overdue),
                ),
                change_id=change_id,
                confirmed=body.confirm,
                reason=body.reason,
                open_change=open_changes[0].id if open_changes else None,
            )
            unit.record(CHANGES, change_id, events)
            return ChangeView.of(changes.existing(unit.get(CHANGES, change_id), change_id))

        view = await context.decide(
            principal.origin,
            decide,
            writes=[CHANGES.key(change_id)],
            reads=[
                SUBSCRIPTIONS.key(subscription_id),
                ACCOUNTS.key(tenant_id),
                CATALOGUES.key(catalogue.CATALOGUE),
            ],
            verb="change",
            target=subscription_id,
            idempotency=principal.idempotency,
            response_type=ChangeView,
        )
        response.headers["Location"] = f"/v1/changes/{view.id}"
        return view


def _read_routes(routes: APIRouter, context: ServiceContext) -> None:
    @routes.get("/subscriptions/{subscription_id}")
    async def show_subscription(subscription_id: SubscriptionId, _: Viewer) -> Subscription:
        """Returns a subscription as of the last sync with its provider."""
        return await _subscription(context, subscription_id)

    @routes.get("/changes")
    async def show_all(
        _: Viewer,
        subscription_id: Annotated[
            SubscriptionId | None, Query(description="Only changes of this subscription.")
        ] = None,
        move_id: Annotated[MigrationId | None, Query(description="Only changes of this plan migration.")] = None,
        status_: Annotated[Status | None, Query(alias="status", description="Only changes with this status.")] = None,
        after: Annotated[ChangeId | None, Query(description="Only ids after this one: `next` of a page.")] = None,
        limit: Limit = 50,
    ) -> ChangePage:
        """Returns a page of changes in the order of their ids."""
        found_changes, next_ = await load_page(
            context, CHANGES, after, limit, subscription_id=subscription_id, move_id=move_id, status=status_
        )
        return ChangePage(changes=[ChangeView.of(change) for change in found_changes], next=next_)

    @routes.get("/changes/{change_id}")
    async def show(change_id: ChangeId, _: Viewer) -> ChangeView:
        """Returns a change with its quote and status."""
        return ChangeView.of(changes.existing(await load_state(context, CHANGES, change_id), change_id))


def _decision_routes(routes: APIRouter, context: ServiceContext) -> None:
    async def act(
        principal: Caller,
        change_id: str,
        verb: str,
        decision: Callable[[UnitOfWork, Change, DecisionContext], list[ChangeEvent]],
    ) -> ChangeView:
        rows = await context.rows(subscription_of_change(change_id))
        if not rows:
            raise UnknownChangeError(f"there is no change {change_id}")

        def decide(unit: UnitOfWork, at: DecisionContext) -> ChangeView:
            change = changes.existing(unit.get(CHANGES, change_id), change_id)
            unit.record(CHANGES, change_id, decision(unit, change, at))
            return ChangeView.of(changes.existing(unit.get(CHANGES, change_id), change_id))

        return await context.decide(
            principal.origin,
            decide,
            writes=[CHANGES.key(change_id)],
            reads=[SUBSCRIPTIONS.key(rows[0].subscription_id)],
            verb=verb,
            target=change_id,
            idempotency=principal.idempotency,
            response_type=ChangeView,
        )

    @routes.post("/changes/{change_id}/confirm", status_code=status.HTTP_202_ACCEPTED)
    async def confirm(change_id: ChangeId, body: ConfirmBody, principal: Operator) -> ChangeView:
        """Confirms a quote; the change is then applied, and events report the new subscription.

        Refused with `change_not_quoted_yet`, `quote_changed`, `quote_expired`, `drops_scheduled_phases`, `change_over`,
        or because the current state of the subscription does not allow the change.
        """

        def decision(unit: UnitOfWork, change: Change, at: DecisionContext) -> list[ChangeEvent]:
            state = unit.get(SUBSCRIPTIONS, change.subscription_id)
            if state is not None and change.status is Status.QUOTED:
                desired = change.wanted
                change_requests.check_allowed(
                    state.subscription,
                    desired.kind,
                    at_period_end=desired.at_period_end,
                    without_proration=desired.without_proration,
                )
            return changes.confirm(change, body.quote_hash, at.now)

        return await act(principal, change_id, "confirm_change", decision)

    @routes.post("/changes/{change_id}/discard")
    async def discard(change_id: ChangeId, principal: Operator) -> ChangeView:
        """Discards a change that is not confirmed. Refused with `change_confirmed` or `change_over`."""
        return await act(principal, change_id, "discard_change", lambda _unit, change, _at: changes.discard(change))
