"""Quotes and applies changes of a subscription at Stripe.

Sources: https://docs.stripe.com/api/invoices/create_preview, https://docs.stripe.com/billing/subscriptions/prorations,
https://docs.stripe.com/billing/subscriptions/subscription-schedules.

Stripe forgets an idempotency key after a day, and an effect may be retried later. So every change first fetches the
subscription, and applies only the missing part.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import quote as quoted

import stripe
from paybill_contracts.changes import ChangeKind, Proration
from paybill_contracts.event import digest

from paybill_billing.providers.port import DesiredSubscription, ProviderRefusedError
from paybill_billing.providers.stripe.client import stripe_errors
from paybill_billing.providers.stripe.invoice_pages import StripeInvoices
from paybill_billing.providers.stripe.items import (
    copy_terms,
    first_period,
    item_params,
    phase_item,
    reactivation_details,
    without_cancellation,
)
from paybill_billing.providers.stripe.mappers import Json, id_of, is_metered, items_of, plan_item
from paybill_billing.providers.stripe.meters import StripeMeters
from paybill_billing.providers.stripe.previews import invoiced, later_phases, money, regular_amount, with_usage
from paybill_billing.providers.stripe.prices import StripePrices

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params import (
        InvoiceCreatePreviewParamsSubscriptionDetails,
        InvoiceCreatePreviewParamsSubscriptionDetailsItem,
        SubscriptionScheduleUpdateParams,
        SubscriptionScheduleUpdateParamsPhase,
        SubscriptionScheduleUpdateParamsPhaseItem,
        SubscriptionUpdateParams,
    )

PAGE = 100
_OVER = frozenset({"canceled", "incomplete_expired"})


@dataclass(frozen=True, slots=True)
class _Current:
    """The current subscription at Stripe, with its items and the plan's item."""

    data: Json
    items: list[Json]
    item: Json

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def period(self) -> tuple[datetime, datetime]:
        """The current billing period. Raises ProviderRefusedError."""
        starts = self.item.get("current_period_start", self.data.get("current_period_start"))
        ends = self.item.get("current_period_end", self.data.get("current_period_end"))
        if not isinstance(starts, int) or not isinstance(ends, int):
            raise ProviderRefusedError(f"{self.id} has no current period")
        return datetime.fromtimestamp(starts, UTC), datetime.fromtimestamp(ends, UTC)

    @property
    def metered(self) -> set[str]:
        """The prices of usage."""
        return {each["price"]["id"] for each in self.items if is_metered(each["price"])}

    def field(self, name: str) -> Any:
        """Returns a field of the subscription."""
        return self.data.get(name)


@dataclass(frozen=True, slots=True)
class _DesiredItems:
    """The plan's desired item, and the prices of usage that are added and the items of usage that are removed.

    Usage is never prorated: Stripe invoices what a removed item used until then.
    """

    plan: "InvoiceCreatePreviewParamsSubscriptionDetailsItem"
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def all(self) -> list["InvoiceCreatePreviewParamsSubscriptionDetailsItem"]:
        """The items that are named in a request."""
        removed: list[InvoiceCreatePreviewParamsSubscriptionDetailsItem] = [
            {"id": id_, "deleted": True} for id_ in self.removed
        ]
        added: list[InvoiceCreatePreviewParamsSubscriptionDetailsItem] = [{"price": price} for price in self.added]
        return [self.plan, *removed, *added]

    def among(self, items: list[Json]) -> list["SubscriptionScheduleUpdateParamsPhaseItem"]:
        """Returns all items of the subscription after the change, with their terms."""
        kept = [each for each in items if each["id"] not in self.removed]
        after = [phase_item(self.plan if each["id"] == self.plan["id"] else item_params(each), each) for each in kept]
        after += [{"price": price} for price in self.added]
        return after

    def differs(self, found: _Current) -> bool:
        """Returns True when the subscription does not have these items."""
        return bool(self.added or self.removed) or self.plan != item_params(found.item)


class StripeChanges:
    """Quotes and applies changes in one Stripe account."""

    def __init__(self, client: stripe.StripeClient, prices: StripePrices, meters: StripeMeters) -> None:
        self._client = client
        self._prices = prices
        self._meters = meters
        self._invoices = StripeInvoices(client)

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """Returns the cost of the change at `at`, or at the nearest time in the current period."""
        with stripe_errors():
            found = await self._fetch(subscription, desired)
            now = _within(found, at)
            ends = found.period[1]
            schedule = await self._schedule_of(found) if _drops_schedule(desired) else None
            due_now = money(found.data, 0)
            base = Proration(
                lines=(), due_now=due_now, next_amount=None, effective_at=now, dropped=later_phases(schedule)
            )
            match desired.kind:
                case ChangeKind.PLAN:
                    after = await self._items(found, desired)
                    if schedule is None:
                        preview = await self._preview(found, {"items": after.all, "proration_behavior": "none"})
                    else:
                        preview = await self._preview_without(schedule, found, after, desired)
                    if preview is None and found.field("status") == "trialing":
                        # A trial without a card ends with nothing to pay, unless the customer adds a card.
                        preview = await self._preview_of(first_period(found.data, after.among(found.items)))
                    regular = regular_amount(preview, {*found.metered, *after.added})
                    if desired.at_period_end:
                        return base.model_copy(update={"next_amount": regular, "effective_at": ends})
                    if desired.without_proration or found.field("status") == "trialing":
                        # Nothing is invoiced before the trial ends: a preview would show the invoice after it.
                        return base.model_copy(update={"next_amount": regular})
                    invoice = await self._preview(
                        found,
                        {
                            "items": after.all,
                            "proration_behavior": "always_invoice",
                            "proration_date": int(now.timestamp()),
                        },
                    )
                    unpaid = await self._invoices.unpaid_time(found.id, found.period[0], invoice, now)
                    invoice = await self._with_unreported(invoice, found, desired, after.removed)
                    return invoiced(base, invoice, regular).model_copy(update={"unpaid": unpaid})
                case ChangeKind.CANCEL if desired.at_period_end:
                    return base.model_copy(update={"effective_at": ends})
                case ChangeKind.CANCEL:
                    last = await self._preview(found, {"cancel_now": True, "proration_behavior": "none"})
                    last = await self._with_unreported(last, found, desired, [each["id"] for each in found.items])
                    return invoiced(base, last, None)
                case ChangeKind.REACTIVATE:
                    if schedule is None:
                        preview = await self._preview(found, reactivation_details(found.data, found.item))
                    else:
                        kept = _DesiredItems(item_params(found.item))
                        preview = await self._preview_without(schedule, found, kept, desired)
                    return base.model_copy(update={"next_amount": regular_amount(preview, found.metered)})
                case ChangeKind.PAUSE:
                    return base
                case ChangeKind.RESUME if found.field("status") == "paused":
                    return invoiced(base, await self._preview(found, {"resume_at": "now"}), None)
                case ChangeKind.RESUME:
                    preview = await self._preview(found, {})
                    return base.model_copy(update={"next_amount": regular_amount(preview, found.metered)})
                case _:
                    assert_never(desired.kind)

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Applies the change. `key` is the same at every attempt, and completed steps are skipped."""
        with stripe_errors():
            found = await self._fetch(subscription, desired)
            if found.field("status") in _OVER:
                if desired.kind is ChangeKind.CANCEL:
                    return
                raise ProviderRefusedError(f"{subscription} has ended")
            match desired.kind:
                case ChangeKind.PLAN if desired.at_period_end:
                    await self._schedule(found, await self._items(found, desired), desired, key)
                case ChangeKind.PLAN:
                    await self._release(found, key)
                    await self._change_now(found, await self._items(found, desired), desired, at, key)
                case ChangeKind.CANCEL if desired.at_period_end:
                    await self._release(found, key)
                    if not found.field("cancel_at_period_end"):
                        await self._update(found, {"cancel_at_period_end": True}, key)
                case ChangeKind.CANCEL:
                    # Usage without an invoice is invoiced; payments are not refunded.
                    await self._client.v1.subscriptions.cancel_async(
                        subscription, {"invoice_now": True}, {"idempotency_key": key}
                    )
                case ChangeKind.REACTIVATE:
                    await self._release(found, key)
                    if undo := without_cancellation(found.data):
                        await self._update(found, undo, key)
                case ChangeKind.PAUSE:
                    if not found.field("pause_collection"):
                        await self._update(found, {"pause_collection": {"behavior": "void"}}, key)
                case ChangeKind.RESUME:
                    await self._resume(found, key)
                case _:
                    assert_never(desired.kind)

    async def _fetch(self, subscription: str, desired: DesiredSubscription) -> _Current:
        response = await self._client.raw_request_async("get", f"/v1/subscriptions/{quoted(subscription, safe='')}")
        found: Json = response.data
        items = items_of(found)
        if not items:
            raise ProviderRefusedError(f"{subscription} has no items")
        if found["items"].get("has_more"):
            # All items are needed: the next period contains only the items that the schedule names.
            response = await self._client.raw_request_async(
                "get", "/v1/subscription_items", subscription=subscription, limit=PAGE
            )
            items = list(response.data["data"])
        plans = [plan for plan in (desired.pinned, desired.plan) if plan is not None]
        plan_items = [each for each in items if any(self._prices.sells(each["price"], plan) for plan in plans)]
        return _Current(found, items, plan_items[0] if plan_items else plan_item(found))

    async def _items(self, found: _Current, desired: DesiredSubscription) -> _DesiredItems:
        """Returns the plan's desired item and, for another plan, the prices of usage that come and go."""
        item = item_params(found.item)
        if desired.quantity is not None:
            item["quantity"] = desired.quantity
        if desired.plan is None or desired.price is None:
            return _DesiredItems(item)
        item["price"] = await self._prices.id_of(desired.product, desired.plan, desired.price)
        metered = [await self._prices.id_of_metered(desired.product, desired.plan, each) for each in desired.metered]
        current = {
            each["price"]["id"]: each["id"]
            for each in found.items
            if each["id"] != item["id"] and self._prices.is_overage(each["price"], desired.pinned)
        }
        return _DesiredItems(
            item,
            added=[price for price in metered if price not in current],
            removed=[id_ for price, id_ in current.items() if price not in metered],
        )

    async def _with_unreported(
        self, invoice: Json | None, found: _Current, desired: DesiredSubscription, ended: Collection[str]
    ) -> Json | None:
        """Adds the usage of ended items that is reported before the change to the preview of its invoice."""
        for item in found.items if desired.unreported else ():
            if item["id"] in ended and is_metered(item["price"]):
                meter = await self._meters.of_price(item["price"]["id"])
                invoice = with_usage(invoice, found.data, item, desired.unreported.get(meter or "", 0))
        return invoice

    async def _preview(self, found: _Current, details: "InvoiceCreatePreviewParamsSubscriptionDetails") -> Json | None:
        """Returns the preview of the invoice; None when there would be none."""
        return await self._preview_of(
            {"subscription": found.id, **({"subscription_details": details} if details else {})}
        )

    async def _preview_without(
        self, schedule: Json, found: _Current, after: _DesiredItems, desired: DesiredSubscription
    ) -> Json | None:
        """Returns the preview of the next period's invoice with the desired items instead of the scheduled phases.

        A preview of the subscription contains the phases of its schedule, which the change releases or replaces.
        """
        details = _schedule_params(found, after, desired, schedule)
        return await self._preview_of({"schedule": schedule["id"], "schedule_details": details})

    async def _preview_of(self, params: Json) -> Json | None:
        try:
            response = await self._client.raw_request_async("post", "/v1/invoices/create_preview", **params)
        except stripe.InvalidRequestError as error:
            if error.code == "invoice_upcoming_none":
                return None
            raise
        invoice: Json = response.data
        return invoice

    async def _change_now(
        self,
        found: _Current,
        after: _DesiredItems,
        desired: DesiredSubscription,
        at: datetime,
        key: str,
    ) -> None:
        if not after.differs(found):
            return
        params: SubscriptionUpdateParams = {
            "items": list(after.all),
            "proration_behavior": "none",
        }
        if not desired.without_proration:
            params["proration_behavior"] = "always_invoice"
            params["proration_date"] = int(at.timestamp())
        if found.field("collection_method") != "send_invoice":
            # Otherwise Stripe keeps the unpaid change, and the whole subscription is past due.
            params["payment_behavior"] = "error_if_incomplete"
        await self._update(found, params, key)

    async def _schedule(
        self,
        found: _Current,
        after: _DesiredItems,
        desired: DesiredSubscription,
        key: str,
    ) -> None:
        """Schedules the change for the end of the period; it replaces an earlier scheduled change."""
        if not after.differs(found):
            return
        schedules = self._client.v1.subscription_schedules
        schedule = await self._schedule_of(found)
        if schedule is None:
            made = await schedules.create_async({"from_subscription": found.id}, {"idempotency_key": f"{key}/schedule"})
            schedule = made.to_dict()
        phases = _schedule_params(found, after, desired, schedule)
        # A retry may find another period or quantity, and Stripe accepts a key for one set of parameters only.
        await schedules.update_async(schedule["id"], phases, {"idempotency_key": f"{key}/{digest(phases)[:16]}"})

    async def _schedule_of(self, found: _Current) -> Json | None:
        """Returns the schedule of the subscription."""
        if (id_ := id_of(found.field("schedule"))) is None:
            return None
        path = f"/v1/subscription_schedules/{quoted(id_, safe='')}"
        schedule: Json = (await self._client.raw_request_async("get", path)).data
        return schedule

    async def _release(self, found: _Current, key: str) -> None:
        """Releases the schedule, which discards its changes."""
        if (schedule := id_of(found.field("schedule"))) is not None:
            await self._client.v1.subscription_schedules.release_async(
                schedule, None, {"idempotency_key": f"{key}/release"}
            )

    async def _resume(self, found: _Current, key: str) -> None:
        """Resumes from both kinds of pause: of collection, and of a trial that ended without a payment method."""
        if found.field("pause_collection"):
            await self._update(found, {"pause_collection": ""}, key)
        if found.field("status") == "paused":
            await self._client.v1.subscriptions.resume_async(found.id, None, {"idempotency_key": f"{key}/resume"})

    async def _update(self, found: _Current, params: "SubscriptionUpdateParams", key: str) -> None:
        await self._client.v1.subscriptions.update_async(found.id, params, {"idempotency_key": key})


def _drops_schedule(desired: DesiredSubscription) -> bool:
    if desired.kind is ChangeKind.CANCEL:
        return desired.at_period_end
    return desired.kind in {ChangeKind.PLAN, ChangeKind.REACTIVATE}


def _schedule_params(
    found: _Current, after: _DesiredItems, desired: DesiredSubscription, schedule: Json
) -> "SubscriptionScheduleUpdateParams":
    """Returns the phases of a schedule that brings the desired items at the end of the period."""
    now = [phase_item(item_params(each), each) for each in found.items]
    starts, ends = found.period
    current: SubscriptionScheduleUpdateParamsPhase = {
        "items": now,
        # The current phase may have begun in an earlier period, and its start cannot be changed.
        "start_date": (schedule.get("current_phase") or {}).get("start_date") or int(starts.timestamp()),
        "end_date": int(ends.timestamp()),
    }
    if found.field("status") == "trialing":
        current["trial_end"] = found.field("trial_end")
    next_phase: SubscriptionScheduleUpdateParamsPhase = {
        "items": after.among(found.items),
        "proration_behavior": "none",
        "duration": {"interval": _interval(found, desired), "interval_count": 1},
    }
    for phase in (current, next_phase):
        copy_terms(found.data, phase)
    return {"end_behavior": "release", "proration_behavior": "none", "phases": [current, next_phase]}


def _within(found: _Current, at: datetime) -> datetime:
    """Returns the nearest time in the current period: Stripe prorates only within it, and its clock may differ."""
    starts, ends = found.period
    return min(max(at.replace(microsecond=0), starts), ends)


def _interval(found: _Current, desired: DesiredSubscription) -> str:
    if desired.price is not None:
        return desired.price.interval.value
    return str(found.item["price"]["recurring"]["interval"])
