"""Quotes and applies changes of a subscription at Stripe.

Sources: https://docs.stripe.com/api/invoices/create_preview, https://docs.stripe.com/billing/subscriptions/prorations,
https://docs.stripe.com/billing/subscriptions/subscription-schedules.

Stripe forgets an idempotency key after a day, and an effect may be retried later. So every change first fetches the
subscription, and applies only the missing part, if it still costs what was confirmed.
"""

from collections.abc import Collection
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, assert_never
from urllib.parse import quote as quoted

import stripe
from paybill_contracts.changes import ChangeKind, Proration
from paybill_contracts.event import digest

from paybill_billing.providers.port import (
    ChangeRefusedError,
    DesiredSubscription,
    ProviderRefusedError,
    QuoteOutdatedError,
)
from paybill_billing.providers.port.desired import costs_as_confirmed
from paybill_billing.providers.stripe.client import stripe_errors
from paybill_billing.providers.stripe.invoice_pages import StripeInvoices
from paybill_billing.providers.stripe.items import (
    CurrentItems,
    DesiredItems,
    copy_terms,
    first_period,
    is_done,
    is_made,
    item_params,
    phase_item,
    reactivation_details,
    without_cancellation,
    without_invoice,
)
from paybill_billing.providers.stripe.mappers import CHANGE, Json, id_of, is_metered, items_of, plan_item
from paybill_billing.providers.stripe.meters import StripeMeters
from paybill_billing.providers.stripe.previews import invoiced, later_phases, money, regular_amount, with_usage
from paybill_billing.providers.stripe.prices import StripePrices

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params import (
        InvoiceCreatePreviewParamsSubscriptionDetails,
        SubscriptionScheduleUpdateParams,
        SubscriptionScheduleUpdateParamsPhase,
        SubscriptionUpdateParams,
    )

PAGE = 100
_OVER = frozenset({"canceled", "incomplete_expired"})


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
            return await self._quote(await self._fetch(subscription, desired), desired, at)

    async def _quote(self, found: CurrentItems, desired: DesiredSubscription, at: datetime) -> Proration:
        if desired.kind is ChangeKind.PLAN and found.field("pause_collection"):
            raise ChangeRefusedError(
                "subscription_paused",
                "its collection is paused at Stripe: a dearer plan would be free; resume it first",
            )
        now, ends = _within(found, at), found.period[1]
        schedule = await self._schedule_of(found) if _drops_schedule(desired) else None
        due_now = money(found.data, 0)
        base = Proration(lines=(), due_now=due_now, next_amount=None, effective_at=now, dropped=later_phases(schedule))
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
                metered = {*found.metered, *after.added}
                regular = regular_amount(preview, metered)
                if desired.at_period_end:
                    return base.model_copy(update={"next_amount": regular, "effective_at": ends})
                if without_invoice(found, desired):
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
                return invoiced(base, invoice, regular, metered).model_copy(update={"unpaid": unpaid})
            case ChangeKind.CANCEL if desired.at_period_end:
                return base.model_copy(update={"effective_at": ends})
            case ChangeKind.CANCEL:
                last = await self._preview(found, {"cancel_now": True, "proration_behavior": "none"})
                last = await self._with_unreported(last, found, desired, [each["id"] for each in found.items])
                return invoiced(base, last, None, found.metered)
            case ChangeKind.REACTIVATE:
                if schedule is None:
                    preview = await self._preview(found, reactivation_details(found.data, found.item))
                else:
                    kept = DesiredItems(item_params(found.item))
                    preview = await self._preview_without(schedule, found, kept, desired)
                return base.model_copy(update={"next_amount": regular_amount(preview, found.metered)})
            case ChangeKind.PAUSE:
                return base
            case ChangeKind.RESUME if found.field("status") == "paused":
                return invoiced(base, await self._preview(found, {"resume_at": "now"}), None, found.metered)
            case ChangeKind.RESUME:
                preview = await self._preview(found, {})
                return base.model_copy(update={"next_amount": regular_amount(preview, found.metered)})
            case _:
                assert_never(desired.kind)

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Applies the change. `key` is the same at every attempt, and completed steps are skipped.

        Raises QuoteOutdatedError or ChangeRefusedError when the current subscription does not allow it as confirmed.
        """
        with stripe_errors():
            found = await self._fetch(subscription, desired)
            if found.field("status") in _OVER:
                if desired.kind is ChangeKind.CANCEL:
                    return
                raise ProviderRefusedError(f"{subscription} has ended")
            after = await self._items(found, desired)
            if is_done(found, after, desired, key):
                return
            if (refusal := await self._refusal(found, desired, at)) is not None:
                if await self._was_made(found, desired, key):
                    return
                raise refusal
            match desired.kind:
                case ChangeKind.PLAN if desired.at_period_end:
                    await self._schedule(found, after, desired, key)
                case ChangeKind.PLAN:
                    await self._release(found, key)
                    await self._change_now(found, after, desired, at, key)
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
                    await self._update(found, {"pause_collection": {"behavior": "void"}}, key)
                case ChangeKind.RESUME:
                    await self._resume(found, key)
                case _:
                    assert_never(desired.kind)

    async def _refusal(
        self, found: CurrentItems, desired: DesiredSubscription, at: datetime
    ) -> QuoteOutdatedError | ChangeRefusedError | None:
        """Returns why the change cannot be applied as it was confirmed; None when it still costs the same."""
        if desired.confirmed is None:
            return None
        try:
            current = await self._quote(found, desired, at)
        except ChangeRefusedError as error:
            return error
        return None if costs_as_confirmed(desired, desired.confirmed, current) else QuoteOutdatedError(current)

    async def _was_made(self, found: CurrentItems, desired: DesiredSubscription, key: str) -> bool:
        """Returns whether an earlier attempt made the change now, whose response was lost.

        It uses up the key, so that a late request of an earlier attempt changes nothing any more.
        """
        if desired.kind is not ChangeKind.PLAN or desired.at_period_end:
            return False
        try:
            await self._update(found, {"metadata": {CHANGE: ""}}, key)
        except stripe.IdempotencyError as error:
            if error.http_status != HTTPStatus.BAD_REQUEST:
                raise
            return is_made(await self._fetch(found.id, desired), key)
        return False

    async def _fetch(self, subscription: str, desired: DesiredSubscription) -> CurrentItems:
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
        return CurrentItems(found, items, plan_items[0] if plan_items else plan_item(found))

    async def _items(self, found: CurrentItems, desired: DesiredSubscription) -> DesiredItems:
        """Returns the plan's desired item and, for another plan, the prices of usage that come and go."""
        item = item_params(found.item)
        if desired.quantity is not None:
            item["quantity"] = desired.quantity
        if desired.plan is None or desired.price is None:
            return DesiredItems(item)
        item["price"] = await self._prices.id_of(desired.product, desired.plan, desired.price)
        metered = [await self._prices.id_of_metered(desired.product, desired.plan, each) for each in desired.metered]
        current = {
            each["price"]["id"]: each["id"]
            for each in found.items
            if each["id"] != item["id"] and self._prices.is_overage(each["price"], desired.pinned)
        }
        return DesiredItems(
            item,
            added=[price for price in metered if price not in current],
            removed=[id_ for price, id_ in current.items() if price not in metered],
        )

    async def _with_unreported(
        self, invoice: Json | None, found: CurrentItems, desired: DesiredSubscription, ended: Collection[str]
    ) -> Json | None:
        """Adds the usage of ended items that is reported before the change to the preview of its invoice."""
        for item in found.items if desired.unreported else ():
            if item["id"] in ended and is_metered(item["price"]):
                meter = await self._meters.of_price(item["price"]["id"])
                invoice = with_usage(invoice, found.data, item, desired.unreported.get(meter or "", 0))
        return invoice

    async def _preview(
        self, found: CurrentItems, details: "InvoiceCreatePreviewParamsSubscriptionDetails"
    ) -> Json | None:
        """Returns the preview of the invoice; None when there would be none."""
        return await self._preview_of(
            {"subscription": found.id, **({"subscription_details": details} if details else {})}
        )

    async def _preview_without(
        self, schedule: Json, found: CurrentItems, after: DesiredItems, desired: DesiredSubscription
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
        found: CurrentItems,
        after: DesiredItems,
        desired: DesiredSubscription,
        at: datetime,
        key: str,
    ) -> None:
        if not after.differs(found):
            return
        params: SubscriptionUpdateParams = {
            "items": list(after.all),
            "proration_behavior": "none",
            # It shows the change to a repetition, after an unknown outcome.
            "metadata": {CHANGE: key},
        }
        if not without_invoice(found, desired):
            params["proration_behavior"] = "always_invoice"
            params["proration_date"] = int(at.timestamp())
        if found.field("collection_method") != "send_invoice":
            # Otherwise Stripe keeps the unpaid change, and the whole subscription is past due.
            params["payment_behavior"] = "error_if_incomplete"
        await self._update(found, params, key)

    async def _schedule(
        self,
        found: CurrentItems,
        after: DesiredItems,
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

    async def _schedule_of(self, found: CurrentItems) -> Json | None:
        """Returns the schedule of the subscription."""
        if (id_ := id_of(found.field("schedule"))) is None:
            return None
        path = f"/v1/subscription_schedules/{quoted(id_, safe='')}"
        schedule: Json = (await self._client.raw_request_async("get", path)).data
        return schedule

    async def _release(self, found: CurrentItems, key: str) -> None:
        """Releases the schedule, which discards its changes."""
        if (schedule := id_of(found.field("schedule"))) is not None:
            await self._client.v1.subscription_schedules.release_async(
                schedule, None, {"idempotency_key": f"{key}/release"}
            )

    async def _resume(self, found: CurrentItems, key: str) -> None:
        """Resumes from both kinds of pause: of collection, and of a trial that ended without a payment method."""
        if found.field("pause_collection"):
            await self._update(found, {"pause_collection": ""}, key)
        if found.field("status") == "paused":
            await self._client.v1.subscriptions.resume_async(found.id, None, {"idempotency_key": f"{key}/resume"})

    async def _update(self, found: CurrentItems, params: "SubscriptionUpdateParams", key: str) -> None:
        await self._client.v1.subscriptions.update_async(found.id, params, {"idempotency_key": key})


def _drops_schedule(desired: DesiredSubscription) -> bool:
    if desired.kind is ChangeKind.CANCEL:
        return desired.at_period_end
    return desired.kind in {ChangeKind.PLAN, ChangeKind.REACTIVATE}


def _schedule_params(
    found: CurrentItems, after: DesiredItems, desired: DesiredSubscription, schedule: Json
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


def _within(found: CurrentItems, at: datetime) -> datetime:
    """Returns the nearest time in the current period: Stripe prorates only within it, and its clock may differ."""
    starts, ends = found.period
    return min(max(at.replace(microsecond=0), starts), ends)


def _interval(found: CurrentItems, desired: DesiredSubscription) -> str:
    if desired.price is not None:
        return desired.price.interval.value
    return str(found.item["price"]["recurring"]["interval"])
