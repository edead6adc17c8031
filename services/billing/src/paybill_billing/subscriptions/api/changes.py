"""Changes of subscriptions over HTTP: ask, look at the quote, confirm it or let it go."""

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
    Proration,
    WantedChange,
)
from paybill_contracts.values import Digest, Key, SubscriptionId, TenantId, Text, Timestamp
from paybill_runtime.decisions.context import Caller, ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlmodel import select

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.reading import Limit, Reader, Writer, found, page
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.change_requests import ChangeIntent, UnknownSubscriptionError
from paybill_billing.subscriptions.domain.changes import Change, ChangeEvent, Status, UnknownChangeError
from paybill_billing.subscriptions.tables import ACCOUNTS, CHANGES, SUBSCRIPTIONS, ChangeRow

MAX_COUNT = 10**9


class When(StrEnum):
    """Now, or when what is paid for is over."""

    NOW = "now"
    PERIOD_END = "period_end"


class ChangeBody(BaseModel):
    """What is wanted. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    kind: ChangeKind
    plan: Annotated[Key | None, Field(description="For `plan` alone, as the next three.")] = None
    version: Annotated[
        int | None, Field(ge=1, le=MAX_COUNT, description="The newest that is on sale when it is left out.")
    ] = None
    interval: Interval | None = None
    quantity: Annotated[int | None, Field(ge=-MAX_COUNT, le=MAX_COUNT, description="Seats.")] = None
    when: When = When.NOW
    reason: Annotated[Text, Field(description="Kept in the log for ever: no personal data.")]
    confirm: Annotated[bool, Field(description="Make it as soon as it is quoted, without asking again.")] = False

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        """Nothing of what was asked for is left undone in silence."""
        given = {self.plan, self.version, self.interval, self.quantity} != {None}
        if given and self.kind is not ChangeKind.PLAN:
            raise ValueError(f"plan, version, interval and quantity are for the kind `plan`, and not for {self.kind}")
        if self.version is not None and self.plan is None:
            raise ValueError("a version needs its plan")
        return self


class ConfirmBody(BaseModel):
    """The quote that was seen."""

    model_config = ConfigDict(extra="forbid")

    quote_hash: Digest


class QuoteView(BaseModel):
    """What a change costs and gives. Confirm `quote_hash` before `valid_until`."""

    proration: Proration
    features: list[FeatureDifference]
    tier_before: str
    tier_after: str
    placement_before: str
    placement_after: str
    valid_until: Timestamp
    quote_hash: Digest


class ChangeView(BaseModel):
    """A change of a subscription. `applied`: the provider has made it, or will when the period ends."""

    id: ChangeId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    status: Status
    wanted: WantedChange
    reason: str
    move_id: MigrationId | None
    quote: Annotated[QuoteView | None, Field(description="Null until the provider has quoted it.")]
    code: Annotated[str | None, Field(description="Of the rule that refused it, or `provider_refused`.")]
    refusal: str | None

    @classmethod
    def of(cls, change: Change) -> Self:
        """What is shown of `change`."""
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
            ),
            code=change.code,
            refusal=change.refusal,
        )


class ChangePage(BaseModel):
    """Changes in the order of their ids."""

    changes: list[ChangeView]
    next: Annotated[ChangeId | None, Field(description="Send it as `after` for the next page; null on the last.")]


async def _subscription(context: ServiceContext, subscription_id: str) -> Subscription:
    standing = await found(context, SUBSCRIPTIONS, subscription_id)
    if standing is None:
        raise UnknownSubscriptionError(f"there is no subscription {subscription_id}")
    return standing.subscription


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["changes"])
    _asking(routes, context)
    _looking(routes, context)
    _deciding(routes, context)
    return routes


def _asking(routes: APIRouter, context: ServiceContext) -> None:
    @routes.post("/subscriptions/{subscription_id}/changes", status_code=status.HTTP_202_ACCEPTED)
    async def request(subscription_id: SubscriptionId, body: ChangeBody, who: Writer, response: Response) -> ChangeView:
        """Ask for a change. It is quoted in a moment, and made when its quote is confirmed.

        An `Idempotency-Key` makes it safe to send again. Refused with `change_open` while another change of the
        subscription is not over, and with `subscription_ended`, `subscription_pending`, `subscription_suspended`,
        `subscription_paused`, `subscription_cancels`, `not_paused`, `nothing_to_change`, `nothing_to_reactivate`,
        `no_period`, `only_now`, `tenant_leaving`, `unknown_plan`, `plan_not_on_sale`, `no_such_price` or
        `quantity_out_of_bounds` when it cannot be.
        """
        tenant_id = (await _subscription(context, subscription_id)).tenant_id
        open_ones = await context.rows(select(ChangeRow.id).where(ChangeRow.open_for == subscription_id))
        asked = ChangeIntent(
            kind=body.kind,
            at_period_end=body.when is When.PERIOD_END,
            plan=body.plan,
            version=body.version,
            interval=body.interval,
            quantity=body.quantity,
        )
        change_id = f"chg_{uuid4().hex}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> ChangeView:
            standing, account = unit.get(SUBSCRIPTIONS, subscription_id), unit.get(ACCOUNTS, tenant_id)
            sold = catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
            if standing is None:
                raise UnknownSubscriptionError(f"there is no subscription {subscription_id}")
            leaving = account is not None and account.leaving
            events = changes.request(
                unit.get(CHANGES, change_id),
                standing.subscription,
                change_requests.resolve(sold, standing.subscription, asked, leaving=leaving),
                change_id=change_id,
                confirmed=body.confirm,
                reason=body.reason,
                open_change=open_ones[0].id if open_ones else None,
            )
            unit.record(CHANGES, change_id, events)
            return ChangeView.of(changes.existing(unit.get(CHANGES, change_id), change_id))

        view = await context.decide(
            who.origin,
            decide,
            writes=[CHANGES.key(change_id)],
            reads=[
                SUBSCRIPTIONS.key(subscription_id),
                ACCOUNTS.key(tenant_id),
                CATALOGUES.key(catalogue.CATALOGUE),
            ],
            verb="change",
            target=subscription_id,
            idempotency=who.idempotency,
            response_type=ChangeView,
        )
        response.headers["Location"] = f"/v1/changes/{view.id}"
        return view


def _looking(routes: APIRouter, context: ServiceContext) -> None:
    @routes.get("/subscriptions/{subscription_id}")
    async def show_subscription(subscription_id: SubscriptionId, _: Reader) -> Subscription:
        """One subscription, as the provider showed it last."""
        return await _subscription(context, subscription_id)

    @routes.get("/changes")
    async def show_all(
        _: Reader,
        subscription_id: Annotated[SubscriptionId | None, Query(description="Only of this subscription.")] = None,
        move_id: Annotated[MigrationId | None, Query(description="Only of this move.")] = None,
        standing: Annotated[Status | None, Query(alias="status", description="Only those that stand here.")] = None,
        after: Annotated[ChangeId | None, Query(description="Only ids behind this one: `next` of a page.")] = None,
        limit: Limit = 50,
    ) -> ChangePage:
        """Changes in the order of their ids, a page at a time."""
        asked, next_ = await page(
            context, CHANGES, after, limit, subscription_id=subscription_id, move_id=move_id, status=standing
        )
        return ChangePage(changes=[ChangeView.of(change) for change in asked], next=next_)

    @routes.get("/changes/{change_id}")
    async def show(change_id: ChangeId, _: Reader) -> ChangeView:
        """One change: its quote, and what became of it."""
        return ChangeView.of(changes.existing(await found(context, CHANGES, change_id), change_id))


def _deciding(routes: APIRouter, context: ServiceContext) -> None:
    async def act(
        who: Caller,
        change_id: str,
        verb: str,
        decision: Callable[[UnitOfWork, Change, DecisionContext], list[ChangeEvent]],
    ) -> ChangeView:
        rows = await context.rows(select(ChangeRow.subscription_id).where(ChangeRow.id == change_id))
        if not rows:
            raise UnknownChangeError(f"there is no change {change_id}")

        def decide(unit: UnitOfWork, at: DecisionContext) -> ChangeView:
            change = changes.existing(unit.get(CHANGES, change_id), change_id)
            unit.record(CHANGES, change_id, decision(unit, change, at))
            return ChangeView.of(changes.existing(unit.get(CHANGES, change_id), change_id))

        return await context.decide(
            who.origin,
            decide,
            writes=[CHANGES.key(change_id)],
            reads=[SUBSCRIPTIONS.key(rows[0].subscription_id)],
            verb=verb,
            target=change_id,
            idempotency=who.idempotency,
            response_type=ChangeView,
        )

    @routes.post("/changes/{change_id}/confirm", status_code=status.HTTP_202_ACCEPTED)
    async def confirm(change_id: ChangeId, body: ConfirmBody, who: Writer) -> ChangeView:
        """Have a change made as it was quoted; what the subscription is then follows as facts.

        Refused with `change_not_quoted_yet`, `quote_changed`, `quote_expired`, `change_over`, or because the
        subscription stands otherwise by now.
        """

        def decision(unit: UnitOfWork, change: Change, at: DecisionContext) -> list[ChangeEvent]:
            standing = unit.get(SUBSCRIPTIONS, change.subscription_id)
            if standing is not None and change.status is Status.QUOTED:
                wanted = change.wanted
                change_requests.check_allowed(standing.subscription, wanted.kind, at_period_end=wanted.at_period_end)
            return changes.confirm(change, body.quote_hash, at.now)

        return await act(who, change_id, "confirm_change", decision)

    @routes.post("/changes/{change_id}/discard")
    async def discard(change_id: ChangeId, who: Writer) -> ChangeView:
        """Give a change up before it is confirmed. Refused with `change_confirmed` or `change_over`."""
        return await act(who, change_id, "discard_change", lambda _unit, change, _at: changes.discard(change))
