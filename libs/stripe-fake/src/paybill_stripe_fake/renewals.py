"""Actions that fall due as time passes: periods end, payments are retried, unpaid sessions and subscriptions expire."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from paybill_stripe_fake import checkout, collection, invoices, periods, schedule_phases, subscriptions
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import RUNNING, change, period_of

_INCOMPLETE_S = 23 * 3600
_DAY_S = 86_400
_MAX_ADVANCE_S = 2 * 366 * _DAY_S


def catch_up(account: Account, to: int | None = None, only: Resource | None = None) -> None:
    """Runs all actions due until `to`, or until now, each at its own time, and sets the clock to the end.

    only: the one subscription to process; None for all.
    """
    until = account.now() if to is None else to
    while upcoming := min(_upcoming(account, only), key=lambda found: found[0], default=None):
        at, act, resource = upcoming
        if at > until:
            break
        account.set_clock(max(at, account.now()))
        act(account, resource)
    account.set_clock(until)


def next_due(account: Account) -> int | None:
    """Returns the time of the next action that falls due."""
    return min((at for at, _, _ in _upcoming(account, None)), default=None)


def advance(account: Account, params: Params) -> Resource:
    """Advances the clock by `seconds` or `days`, or to the Unix time `to`."""
    now = account.now()
    targets = [
        base + value * unit_s
        for key, base, unit_s in (("seconds", now, 1), ("days", now, _DAY_S), ("to", 0, 1))
        if (value := params.integer(key)) is not None
    ]
    if len(targets) != 1 or not now <= targets[0] <= now + _MAX_ADVANCE_S:
        raise InvalidRequestError(
            f"One of seconds, days and to is required; forward, and by at most {_MAX_ADVANCE_S // _DAY_S} days."
        )
    catch_up(account, targets[0])
    return clock(account, params)


def clock(account: Account, _params: Params) -> Resource:
    """Returns the account's time, and its offset from real time."""
    offset_s = (account.store.find("setting", "clock") or {"offset_s": 0})["offset_s"]
    return {"now": account.now(), "offset_s": offset_s}


def renew(account: Account, _params: Params, subscription_id: str) -> Resource:
    """Ends the current period of one subscription now; the clock and all other subscriptions stay unchanged."""
    subscription = account.get("subscription", subscription_id)
    if subscription["status"] not in RUNNING:
        raise InvalidRequestError(f"Subscription {subscription_id} is {subscription['status']} and does not renew.")
    if subscription["cancel_at_period_end"]:
        return periods.finish(account, subscription, "cancellation_requested")
    now = account.now()
    if subscription["status"] == "trialing":
        return periods.end_trial(account, subscription, now)
    return periods.roll(account, subscription, begin=now, anchor=now, reason="subscription_cycle")


_Due: TypeAlias = tuple[int, Callable[[Account, Resource], object], Resource]


def _upcoming(account: Account, only: Resource | None) -> Iterator[_Due]:
    # Schedules first: a renewal bills the items that a schedule sets at the end of the period.
    for schedule in account.store.oldest_first("subscription_schedule"):
        due_at = schedule_phases.due_at(account, schedule)
        if due_at is not None and (only is None or schedule["subscription"] == only["id"]):
            yield due_at, schedule_phases.act, schedule
    if only is not None:
        yield from _of_subscription(account, account.get("subscription", only["id"]))
        return
    for subscription in account.store.oldest_first("subscription"):
        yield from _of_subscription(account, subscription)
    for invoice in account.store.oldest_first("invoice"):
        if invoice["status"] == "open" and invoice["next_payment_attempt"]:
            yield invoice["next_payment_attempt"], collection.collect, invoice
        elif finalizes_at := collection.finalizes_at(invoice):
            yield finalizes_at, collection.finalize_and_collect, invoice
    for session in account.store.oldest_first("checkout.session"):
        if session["status"] == "open":
            yield session["expires_at"], checkout.expired, session


def _of_subscription(account: Account, subscription: Resource) -> Iterator[_Due]:
    status, cancel_at = subscription["status"], subscription["cancel_at"]
    if status in RUNNING:
        if warning_at := subscriptions.trial_warning_at(account, subscription):
            yield warning_at, subscriptions.warn_of_trial_end, subscription
        if (pause := subscription["pause_collection"]) and pause["resumes_at"]:
            yield pause["resumes_at"], _collect_again, subscription
        period_end = period_of(subscription)[1]
        ends = cancel_at and cancel_at <= period_end
        yield (cancel_at, _end, subscription) if ends else (period_end, _renew, subscription)
    elif status == "incomplete":
        yield subscription["created"] + _INCOMPLETE_S, _expire, subscription
    elif status == "paused" and cancel_at:
        yield cancel_at, _end, subscription


def _end(account: Account, subscription: Resource) -> None:
    periods.finish(account, subscription, "cancellation_requested")


def _renew(account: Account, subscription: Resource) -> None:
    begin, anchor = period_of(subscription)[1], subscription["billing_cycle_anchor"]
    if subscription["status"] == "trialing":
        periods.end_trial(account, subscription, begin)
    else:
        periods.roll(account, subscription, begin=begin, anchor=anchor, reason="subscription_cycle")


def _collect_again(account: Account, subscription: Resource) -> None:
    change(account, subscription, {"pause_collection": None})


def _expire(account: Account, subscription: Resource) -> None:
    """Expires a subscription whose first invoice was not paid in time."""
    change(account, subscription, {"status": "incomplete_expired", "ended_at": account.now()})
    invoices.void(account, account.get("invoice", subscription["latest_invoice"]))
