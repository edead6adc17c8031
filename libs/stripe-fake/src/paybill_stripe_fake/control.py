"""Control routes without a counterpart in Stripe's API: payment outcomes, clock, and delivery faults."""

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

_LONGEST_DELAY_S = 72 * 3600


def set_payment(account: Account, params: Params, customer_id: str) -> Resource:
    """Sets the outcome of future charges to a customer's cards."""
    params.required("outcome")
    return payment_methods.set_outcome(account, customer_id, params.choice("outcome", *payment_methods.OUTCOMES) or "")


def get_faults(account: Account, _params: Params) -> Resource:
    """Returns the delivery faults, and whether delivery is paused."""
    return {**deliveries.faults(account), "paused": deliveries.paused(account)}


def set_faults(account: Account, params: Params) -> Resource:
    """Sets the delivery faults."""
    deliveries.set_faults(account, params)
    return get_faults(account, params)


def pause(account: Account, params: Params) -> Resource:
    """Pauses webhook delivery."""
    deliveries.set_paused(account, paused=True)
    return get_faults(account, params)


def resume(account: Account, params: Params) -> Resource:
    """Resumes webhook delivery."""
    deliveries.set_paused(account, paused=False)
    return get_faults(account, params)


def redeliver(account: Account, _params: Params, event_id: str) -> Resource:
    """Sends an event once more."""
    event = account.store.find("v2.core.event", event_id) or account.get("event", event_id)
    return {"data": deliveries.redeliver(account, event)}


def get_requests(account: Account, _params: Params) -> Resource:
    """Returns counts and peak rates of API calls."""
    return account.traffic.report()


def set_finalization(account: Account, params: Params) -> Resource:
    """Sets the time from the end of a period to the finalisation of its invoice."""
    params.required("after_s")
    delay = {"after_s": params.integer("after_s", most=_LONGEST_DELAY_S)}
    account.store.put("setting", "finalization", delay)
    return delay


def reset_requests(account: Account, _params: Params) -> Resource:
    """Resets the counts of API calls."""
    account.traffic.reset_counts()
    return account.traffic.report()


def get_limits(account: Account, _params: Params) -> Resource:
    """Returns the rate limits."""
    return account.traffic.limits()


def set_limits(account: Account, params: Params) -> Resource:
    """Sets the rate limits."""
    return account.traffic.set_limits(params)


def get_api_faults(account: Account, _params: Params) -> Resource:
    """Returns the faults of API calls."""
    return dict(account.traffic.faults)


def set_api_faults(account: Account, params: Params) -> Resource:
    """Sets failures and delays of API calls."""
    return account.traffic.set_faults(params)


def reset(account: Account, _params: Params) -> Resource:
    """Resets to an empty account in real time; the endpoint of the command line stays."""
    static = account.store.find("webhook_endpoint", deliveries.STATIC_ID)
    account.store.clear()
    account.traffic.reset()
    if static is not None:
        account.put(static)
    return {}


ENDPOINTS = [
    ("POST", "/fake/customers/{id}/payment", set_payment),
    ("POST", "/fake/subscriptions/{id}/renew", renewals.renew),
    ("POST", "/fake/finalization", set_finalization),
    ("POST", "/fake/invoices/{id}/pay", collection.pay_with_outcome),
    ("POST", "/fake/charges/{id}/dispute", disputes.dispute_payment),
    ("POST", "/fake/disputes/{id}/close", disputes.close_with_outcome),
    ("POST", "/fake/refunds/{id}/fail", refunds.fail),
    ("GET", "/fake/clock", renewals.clock),
    ("POST", "/fake/clock/advance", renewals.advance),
    ("GET", "/fake/faults", get_faults),
    ("POST", "/fake/faults", set_faults),
    ("GET", "/fake/requests", get_requests),
    ("POST", "/fake/requests/forget", reset_requests),
    ("GET", "/fake/limits", get_limits),
    ("POST", "/fake/limits", set_limits),
    ("GET", "/fake/api-faults", get_api_faults),
    ("POST", "/fake/api-faults", set_api_faults),
    ("POST", "/fake/delivery/pause", pause),
    ("POST", "/fake/delivery/resume", resume),
    ("GET", "/fake/deliveries", deliveries.list_deliveries),
    ("POST", "/fake/events/{id}/redeliver", redeliver),
    ("POST", "/fake/alerts", health.report_generation_failure),
    ("POST", "/fake/webhook-endpoints/{id}/payload", webhook_endpoints.set_payload),
    ("POST", "/fake/reset", reset),
]
