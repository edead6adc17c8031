"""Status changes of a subscription, shared by all that cause them."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import ResourceMissingError
from paybill_stripe_fake.store import Resource

ENDED = frozenset({"canceled", "incomplete_expired"})
RUNNING = frozenset({"trialing", "active", "past_due", "unpaid"})


def existing_customer(account: Account, customer_id: str, param: str | None = None) -> Resource:
    """Returns the customer; a deleted one raises ResourceMissingError."""
    customer = account.get("customer", customer_id, param)
    if customer.get("deleted"):
        raise ResourceMissingError("customer", customer_id, param=param)
    return customer


def change(account: Account, subscription: Resource, changes: Resource) -> Resource:
    """Changes attributes and emits the event."""
    return events.change(account, subscription, changes, "customer.subscription.updated")


def pause(account: Account, subscription: Resource, why: str) -> Resource:
    """Pauses a subscription until it is resumed; no periods, no invoices. why: Stripe's word for the cause."""
    details = {
        "paused": {"subscription": {"type": why}, "transitioned_at": account.now(), "type": "subscription"},
    }
    current = account.get("subscription", subscription["id"])
    changes = {"status": "paused", "status_details": details, "trial_end": subscription["trial_end"]}
    paused = change(account, current, changes)
    events.emit(account, "customer.subscription.paused", paused)
    return paused


def reactivate(account: Account, subscription: Resource) -> Resource:
    """Sets a paused subscription to active."""
    running = change(account, subscription, {"status": "active", "status_details": None})
    events.emit(account, "customer.subscription.resumed", running)
    return running


def end(account: Account, subscription: Resource, reason: str | None) -> Resource:
    """Cancels now; open invoices stay open, but are no longer collected."""
    now = account.now()
    ended = {
        **subscription,
        "status": "canceled",
        "ended_at": now,
        "canceled_at": subscription["canceled_at"] or now,
        "cancellation_details": {**subscription["cancellation_details"], "reason": reason},
    }
    account.put(ended)
    events.emit(account, "customer.subscription.deleted", ended)
    if ended["schedule"]:
        _end_schedule(account, account.get("subscription_schedule", ended["schedule"]), reason)
    for invoice in account.store.oldest_first("invoice"):
        if subscription_of(invoice) == ended["id"] and invoice["status"] in {"draft", "open"}:
            events.change(account, invoice, {"auto_advance": False, "next_payment_attempt": None})
    return ended


def _end_schedule(account: Account, schedule: Resource, reason: str | None) -> None:
    """Ends the schedule of an ended subscription."""
    over = account.put({**schedule, "status": "canceled", "canceled_at": account.now(), "current_phase": None})
    aborted = reason == "payment_failed"
    events.emit(account, f"subscription_schedule.{'aborted' if aborted else 'canceled'}", over)


def subscription_of(invoice: Resource) -> str | None:
    """Returns the id of the subscription that an invoice is for, or None."""
    return str(invoice["parent"]["subscription_details"]["subscription"]) if invoice["parent"] else None


def period_of(subscription: Resource) -> tuple[int, int]:
    """Returns start and end of the current period, which all items share."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]
