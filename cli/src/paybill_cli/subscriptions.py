"""`paybill subscription`: look at subscriptions, and change them: quoted first, then confirmed, then followed."""

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer

from paybill_cli import words
from paybill_cli.asking import Again, Reason, Yes, once
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, Progress
from paybill_cli.tenants import id_of

COLUMNS = ("subscription_id", "tenant_id", "plan", "quantity", "access", "period_end", "then")
FIELDS = (
    "subscription_id",
    "tenant_id",
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

_SUBSCRIPTION = re.compile(r"sub_[0-9a-f]{32}")
_PLAN = re.compile(r"([a-z][a-z0-9_-]{0,62})(?:@([1-9][0-9]{0,6}))?")
_POLL_S = 0.25

When = Literal["now", "period_end"]
Name = Annotated[
    str, typer.Argument(help="The subscription's id, or the slug or id of its tenant.", metavar="SUBSCRIPTION")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Have it quoted, and change nothing.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait, then exit 8.")]


def list_all(
    out: Output,
    stack: Stack,
    access: Annotated[str | None, typer.Option("--access", help="Only those that give this, such as grace.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
) -> None:
    """List subscriptions in the order of their ids.

    Example: paybill subscription list --access grace
    """
    with Service(stack, "billing") as billing:
        found, more = billing.listed("/v1/subscriptions", "subscriptions", {"access": access}, limit)
    out.rows("subscription.list", found if out.json else [_in_words(one) for one in found], COLUMNS)
    if more:
        out.say(f"there are more than {limit}; see them with --limit")


def show(out: Output, stack: Stack, subscription: Name) -> None:
    """Show one subscription, as its provider showed it last.

    Example: paybill subscription show acme
    """
    with Service(stack, "billing") as billing:
        _show(out, found_by_name(stack, billing, subscription))


def change(
    out: Output,
    stack: Stack,
    subscription: Name,
    reason: Reason,
    plan: Annotated[str | None, typer.Option("--plan", help="Such as pro, or pro@2 for that version.")] = None,
    quantity: Annotated[int | None, typer.Option("--quantity", help="How many seats.")] = None,
    interval: Annotated[Literal["month", "year"] | None, typer.Option("--interval", help="How it is paid.")] = None,
    when: Annotated[When, typer.Option("--when", help="Now, or when what is paid for is over.")] = "now",
    yes: Yes = False,
    timeout: Timeout = 60,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Change a subscription's plan, seats or interval.

    It is quoted first: what it costs now and then, and what the tenant gets and loses.

    Example: paybill subscription change acme --plan pro --when period_end --reason "asked by the customer"
    """
    body: dict[str, Any] = {"kind": "plan", "quantity": quantity, "interval": interval, "when": when, "reason": reason}
    if plan is not None:
        match = _PLAN.fullmatch(plan)
        if match is None:
            raise usage(f"{plan!r} is no plan", next="name it like pro or pro@2; see: paybill plans list")
        body |= {"plan": match[1], "version": int(match[2]) if match[2] else None}
    _Change(out, stack, timeout, yes=yes, dry_run=dry_run, key=idempotency_key).carry_out(subscription, body)


def cancel(
    out: Output,
    stack: Stack,
    subscription: Name,
    reason: Reason,
    when: Annotated[When, typer.Option("--when", help="Now, or when what is paid for is over.")] = "period_end",
    yes: Yes = False,
    timeout: Timeout = 60,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Cancel a subscription, now or when what is paid for is over.

    Until then it can be taken back with `paybill subscription reactivate`; what was paid is not given back.

    Example: paybill subscription cancel acme --reason "asked by the customer"
    """
    body = {"kind": "cancel", "when": when, "reason": reason}
    _Change(out, stack, timeout, yes=yes, dry_run=dry_run, key=idempotency_key).carry_out(subscription, body)


def reactivate(
    out: Output,
    stack: Stack,
    subscription: Name,
    reason: Reason,
    yes: Yes = False,
    timeout: Timeout = 60,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Take back what waits for the end of the period: a cancellation, or a change.

    Example: paybill subscription reactivate acme --reason "stays after all"
    """
    body = {"kind": "reactivate", "reason": reason}
    _Change(out, stack, timeout, yes=yes, dry_run=dry_run, key=idempotency_key).carry_out(subscription, body)


def pause(
    out: Output,
    stack: Stack,
    subscription: Name,
    reason: Reason,
    yes: Yes = False,
    timeout: Timeout = 60,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Pause a subscription: no access and nothing collected until it is resumed.

    Example: paybill subscription pause acme --reason "closed for the winter"
    """
    body = {"kind": "pause", "reason": reason}
    _Change(out, stack, timeout, yes=yes, dry_run=dry_run, key=idempotency_key).carry_out(subscription, body)


def resume(
    out: Output,
    stack: Stack,
    subscription: Name,
    reason: Reason,
    yes: Yes = False,
    timeout: Timeout = 60,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Resume a subscription that is paused.

    Example: paybill subscription resume acme --reason "open again"
    """
    body = {"kind": "resume", "reason": reason}
    _Change(out, stack, timeout, yes=yes, dry_run=dry_run, key=idempotency_key).carry_out(subscription, body)


class _Change:
    """A change from the request to the subscription that shows it."""

    def __init__(
        self, out: Output, stack: Stack, timeout_s: float, *, yes: bool, dry_run: bool, key: str | None
    ) -> None:
        self._out = out
        self._stack = stack
        self._deadline = time.monotonic() + timeout_s
        self._yes = yes
        self._dry_run = dry_run
        self._key = key or str(uuid4())

    def carry_out(self, name: str, body: Mapping[str, Any]) -> None:
        """Ask, show the quote, confirm it, wait until the subscription shows it."""
        with Service(self._stack, "billing") as billing:
            before = found_by_name(self._stack, billing, name)
            asked = self._post(billing, f"/v1/subscriptions/{before['subscription_id']}/changes", body)
            with self._out.progress(f"{asked['id']} is being quoted") as progress:
                change = self._until(billing, asked, progress, "requested")
            if change["quote"] is not None:
                _say_quote(self._out, before, change)
            if self._dry_run:
                self._give_up(billing, change)
                self._out.record("change", change if self._out.json else _summary(change))
                self._out.say("nothing was changed")
                return
            if change["status"] == "quoted":
                self._confirm(billing, change)
            with self._out.progress(f"{change['id']} is being made") as progress:
                self._until(billing, change, progress, "quoted", "confirmed")
                shown = self._until_shown(billing, before, change, progress)
        _show(self._out, shown)

    def _confirm(self, billing: Service, change: Mapping[str, Any]) -> None:
        try:
            self._out.confirm(f"Change {change['subscription_id']} so?", yes=self._yes)
        except CliError:
            self._give_up(billing, change)
            raise
        path = f"/v1/changes/{change['id']}/confirm"
        self._post(billing, path, {"quote_hash": change["quote"]["quote_hash"]}, "confirm")

    def _give_up(self, billing: Service, change: Mapping[str, Any]) -> None:
        """Make room for another change. That is a courtesy: by itself it is over within the hour."""
        if change["status"] == "quoted":
            billing.post(f"/v1/changes/{change['id']}/discard", None, key=f"{self._key}/discard")

    def _post(self, billing: Service, path: str, body: Mapping[str, Any], step: str = "") -> dict[str, Any]:
        with once(self._out, self._key) as key:
            answer: dict[str, Any] = billing.post(path, body, key=f"{key}/{step}" if step else key)
        return answer

    def _until(self, billing: Service, change: Mapping[str, Any], progress: Progress, *underway: str) -> dict[str, Any]:
        """The change, once it stands otherwise; one that will not be made is an error."""
        while True:
            found: dict[str, Any] = billing.get(f"/v1/changes/{change['id']}")
            if found["status"] in {"refused", "expired", "discarded"}:
                raise CliError(
                    found["code"] or f"change_{found['status']}",
                    found["refusal"] or f"{found['id']} is {found['status']}",
                    next=f"paybill subscription show {found['subscription_id']}",
                    exit_code=ExitCode.CONFLICT,
                )
            if found["status"] not in underway:
                return found
            self._wait(f"{found['id']} is {found['status']}", progress)

    def _until_shown(
        self, billing: Service, before: Mapping[str, Any], change: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]:
        while True:
            found: dict[str, Any] = billing.get(f"/v1/subscriptions/{before['subscription_id']}")
            if _shows(found, change["wanted"]):
                return found
            self._wait(f"{change['id']} is made; waiting until {before['provider']} shows it", progress)

    def _wait(self, text: str, progress: Progress) -> None:
        if time.monotonic() > self._deadline:
            raise CliError(
                "still_running",
                text,
                why="the time to wait is over; nothing was stopped",
                next=f"the same command with --idempotency-key {self._key}",
                exit_code=ExitCode.TIMEOUT,
            )
        progress.now(text)
        time.sleep(_POLL_S)


def _shows(subscription: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the subscription is what was wanted, or will be by itself."""
    match wanted["kind"]:
        case "plan":
            now = subscription["plan"] | {"quantity": subscription["quantity"]}
            return _is(now, wanted) or (wanted["at_period_end"] and _is(subscription["pending"], wanted))
        case "cancel":
            return subscription["access"] == "ended" or bool(wanted["at_period_end"] and subscription["cancel_at"])
        case "reactivate":
            return subscription["cancel_at"] is None and subscription["pending"] is None
        case "pause":
            return bool(subscription["access"] == "paused")
        case _:
            return bool(subscription["access"] != "paused")


def _is(standing: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    if standing is None:
        return False
    plan, quantity = wanted["plan"], wanted["quantity"]
    same_plan = plan is None or (standing["plan"], standing["version"]) == (plan["plan"], plan["version"])
    return same_plan and quantity in {None, standing["quantity"]}


def found_by_name(stack: Stack, billing: Service, name: str) -> dict[str, Any]:
    """The subscription that is named by its id, or by its tenant."""
    if _SUBSCRIPTION.fullmatch(name):
        found: dict[str, Any] = billing.get(f"/v1/subscriptions/{name}")
        return found
    account = billing.get(f"/v1/tenants/{id_of(stack, name)}/account")
    going = [one for one in account["subscriptions"] if one["access"] != "ended"] or account["subscriptions"]
    if len(going) != 1:
        ids = ", ".join(one["subscription_id"] for one in going)
        raise CliError(
            "several_subscriptions" if going else "no_subscription",
            f"{name} has several subscriptions: {ids}" if going else f"{name} has not subscribed to anything yet",
            next="name the one that you mean by its id" if going else f"paybill tenant show {name}",
            exit_code=ExitCode.USAGE if going else ExitCode.NOT_FOUND,
        )
    one: dict[str, Any] = going[0]
    return one


def _say_quote(out: Output, before: Mapping[str, Any], change: Mapping[str, Any]) -> None:
    """What a change costs and gives, in words."""
    quote, wanted = change["quote"], change["wanted"]
    proration = quote["proration"]
    out.say(f"{words.plan(before['plan'])}, quantity {before['quantity']} -> {_wanted_words(before, wanted)}")
    for line in proration["lines"]:
        out.say(f"  {words.money(line['amount']):>14}  {line['text']}")
    out.say(f"  {words.money(proration['due_now']):>14}  due now")
    if proration["next_amount"] is not None:
        out.say(f"  {words.money(proration['next_amount']):>14}  then, each period")
    words.say_differences(out, quote)
    out.say(f"  from {proration['effective_at']} on; the quote is valid until {quote['valid_until']}")


def _wanted_words(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if wanted["kind"] != "plan":
        return str(wanted["kind"])
    quantity = wanted["quantity"] or before["quantity"]
    return f"{words.plan(wanted['plan'] or before['plan'])}, quantity {quantity}"


def _summary(change: Mapping[str, Any]) -> dict[str, Any]:
    proration = change["quote"]["proration"] if change["quote"] is not None else None
    return {
        "change": change["id"],
        "subscription_id": change["subscription_id"],
        "due_now": proration and words.money(proration["due_now"]),
        "next_amount": proration and proration["next_amount"] and words.money(proration["next_amount"]),
        "effective_at": proration and proration["effective_at"],
    }


def _in_words(subscription: Mapping[str, Any]) -> dict[str, Any]:
    """For people: what it is and what becomes of it."""
    pending, cancel_at = subscription["pending"], subscription["cancel_at"]
    then = f"{words.plan(pending)}, quantity {pending['quantity']} at {pending['at']}" if pending else None
    return {
        **subscription,
        "plan": words.plan(subscription["plan"]),
        "price": words.money(subscription["price"]),
        "then": f"ends at {cancel_at}" if cancel_at else then,
    }


def _show(out: Output, subscription: Mapping[str, Any]) -> None:
    out.record("subscription", subscription if out.json else _in_words(subscription), FIELDS)
