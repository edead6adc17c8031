"""Subscription schedules: planned changes of a subscription."""

from paybill_stripe_fake import events, periods, schedule_phases
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.prorations import BEHAVIOURS, Prorating
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, change, existing_customer

_LONGEST_S = 5 * 366 * 86_400
_OPEN = frozenset({"not_started", "active"})


def create(account: Account, params: Params) -> Resource:
    """Creates a schedule for an existing subscription, or for one that begins later."""
    existing = params.text("from_subscription")
    return _from_subscription(account, params, existing) if existing else _from_phases(account, params)


def retrieve(account: Account, _params: Params, schedule_id: str) -> Resource:
    """Returns one schedule."""
    return account.get("subscription_schedule", schedule_id)


def list_schedules(account: Account, params: Params) -> Resource:
    """Lists schedules, newest first."""
    customer, scheduled, created = params.text("customer"), params.flag("scheduled"), params.within("created")

    def matches(schedule: Resource) -> bool:
        return (
            customer in {None, schedule["customer"]}
            and scheduled in {None, schedule["status"] == "not_started"}
            and created(schedule["created"])
        )

    return page(account, params, "subscription_schedule", matches, "/v1/subscription_schedules")


def update(account: Account, params: Params, schedule_id: str) -> Resource:
    """Changes phases or the end behaviour; changes of the current phase apply at once."""
    schedule = _open(account, schedule_id)
    return modify(account, params, schedule, {"metadata": params.metadata(schedule["metadata"])})


def modify(account: Account, params: Params, schedule: Resource, changes: Resource) -> Resource:
    """Applies the parameters that an update and a preview share."""
    prorating = Prorating(params.choice("proration_behavior", *BEHAVIOURS) or "create_prorations", account.now())
    if params.has("end_behavior"):
        changes["end_behavior"] = params.choice("end_behavior", "cancel", "release")
    phases = schedule_phases.read(account, params, schedule["customer"], None)
    if phases is None:
        return events.change(account, schedule, changes)
    before = schedule_phases.current_of(schedule)
    if before is not None and phases[0]["start_date"] != before["start_date"]:
        raise InvalidRequestError(
            "You can not modify the start date of the current phase.", param="phases[0][start_date]"
        )
    changes["phases"] = phases
    if before is None:
        return events.change(account, schedule, changes)
    current = phases[0]
    changes["current_phase"] = {"start_date": current["start_date"], "end_date": current["end_date"]}
    account.store.delete("schedule_warning", schedule["id"])
    schedule = events.change(account, schedule, changes)
    if any(before[key] != current[key] for key in ("items", "trial_end", "discounts", "default_tax_rates")):
        schedule_phases.put_in_force(account, schedule, current, prorating)
    return account.get("subscription_schedule", schedule["id"])


def release(account: Account, params: Params, schedule_id: str) -> Resource:
    """Releases the subscription, which continues unchanged without the schedule."""
    schedule = _open(account, schedule_id)
    params.flag("preserve_cancel_date")
    released = {
        **schedule,
        "status": "released",
        "released_at": account.now(),
        "released_subscription": schedule["subscription"],
        "subscription": None,
        "current_phase": None,
    }
    account.put(released)
    events.emit(account, "subscription_schedule.released", released)
    if schedule["subscription"]:
        change(account, account.get("subscription", schedule["subscription"]), {"schedule": None})
    return released


def cancel(account: Account, params: Params, schedule_id: str) -> Resource:
    """Ends schedule and subscription now."""
    schedule = _open(account, schedule_id)
    invoice_now, prorate = params.flag("invoice_now"), params.flag("prorate")
    if schedule["subscription"]:
        subscription = account.get("subscription", schedule["subscription"])
        periods.finish(
            account,
            subscription,
            "cancellation_requested",
            prorate=prorate is not False,
            invoice_now=invoice_now is not False,
        )
        return account.get("subscription_schedule", schedule_id)
    return cancel_before_start(account, schedule)


def cancel_before_start(account: Account, schedule: Resource) -> Resource:
    """Ends a schedule that never began."""
    cancelled = account.put({**schedule, "status": "canceled", "canceled_at": account.now()})
    # Both events, as in the recipe of Stripe's command line.
    events.emit(account, "subscription_schedule.canceled", cancelled)
    events.emit(account, "subscription_schedule.aborted", cancelled)
    return cancelled


def _from_subscription(account: Account, params: Params, subscription_id: str) -> Resource:
    subscription = account.get("subscription", subscription_id, "from_subscription")
    if subscription["status"] in ENDED or subscription["schedule"]:
        raise InvalidRequestError(
            f"You cannot migrate a subscription that is {subscription['status']} or already attached to a schedule: "
            f"{subscription['schedule']}.",
            param="from_subscription",
        )
    phase = schedule_phases.of_subscription(subscription)
    current = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    schedule = _new(account, subscription["customer"], [phase], params.metadata(), "release") | {
        "current_phase": current,
        "status": "active",
        "subscription": subscription_id,
    }
    events.create(account, schedule)
    change(account, subscription, {"schedule": schedule["id"]})
    return schedule


def _from_phases(account: Account, params: Params) -> Resource:
    customer = existing_customer(account, params.required("customer"), "customer")
    now = account.now()
    named = params.text("start_date")
    start = now if named in {None, "now"} else params.integer("start_date", least=now, most=now + _LONGEST_S)
    phases = schedule_phases.read(account, params, customer["id"], start)
    if phases is None:
        raise InvalidRequestError("Missing required param: phases.", code="parameter_missing", param="phases")
    end_behaviour = params.choice("end_behavior", "cancel", "release") or "release"
    schedule = events.create(account, _new(account, customer["id"], phases, params.metadata(), end_behaviour))
    return schedule_phases.begin(account, schedule) if phases[0]["start_date"] <= now else schedule


def _open(account: Account, schedule_id: str) -> Resource:
    schedule = account.get("subscription_schedule", schedule_id)
    if schedule["status"] not in _OPEN:
        raise InvalidRequestError(
            f"This action is not possible for a schedule that is {schedule['status']}; only to one that is "
            f"{' or '.join(sorted(_OPEN))}."
        )
    return schedule


def _new(
    account: Account, customer: str, phases: list[Resource], metadata: dict[str, str], end_behaviour: str
) -> Resource:
    return {
        "id": new_id("sub_sched"),
        "object": "subscription_schedule",
        "application": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "canceled_at": None,
        "completed_at": None,
        "created": account.now(),
        "current_phase": None,
        "customer": customer,
        "customer_account": None,
        "default_settings": {
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {
                "account_tax_ids": None,
                "custom_fields": None,
                "days_until_due": None,
                "description": None,
                "footer": None,
                "issuer": {"type": "self"},
            },
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": end_behaviour,
        "livemode": False,
        "metadata": metadata,
        "pause_schedules": [],
        "phases": phases,
        "released_at": None,
        "released_subscription": None,
        "status": "not_started",
        "subscription": None,
        "test_clock": None,
    }


ENDPOINTS = [
    ("POST", "/v1/subscription_schedules", create),
    ("GET", "/v1/subscription_schedules", list_schedules),
    ("GET", "/v1/subscription_schedules/{id}", retrieve),
    ("POST", "/v1/subscription_schedules/{id}", update),
    ("POST", "/v1/subscription_schedules/{id}/cancel", cancel),
    ("POST", "/v1/subscription_schedules/{id}/release", release),
]
