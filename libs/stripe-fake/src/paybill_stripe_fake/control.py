"""What Stripe has no API for: outcomes, time, and webhooks that misbehave."""

from paybill_stripe_fake import (
    collection,
    deliveries,
    disputes,
    health,
    payment_methods,
    refunds,
    renewals,
    webhook_endpoints,
)
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource


def set_payment(account: Account, params: Params, customer_id: str) -> Resource:
    """Decide how charges to a customer's cards end from now on."""
    params.required("outcome")
    return payment_methods.set_outcome(account, customer_id, params.choice("outcome", *payment_methods.OUTCOMES) or "")


def get_faults(account: Account, _params: Params) -> Resource:
    """How delivery misbehaves, and whether it is held back."""
    return {**deliveries.faults(account), "paused": deliveries.paused(account)}


def set_faults(account: Account, params: Params) -> Resource:
    """Let delivery misbehave."""
    deliveries.set_faults(account, params)
    return get_faults(account, params)


def pause(account: Account, params: Params) -> Resource:
    """Hold webhooks back."""
    deliveries.set_paused(account, paused=True)
    return get_faults(account, params)


def resume(account: Account, params: Params) -> Resource:
    """Let webhooks go out again."""
    deliveries.set_paused(account, paused=False)
    return get_faults(account, params)


def redeliver(account: Account, _params: Params, event_id: str) -> Resource:
    """Send an event once more."""
    event = account.store.find("v2.core.event", event_id) or account.get("event", event_id)
    return {"data": deliveries.redeliver(account, event)}


def get_requests(account: Account, _params: Params) -> Resource:
    """How often the API was called, and how often within one second."""
    return account.traffic.report()


def forget_requests(account: Account, _params: Params) -> Resource:
    """Count calls from nought."""
    account.traffic.forget()
    return account.traffic.report()


def get_limits(account: Account, _params: Params) -> Resource:
    """How many calls a second are let in."""
    return account.traffic.limits()


def set_limits(account: Account, params: Params) -> Resource:
    """Limit the calls that are let in."""
    return account.traffic.set_limits(params)


def get_api_faults(account: Account, _params: Params) -> Resource:
    """Which calls of the API fail."""
    return dict(account.traffic.faults)


def set_api_faults(account: Account, params: Params) -> Resource:
    """Let calls of the API fail or take long."""
    return account.traffic.set_faults(params)


def reset(account: Account, _params: Params) -> Resource:
    """Start with an empty account in real time; the endpoint of the command line stays."""
    static = account.store.find("webhook_endpoint", deliveries.STATIC_ID)
    account.store.clear()
    account.traffic.reset()
    if static is not None:
        account.put(static)
    return {}


ENDPOINTS = [
    ("POST", "/fake/customers/{id}/payment", set_payment),
    ("POST", "/fake/subscriptions/{id}/renew", renewals.renew),
    ("POST", "/fake/invoices/{id}/pay", collection.pay_as_told),
    ("POST", "/fake/charges/{id}/dispute", disputes.start_as_told),
    ("POST", "/fake/disputes/{id}/close", disputes.finish_as_told),
    ("POST", "/fake/refunds/{id}/fail", refunds.fail),
    ("GET", "/fake/clock", renewals.clock),
    ("POST", "/fake/clock/advance", renewals.advance),
    ("GET", "/fake/faults", get_faults),
    ("POST", "/fake/faults", set_faults),
    ("GET", "/fake/requests", get_requests),
    ("POST", "/fake/requests/forget", forget_requests),
    ("GET", "/fake/limits", get_limits),
    ("POST", "/fake/limits", set_limits),
    ("GET", "/fake/api-faults", get_api_faults),
    ("POST", "/fake/api-faults", set_api_faults),
    ("POST", "/fake/delivery/pause", pause),
    ("POST", "/fake/delivery/resume", resume),
    ("GET", "/fake/deliveries", deliveries.list_deliveries),
    ("POST", "/fake/events/{id}/redeliver", redeliver),
    ("POST", "/fake/alerts", health.alert_lost),
    ("POST", "/fake/webhook-endpoints/{id}/payload", webhook_endpoints.set_payload),
    ("POST", "/fake/reset", reset),
]
