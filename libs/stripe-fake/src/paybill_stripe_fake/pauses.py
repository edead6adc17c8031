"""Pauses: of collection, while the subscription continues; or of the subscription itself, until it is resumed."""

from paybill_stripe_fake import periods, prorations
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.billing_cycle import current_period
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import RUNNING, change, reactivate
from paybill_stripe_fake.subscription_state import pause as pause_now

_UNUSED = ("now", "item_current_period_start", "none")


def read_pause_collection(account: Account, params: Params) -> Resource | None:
    """Returns `pause_collection`, or None if it is empty."""
    settings = params.nested("pause_collection")
    if settings is None:
        return None
    settings.required("behavior")
    return {
        "behavior": settings.choice("behavior", "keep_as_draft", "mark_uncollectible", "void"),
        "resumes_at": settings.integer("resumes_at", least=account.now() + 1),
    }


def pause(account: Account, params: Params, subscription_id: str) -> Resource:
    """Pauses a subscription; the unused time is credited by default."""
    subscription = account.get("subscription", subscription_id)
    if subscription["status"] not in RUNNING:
        raise InvalidRequestError(f"A subscription that is {subscription['status']} cannot be paused.")
    params.choice("type", "subscription")
    invoicing = params.choice("invoicing_behavior", "invoice", "pending_invoice_item") or "pending_invoice_item"
    bill_for = params.nested("bill_for") or Params({})
    unused = bill_for.nested("unused_time_from")
    since = (unused.choice("type", *_UNUSED) if unused else None) or "now"
    if since != "none" and subscription["status"] != "trialing":
        item = subscription["items"]["data"][0]
        at = account.now() if since == "now" else item["current_period_start"]
        prorations.charge(account, subscription, [], at)
    usage = bill_for.nested("outstanding_usage_through")
    used = (usage.choice("type", "now", "none") if usage else None) != "none"
    if invoicing == "invoice":
        subscription = periods.bill_now(account, subscription, used=used)
    return pause_now(account, subscription, "pause_requested")


def resume(account: Account, params: Params, subscription_id: str) -> Resource:
    """Resumes a paused subscription, in a new period or in the current one."""
    subscription = account.get("subscription", subscription_id)
    if subscription["status"] != "paused":
        raise InvalidRequestError(f"Only a paused subscription can be resumed; this one is {subscription['status']}.")
    settings = params.nested("billing_cycle_anchor")
    unchanged = settings is not None and settings.choice("type", "now", "unchanged") == "unchanged"
    on_attempt = params.choice("payment_behavior", "resume_on_payment_attempt", "resume_on_payment_success")
    prorating = prorations.read(account, params, subscription)
    if on_attempt != "resume_on_payment_success":
        subscription = reactivate(account, subscription)
    now = account.now()
    if not unchanged:
        return periods.roll(account, subscription, begin=now, anchor=now, reason="subscription_update")
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    start, finish = current_period(
        subscription["billing_cycle_anchor"], now, recurring["interval"], recurring["interval_count"]
    )
    items = periods.within(subscription, start, finish)
    subscription = change(account, subscription, {"items": items})
    if prorating.behaviour != "none":
        nothing = {**subscription, "items": {**items, "data": []}}
        prorations.charge(account, nothing, items["data"], now, period=(start, finish))
    if prorating.behaviour == "always_invoice":
        subscription = periods.bill_now(account, subscription)
    return account.get("subscription", subscription["id"])


ENDPOINTS = [
    ("POST", "/v1/subscriptions/{id}/pause", pause),
    ("POST", "/v1/subscriptions/{id}/resume", resume),
]
