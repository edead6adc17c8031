"""Billing periods: starting the next one, billing pending items at once, ending a trial or a subscription."""

from paybill_stripe_fake import collection, invoice_items, prices, prorations
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.billing_cycle import period_end
from paybill_stripe_fake.payment_methods import card_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import change, end, pause, period_of


def roll(account: Account, subscription: Resource, *, begin: int, anchor: int, reason: str) -> Resource:
    """Starts a new period, bills for it and collects."""
    past, trial = period_of(subscription), subscription["status"] == "trialing"
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    finish = period_end(anchor, begin, recurring["interval"], recurring["interval_count"])
    changes: Resource = {
        "items": within(subscription, begin, finish),
        "billing_cycle_anchor": anchor,
        "latest_invoice": new_id("in"),
    }
    if trial:
        changes |= {"status": "active", "trial_end": begin}
        for item in subscription["items"]["data"]:
            # Usage on trial is free.
            account.store.put("usage_billed", item["id"], {"until": begin})
    if subscription["cancel_at_period_end"]:
        changes["cancel_at"] = finish
    subscription = change(account, subscription, changes)
    collection.bill(account, subscription, reason, (past[0], min(past[1], begin)))
    return account.get("subscription", subscription["id"])


def within(subscription: Resource, start: int, finish: int) -> Resource:
    """Returns the subscription's items with this as their current period."""
    items = subscription["items"]
    data = [{**item, "current_period_start": start, "current_period_end": finish} for item in items["data"]]
    return {**items, "data": data}


def bill_now(
    account: Account, subscription: Resource, reason: str = "subscription_update", *, used: bool = False
) -> Resource:
    """Bills the subscription's pending items on a separate invoice, if there are any.

    used: bills the usage of the current period so far, too.
    """
    metered = used and any(prices.is_metered(item["price"]) for item in subscription["items"]["data"])
    if metered or invoice_items.pending_for(account, subscription["customer"], subscription["id"]):
        subscription = change(account, subscription, {"latest_invoice": new_id("in")})
        past = (period_of(subscription)[0], account.now())
        collection.bill(account, subscription, reason, past, recurring=False, used=used)
    return account.get("subscription", subscription["id"])


def finish(
    account: Account, subscription: Resource, reason: str | None, *, prorate: bool = False, invoice_now: bool = True
) -> Resource:
    """Ends the subscription.

    prorate: credits the unused paid time of the period.
    invoice_now: bills pending items on a last invoice; otherwise its prorations are deleted.
    """
    if prorate and subscription["status"] not in {"trialing", "paused"}:
        prorations.charge(account, subscription, [], account.now())
    if invoice_now:
        subscription = bill_now(account, subscription, "subscription_cycle", used=True)
    elif not prorate:
        invoice_items.remove_prorations(account, subscription["id"])
    return end(account, account.get("subscription", subscription["id"]), reason)


def change_trial_end(account: Account, subscription: Resource, until: int) -> Resource:
    """Changes the end of the trial, and with it the end of the current period."""
    items = within(subscription, period_of(subscription)[0], until)
    return change(account, subscription, {"trial_end": until, "billing_cycle_anchor": until, "items": items})


def end_trial(account: Account, subscription: Resource, at: int) -> Resource:
    """Starts the first paid period, unless there is no card and the trial settings pause or cancel then."""
    behaviour = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if behaviour == "create_invoice" or card_of(account, subscription["customer"], subscription):
        return roll(account, subscription, begin=at, anchor=at, reason="subscription_cycle")
    subscription = {**subscription, "trial_end": at}
    if behaviour == "cancel":
        return end(account, subscription, None)
    return pause(account, subscription, "trial_end_without_payment_method")
