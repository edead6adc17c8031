"""Previews of invoices: the change is simulated in a transaction that is rolled back."""

from dataclasses import replace

from paybill_stripe_fake import adjustments, periods, renewals, schedules, subscription_changes, subscriptions
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import ApiError, InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, period_of, subscription_of


class NoUpcomingInvoiceError(ApiError):
    """Raised when the subscription has no upcoming invoice."""

    status = 404

    def __init__(self, customer_id: str) -> None:
        super().__init__(f"No upcoming invoices for customer: {customer_id}", code="invoice_upcoming_none")


def create_preview(account: Account, params: Params) -> Resource:
    """Returns the next invoice of a subscription, optionally with changes; or the first one of a new subscription.

    The changes are those of the subscription or, when its schedule is named, those of the schedule.
    """
    params.choice("preview_mode", "next")
    named, customer, schedule = _named(account, params), params.text("customer"), params.text("schedule")
    changed = params.nested("subscription_details")
    modified = params.nested("schedule_details") if schedule else None
    if schedule and (changed is not None or params.has("subscription")):
        raise InvalidRequestError("You cannot use subscription fields together with schedule.", param="schedule")
    details = changed or Params({})
    if named is None and customer is None:
        raise InvalidRequestError(
            "One of customer and subscription is required.", code="parameter_missing", param="customer"
        )
    if named is not None and customer not in {None, named["customer"]}:
        raise InvalidRequestError(f"The subscription does not belong to customer {customer}.", param="customer")
    already = len(account.store.oldest_first("event"))
    with account.store.dry_run():
        if named is None:
            terms = subscriptions.read_terms(account, details, str(customer))
            discounts = adjustments.read_discounts(account, params, customer)
            subscriptions.start(account, terms if discounts is None else replace(terms, discounts=discounts))
        else:
            if schedule and modified is not None:
                schedules.modify(account, modified, account.get("subscription_schedule", schedule), {})
            _simulate(account, details, account.get("subscription", named["id"]))
        drafted = [
            event["data"]["object"]
            for event in account.store.oldest_first("event")[already:]
            if event["type"] == "invoice.created"
            and (named is None or subscription_of(event["data"]["object"]) == named["id"])
        ]
    if not drafted:
        raise NoUpcomingInvoiceError(named["customer"] if named else str(customer))
    return _as_preview(drafted[0], existing=named is not None)


def _named(account: Account, params: Params) -> Resource | None:
    if schedule := params.text("schedule"):
        subscription = account.get("subscription_schedule", schedule, "schedule")["subscription"]
    else:
        subscription = params.text("subscription")
    return account.get("subscription", subscription, "subscription") if subscription else None


def _simulate(account: Account, details: Params, subscription: Resource) -> None:
    """Applies the change, and advances the clock until the subscription is billed."""
    latest = subscription["latest_invoice"]
    if subscription["status"] in ENDED:
        return
    if details.flag("cancel_now"):
        prorating = details.choice("proration_behavior", "create_prorations", "always_invoice", "none")
        periods.finish(account, subscription, "cancellation_requested", prorate=prorating != "none")
        return
    subscription = subscription_changes.apply(account, details, subscription)
    if subscription["latest_invoice"] == latest and subscription["status"] not in ENDED | {"paused", "incomplete"}:
        renewals.catch_up(account, max(account.now(), period_of(subscription)[1]), only=subscription)


def _as_preview(invoice: Resource, *, existing: bool) -> Resource:
    identifier = new_id("upcoming_in")
    lines = [{**line, "id": f"il_tmp_{line['id'][3:]}", "invoice": identifier} for line in invoice["lines"]["data"]]
    parent = invoice["parent"]
    if not existing:
        # The new subscription exists only in the dry run.
        parent = {**parent, "subscription_details": {**parent["subscription_details"], "subscription": ""}}
    return {
        **invoice,
        "id": identifier,
        "lines": {**invoice["lines"], "data": lines, "url": f"/v1/invoices/{identifier}/lines"},
        "parent": parent,
        "next_payment_attempt": invoice["created"],
    }


ENDPOINTS = [("POST", "/v1/invoices/create_preview", create_preview)]
