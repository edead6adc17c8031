"""Phases of a subscription schedule: parsing them, and applying each when it begins."""

from paybill_stripe_fake import adjustments, collection, events, periods, prices, replaced_usage, subscriptions
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.billing_cycle import INTERVALS, LONGEST, period_end
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.prorations import BEHAVIOURS, Prorating
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_changes import change_items
from paybill_stripe_fake.subscription_state import change, period_of
from paybill_stripe_fake.terms import MAX_ITEMS, Terms, check_prices, new_item, read_price, read_quantity, rhythm

_MAX_PHASES = 10
_MAX_ITERATIONS = 100
_WARNING_S = 7 * 86_400
_LONGEST_S = 5 * 366 * 86_400


def read(account: Account, params: Params, customer: str, start: int | None) -> list[Resource] | None:
    """Returns `phases`, each starting at the end of the previous one; the first at `start` or its own `start_date`."""
    creating = start is not None
    passed = params.many("phases", most=_MAX_PHASES)
    if passed is None:
        return None
    phases: list[Resource] = []
    for phase in passed:
        begins = start if creating else _time(account, phase, "start_date") or start
        if begins is None or (phases and begins != start):
            raise InvalidRequestError(
                "The subscription schedule update is missing at least one phase with a `start_date` to anchor end "
                "dates to, or a phase does not begin where the one before it ends.",
                param=phase.name("start_date"),
            )
        phases.append(_read_phase(account, phase, customer, begins))
        start = phases[-1]["end_date"]
    if not phases:
        raise InvalidRequestError("A schedule needs at least one phase.", param="phases")
    return phases


def of_subscription(subscription: Resource) -> Resource:
    """Returns a phase with the subscription's current items, to the end of its period."""
    start, finish = period_of(subscription)
    items = [
        _item(item["price"]["id"], item.get("quantity"), item["metadata"], item["discounts"], item["tax_rates"])
        for item in subscription["items"]["data"]
    ]
    trial_end = subscription["trial_end"] if subscription["status"] == "trialing" else None
    kept = {
        "trial_end": trial_end,
        "discounts": adjustments.of_phase(subscription["discounts"]),
        "default_tax_rates": subscription["default_tax_rates"],
    }
    return _phase(items, subscription["currency"], (start, finish), "create_prorations", {}) | kept


def due_at(account: Account, schedule: Resource) -> int | None:
    """Returns the time of a schedule's next action, or None when it is over."""
    if schedule["status"] == "not_started":
        return int(schedule["phases"][0]["start_date"])
    if schedule["status"] != "active":
        return None
    end = int(schedule["current_phase"]["end_date"])
    warned = account.store.find("schedule_warning", schedule["id"])
    return max(schedule["created"], end - _WARNING_S) if _is_last(schedule) and not warned else end


def act(account: Account, schedule: Resource) -> None:
    """Runs the due action: begin, warn of the end, enter the next phase, or end."""
    now = account.now()
    if schedule["status"] == "not_started":
        begin(account, schedule)
    elif now < schedule["current_phase"]["end_date"]:
        account.store.put("schedule_warning", schedule["id"], {"id": schedule["id"]})
        events.emit(account, "subscription_schedule.expiring", schedule)
    elif _is_last(schedule):
        _complete(account, schedule)
    else:
        _enter(account, schedule, _later_phases(schedule)[0])


def begin(account: Account, schedule: Resource) -> Resource:
    """Starts the subscription of a schedule with its first phase."""
    phase = schedule["phases"][0]
    items = [(account.get("price", item["price"]), item.get("quantity"), item["metadata"]) for item in phase["items"]]
    trial_end = phase["trial_end"] if phase["trial_end"] and phase["trial_end"] > account.now() else None
    terms = Terms(
        customer=schedule["customer"],
        items=items,
        metadata=phase["metadata"],
        schedule=schedule["id"],
        trial_end=trial_end,
    )
    subscription, invoice = subscriptions.start(account, terms)
    if invoice["status"] == "open":
        # No checkout is involved: the subscription is active from the start, and past due if it is not paid.
        change(account, subscription, {"status": "active"})
        collection.collect(account, invoice)
    current = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    changes = {"status": "active", "current_phase": current, "subscription": subscription["id"]}
    return events.change(account, schedule, changes)


def put_in_force(account: Account, schedule: Resource, phase: Resource, prorating: Prorating) -> None:
    """Applies a phase to the subscription."""
    subscription = account.get("subscription", schedule["subscription"])
    after = _items_of(account, subscription, phase)
    changes: Resource = {
        "metadata": {**subscription["metadata"], **phase["metadata"]},
        "discounts": adjustments.discounts_of(phase),
        "default_tax_rates": phase["default_tax_rates"],
    }
    at_period_end = period_of(subscription)[1] <= account.now()
    if at_period_end:
        # The renewal that is due at this same time bills the new items; the old ones have no time left to credit.
        if subscription["status"] not in {"trialing", "paused"}:
            replaced_usage.bill(account, subscription, after, period_of(subscription))
        if rhythm(after[0]["price"]) != rhythm(subscription["items"]["data"][0]["price"]):
            changes["billing_cycle_anchor"] = account.now()
        items = {**subscription["items"], "data": after}
        change(account, subscription, {**changes, "items": items})
    else:
        subscription = change_items(account, subscription, after, prorating, changes=changes)
        _set_trial(account, subscription, phase["trial_end"])


def _set_trial(account: Account, subscription: Resource, until: int | None) -> None:
    """Sets the end of the trial from the phase, now if the phase has none; an ended trial does not start again."""
    if subscription["status"] != "trialing" or subscription["trial_end"] == until:
        return
    now = account.now()
    if until is None or until <= now:
        periods.end_trial(account, subscription, now)
    else:
        periods.change_trial_end(account, subscription, until)


def current_of(schedule: Resource) -> Resource | None:
    """Returns the current phase."""
    start = (schedule["current_phase"] or {}).get("start_date")
    return next((phase for phase in schedule["phases"] if phase["start_date"] == start), None)


def _enter(account: Account, schedule: Resource, phase: Resource) -> None:
    current = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    schedule = events.change(account, schedule, {"current_phase": current})
    put_in_force(account, schedule, phase, Prorating(phase["proration_behavior"], account.now()))


def _complete(account: Account, schedule: Resource) -> None:
    """Completes the schedule after its last phase: the subscription continues without it, or ends."""
    subscription = account.get("subscription", schedule["subscription"])
    over = {**schedule, "status": "completed", "completed_at": account.now(), "current_phase": None}
    account.put(over)
    events.emit(account, "subscription_schedule.completed", over)
    subscription = change(account, subscription, {"schedule": None})
    if schedule["end_behavior"] == "cancel":
        periods.finish(account, subscription, None)


def _later_phases(schedule: Resource) -> list[Resource]:
    end = schedule["current_phase"]["end_date"]
    return [phase for phase in schedule["phases"] if phase["start_date"] >= end]


def _is_last(schedule: Resource) -> bool:
    return not _later_phases(schedule)


def _items_of(account: Account, subscription: Resource, phase: Resource) -> list[Resource]:
    """Returns the phase's items; an item keeps its id if the subscription already has its price."""
    items_by_price = {item["price"]["id"]: item for item in subscription["items"]["data"]}
    after = []
    for phase_item in phase["items"]:
        price = account.get("price", phase_item["price"])
        item = items_by_price.get(price["id"]) or new_item(
            account,
            subscription["id"],
            price,
            phase_item.get("quantity"),
            phase_item["metadata"],
            period_of(subscription),
        )
        item |= {"discounts": adjustments.discounts_of(phase_item), "tax_rates": phase_item["tax_rates"]}
        after.append(item if prices.is_metered(price) else {**item, "quantity": phase_item["quantity"]})
    return after


def _read_phase(account: Account, params: Params, customer: str, start: int) -> Resource:
    items, priced = [], []
    for item in params.many("items", most=MAX_ITEMS) or []:
        price = read_price(account, item)
        priced.append(price)
        discounts, rates = (
            adjustments.read_discounts(account, item, customer) or [],
            adjustments.read_tax_rates(account, item) or [],
        )
        items.append(_item(price["id"], read_quantity(item, price), item.metadata(), discounts, rates))
    check_prices(account, priced, customer, params.name("items"))
    end = _end(account, params, start, priced[0])
    behaviour = params.choice("proration_behavior", *BEHAVIOURS) or "create_prorations"
    phase = _phase(items, priced[0]["currency"], (start, end), behaviour, params.metadata())
    trial, trial_end = params.flag("trial"), _time(account, params, "trial_end")
    if trial_end is not None and trial_end > end:
        raise InvalidRequestError("A trial must end no later than its phase.", param=params.name("trial_end"))
    return phase | {
        "trial_end": end if trial else trial_end,
        "discounts": adjustments.of_phase(adjustments.read_discounts(account, params, customer) or []),
        "default_tax_rates": adjustments.read_tax_rates(account, params, "default_tax_rates") or [],
    }


def _end(account: Account, params: Params, start: int, price: Resource) -> int:
    """Returns `end_date`, or the given number of intervals after the start; one period by default."""
    end = _time(account, params, "end_date")
    if end is not None and end <= start:
        raise InvalidRequestError("A phase must end after its start.", param=params.name("end_date"))
    duration, iterations = params.nested("duration"), params.integer("iterations", least=1, most=_MAX_ITERATIONS)
    if end is not None:
        return end
    interval, count = rhythm(price)
    if duration is not None:
        duration.required("interval")
        interval = duration.choice("interval", *INTERVALS) or ""
        count = duration.integer("interval_count", least=1, most=LONGEST[interval]) or 1
    return period_end(start, start, interval, count * (iterations or 1))


def _time(account: Account, params: Params, key: str) -> int | None:
    if params.has(key) and params.text(key) == "now":
        return account.now()
    return params.integer(key, most=account.now() + _LONGEST_S)


def _item(
    price: str, quantity: int | None, metadata: dict[str, str], discounts: list[str], tax_rates: list[Resource]
) -> Resource:
    licensed = {} if quantity is None else {"quantity": quantity}
    return {
        "billing_thresholds": None,
        "discounts": adjustments.of_phase(discounts),
        "metadata": metadata,
        "plan": price,
        "price": price,
        **licensed,
        "tax_rates": tax_rates,
    }


def _phase(
    items: list[Resource], currency: str, bounds: tuple[int, int], behaviour: str, metadata: dict[str, str]
) -> Resource:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": currency,
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "end_date": bounds[1],
        "invoice_settings": None,
        "items": items,
        "metadata": metadata,
        "on_behalf_of": None,
        "proration_behavior": behaviour,
        "start_date": bounds[0],
        "transfer_data": None,
        "trial_end": None,
    }
