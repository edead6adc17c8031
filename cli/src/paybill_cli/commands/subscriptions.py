"""`paybill subscription`: shows subscriptions and changes them: quote, confirmation, result."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer

from paybill_cli import formatting
from paybill_cli.client.http import Service
from paybill_cli.client.next_steps import line_with, next_step
from paybill_cli.client.requests import earlier_result, idempotent
from paybill_cli.client.stack import Stack
from paybill_cli.client.subscriptions import find_subscription
from paybill_cli.client.tenants import with_tenant, with_tenants
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import (
    IdempotencyKey,
    Interval,
    Limit,
    OptionGroup,
    Reason,
    SubscriptionName,
    TargetPlan,
    Timeout,
    Yes,
)
from paybill_cli.output import Output, Progress

COLUMNS = ("subscription_id", "tenant", "plan", "quantity", "access", "period_end", "then")
FIELDS = (
    "subscription_id",
    "tenant",
    "provider",
    "provider_subscription",
    "plan",
    "quantity",
    "price",
    "interval",
    "access",
    "period_end",
    "paid_until",
    "grace_until",
    "then",
)

_PLAN = re.compile(r"([a-z][a-z0-9_-]{0,62})(?:@([1-9][0-9]{0,6}))?")

When = Annotated[
    Literal["now", "period_end"], typer.Option("--when", help="Now, or at the end of the period that is paid.")
]
DropScheduled = Annotated[
    bool, typer.Option("--drop-scheduled", help="Allow to drop the phases that are scheduled at the provider.")
]

Access = Literal["pending", "trialing", "active", "grace", "suspended", "paused", "ended"]


@dataclass(frozen=True)
class QuotedOptions(OptionGroup):
    """Options of a change that is quoted before it is confirmed."""

    yes: Yes = False
    timeout: Timeout = 60
    idempotency_key: IdempotencyKey = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the quote, and change nothing.")] = False


def list_all(
    out: Output,
    stack: Stack,
    access: Annotated[Access | None, typer.Option("--access", help="Only subscriptions with this access.")] = None,
    limit: Limit = 1000,
) -> None:
    """List subscriptions in the order of their ids.

    Example: paybill subscription list --access grace
    """
    with Service(stack, "billing") as billing:
        found, more = billing.list_rows("/v1/subscriptions", "subscriptions", {"access": access}, limit)
    rows = with_tenants(out, stack, found if out.json else [_row(one) for one in found])
    out.rows("subscription.list", rows, COLUMNS)
    if more:
        out.more(limit)


def show(out: Output, stack: Stack, subscription: SubscriptionName) -> None:
    """Show one subscription, as of the last sync with its provider.

    Example: paybill subscription show acme
    """
    with Service(stack, "billing") as billing:
        _show(out, stack, find_subscription(stack, billing, subscription))


def change(
    out: Output,
    stack: Stack,
    options: QuotedOptions,
    subscription: SubscriptionName,
    reason: Reason,
    plan: TargetPlan = None,
    quantity: Annotated[int | None, typer.Option("--quantity", help="Number of seats.")] = None,
    interval: Interval = None,
    when: When = "now",
    drop_scheduled: DropScheduled = False,
) -> None:
    """Change a subscription's plan, seats or interval.

    The quote comes first: the cost now and later, and the features that the tenant gets and loses.

    Example: paybill subscription change acme --plan pro --when period_end --reason "requested by the customer"
    """
    body: dict[str, Any] = {"kind": "plan", "quantity": quantity, "interval": interval, "when": when, "reason": reason}
    body |= {"drop_scheduled": True} if drop_scheduled else {}
    if plan is not None:
        match = _PLAN.fullmatch(plan)
        if match is None:
            raise usage(f"{plan!r} is not a plan such as pro or pro@2", next="paybill plans list")
        body |= {"plan": match[1], "version": int(match[2]) if match[2] else None}
    _Change(out, stack, options).execute(subscription, body)


def cancel(
    out: Output,
    stack: Stack,
    options: QuotedOptions,
    subscription: SubscriptionName,
    reason: Reason,
    when: When = "period_end",
    drop_scheduled: DropScheduled = False,
) -> None:
    """Cancel a subscription, now or at the end of the period that is paid.

    Until then `paybill subscription reactivate` withdraws it. Payments are not refunded.

    Example: paybill subscription cancel acme --reason "requested by the customer"
    """
    body = {"kind": "cancel", "when": when, "reason": reason} | ({"drop_scheduled": True} if drop_scheduled else {})
    _Change(out, stack, options).execute(subscription, body)


def reactivate(
    out: Output, stack: Stack, options: QuotedOptions, subscription: SubscriptionName, reason: Reason
) -> None:
    """Withdraw a scheduled cancellation or change.

    Example: paybill subscription reactivate acme --reason "the customer stays"
    """
    _Change(out, stack, options).execute(subscription, {"kind": "reactivate", "reason": reason})


def pause(out: Output, stack: Stack, options: QuotedOptions, subscription: SubscriptionName, reason: Reason) -> None:
    """Pause a subscription: no access and no payments until it is resumed.

    Example: paybill subscription pause acme --reason "closed for the winter"
    """
    _Change(out, stack, options).execute(subscription, {"kind": "pause", "reason": reason})


def resume(out: Output, stack: Stack, options: QuotedOptions, subscription: SubscriptionName, reason: Reason) -> None:
    """Resume a paused subscription.

    Example: paybill subscription resume acme --reason "open again"
    """
    _Change(out, stack, options).execute(subscription, {"kind": "resume", "reason": reason})


class _Change:
    """A change, from the request until the subscription has the new state."""

    def __init__(self, out: Output, stack: Stack, options: QuotedOptions) -> None:
        self._out = out
        self._stack = stack
        self._yes = options.yes
        self._dry_run = options.dry_run
        self._given_key = options.idempotency_key
        # The quote of a dry run is discarded: under the given key, the command itself would get the discarded change.
        self._key = str(uuid4()) if options.dry_run else self._given_key or str(uuid4())
        again = "paybill subscription changes" if options.dry_run else line_with("--idempotency-key", self._key)
        self._deadline = Deadline(options.timeout, next=again)

    def execute(self, name: str, body: Mapping[str, Any]) -> None:
        """Requests the change, prints the quote, confirms it, and waits for the new state."""
        with Service(self._stack, "billing") as billing:
            before = find_subscription(self._stack, billing, name)
            path = f"/v1/subscriptions/{before['subscription_id']}/changes"
            if self._dry_run and (earlier := earlier_result(self._out, billing, path, body, self._given_key)):
                change = billing.get(f"/v1/changes/{earlier['id']}")
                self._out.record("change", change if self._out.json else _summary(change))
                return
            requested = self._post(billing, path, body)
            try:
                with self._out.progress(f"quoting {requested['id']}") as progress:
                    change = self._wait_status(billing, requested, progress, "requested")
                self._decide(billing, change, before, body)
            except (KeyboardInterrupt, BrokenPipeError):
                with suppress(CliError):  # it may be over
                    self._discard(billing, requested)
                raise
            if self._dry_run:
                self._out.record("change", change if self._out.json else _summary(change))
                self._out.info("nothing was changed")
                return
            if change["status"] == "quoted":
                self._confirm(billing, change)
            with self._out.progress(f"executing {change['id']}") as progress:
                change = self._wait_status(billing, change, progress, "quoted", "confirmed")
                changed = self._wait_state(billing, before, change, progress)
            self._out.info(f"{change['id']} is {change['status']}")
        _show(self._out, self._stack, changed)

    def _decide(
        self, billing: Service, change: Mapping[str, Any], before: Mapping[str, Any], body: Mapping[str, Any]
    ) -> None:
        """Prints the quote and asks for the confirmation; discards a quote that is not, or cannot be, confirmed."""
        if change["quote"] is not None:
            # The change itself names the price of the plan by its index.
            desired = {**change["wanted"], "interval": body.get("interval")}
            _print_quote(self._out, before, change, _target(before, desired))
        if change["status"] != "quoted":
            return
        if why := change["drops_scheduled"]:
            self._discard(billing, change)
            raise CliError(code := "drops_scheduled_phases", why, next=next_step(code), exit_code=ExitCode.CONFLICT)
        try:
            if not self._dry_run:
                self._out.confirm(f"Change {change['subscription_id']} as quoted?", yes=self._yes)
        except CliError:
            self._discard(billing, change)
            raise
        if self._dry_run:
            self._discard(billing, change)

    def _confirm(self, billing: Service, change: Mapping[str, Any]) -> None:
        """Confirms the quote; discards it when that is refused, because it cannot be confirmed later either."""
        try:
            body = {"quote_hash": change["quote"]["quote_hash"]}
            self._post(billing, f"/v1/changes/{change['id']}/confirm", body, "confirm")
        except CliError as error:
            if error.exit_code is not ExitCode.UNREACHABLE:  # then it may be confirmed
                with suppress(CliError):  # it may be over
                    self._discard(billing, change)
            raise

    def _discard(self, billing: Service, change: Mapping[str, Any]) -> None:
        """Discards the quote, so that another change can start; without this it expires within an hour."""
        billing.post(f"/v1/changes/{change['id']}/discard", None, key=f"{self._key}/discard")

    def _post(self, billing: Service, path: str, body: Mapping[str, Any], step: str = "") -> dict[str, Any]:
        with idempotent(self._out, self._key) as key:
            response: dict[str, Any] = billing.post(path, body, key=f"{key}/{step}" if step else key)
        return response

    def _wait_status(
        self, billing: Service, change: Mapping[str, Any], progress: Progress, *pending: str
    ) -> dict[str, Any]:
        """Returns the change once its status is not `pending`. Raises CliError when it will not be executed."""
        while True:
            found: dict[str, Any] = billing.get(f"/v1/changes/{change['id']}")
            if found["status"] in {"refused", "expired", "discarded"}:
                raise CliError(
                    found["code"] or f"change_{found['status']}",
                    found["refusal"] or f"{found['id']} is {found['status']}",
                    next=next_step(found["code"] or "") or f"paybill subscription show {found['subscription_id']}",
                    exit_code=ExitCode.CONFLICT,
                )
            if found["status"] not in pending:
                return found
            self._pause(f"{found['id']} is {found['status']}", progress)

    def _wait_state(
        self, billing: Service, before: Mapping[str, Any], change: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]:
        while True:
            found: dict[str, Any] = billing.get(f"/v1/subscriptions/{before['subscription_id']}")
            if _has_state(found, change["wanted"]):
                return found
            self._pause(f"{change['id']} is executed; waiting for the sync with {before['provider']}", progress)

    def _pause(self, text: str, progress: Progress) -> None:
        progress.update(text)
        self._deadline.pause(text)


def _has_state(subscription: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Returns whether the subscription has the desired state, or has it scheduled."""
    match desired["kind"]:
        case "plan":
            now = subscription["plan"] | {"quantity": subscription["quantity"]}
            return _has_plan(now, desired) or (desired["at_period_end"] and _has_plan(subscription["pending"], desired))
        case "cancel":
            return subscription["access"] == "ended" or bool(desired["at_period_end"] and subscription["cancel_at"])
        case "reactivate":
            return subscription["cancel_at"] is None and subscription["pending"] is None
        case "pause":
            return bool(subscription["access"] == "paused")
        case _:
            return bool(subscription["access"] != "paused")


def _has_plan(state: Mapping[str, Any] | None, desired: Mapping[str, Any]) -> bool:
    if state is None:
        return False
    plan, quantity = desired["plan"], desired["quantity"]
    same_plan = plan is None or (state["plan"], state["version"]) == (plan["plan"], plan["version"])
    return same_plan and quantity in {None, state["quantity"]}


def _print_quote(out: Output, before: Mapping[str, Any], change: Mapping[str, Any], target: str) -> None:
    quote = change["quote"]
    proration = quote["proration"]
    out.info(f"{_terms(before, {})} -> {target}")
    for line in proration["lines"]:
        out.info(f"  {formatting.money(line['amount']):>14}  {line['text']}")
    out.info(f"  {formatting.money(proration['due_now']):>14}  due now")
    if proration["next_amount"] is not None:
        out.info(f"  {formatting.money(proration['next_amount']):>14}  on the next regular invoice")
    if (unpaid := proration["unpaid"]) is not None:
        out.info(
            f"  {formatting.money(unpaid['amount']):>14}  not credited, because it was not paid: {unpaid['reason']}"
        )
    if quote["overdue"] is not None:
        out.info(f"  {formatting.money(quote['overdue']):>14}  overdue already")
    for phase in proration["dropped"]:
        out.info(f"  drops what is scheduled for {formatting.time(phase['starts_at'])}: {phase['text']}")
    for text in formatting.plan_differences(quote):
        out.info(text)
    for price in quote["overage"]:
        beyond = f"{price['included']:,} included"
        out.info(f"  {price['feature']}: then {formatting.overage(price)} beyond {beyond}")
    if (pending := quote["environment"]) is not None:
        built = f"{pending['from_tier']} ({pending['from_placement']})"
        entitled = f"{pending['to_tier']} ({pending['to_placement']})"
        out.info(f"  {built} is built, and {entitled} is entitled since {formatting.time(pending['since'])}")
        out.info(f"  {pending['reason']}; it waits for {pending['waits_for']}")
    effective_at, valid_until = formatting.time(proration["effective_at"]), formatting.time(quote["valid_until"])
    out.info(f"  effective {effective_at}; the quote is valid until {valid_until}")


def _target(before: Mapping[str, Any], desired: Mapping[str, Any]) -> str:
    if desired["kind"] != "plan":
        return str(desired["kind"])
    return _terms(before, desired)


def _terms(before: Mapping[str, Any], desired: Mapping[str, Any]) -> str:
    """Returns plan, quantity and interval: those of `desired` that are set, otherwise those of `before`."""
    plan, quantity, interval = (desired.get(name) or before[name] for name in ("plan", "quantity", "interval"))
    return f"{formatting.plan(plan)}, quantity {quantity}, per {interval}"


def _summary(change: Mapping[str, Any]) -> dict[str, Any]:
    proration = change["quote"]["proration"] if change["quote"] is not None else None
    return {
        "change": change["id"],
        "status": change["status"],
        "subscription_id": change["subscription_id"],
        "due_now": proration and formatting.money(proration["due_now"]),
        "next_amount": proration and proration["next_amount"] and formatting.money(proration["next_amount"]),
        "effective_at": proration and proration["effective_at"],
    }


def _row(subscription: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields for people; `then` is the scheduled change or end."""
    pending, cancel_at = subscription["pending"], subscription["cancel_at"]
    then = None
    if cancel_at:
        then = f"ends at {formatting.time(cancel_at)}"
    elif pending:
        plan = formatting.plan(pending)
        then = f"{plan}, quantity {pending['quantity']} at {formatting.time(pending['at'])}"
    return {
        **subscription,
        "plan": formatting.plan(subscription["plan"]),
        "price": formatting.money(subscription["price"]),
        "then": then,
    }


def _show(out: Output, stack: Stack, subscription: Mapping[str, Any]) -> None:
    out.record("subscription", subscription if out.json else with_tenant(out, stack, _row(subscription)), FIELDS)
