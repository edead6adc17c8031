"""`paybill subscription changes` and `discard`: what was asked of subscriptions, and giving one up."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli import words
from paybill_cli.asking import Again, Unsent, sent, show_unsent
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import usage
from paybill_cli.output import Output
from paybill_cli.subscriptions import found_by_name

COLUMNS = ("id", "subscription_id", "kind", "plan", "quantity", "when", "status", "refusal")

_CHANGE = re.compile(r"chg_[0-9a-f]{32}")


def changes(
    out: Output,
    stack: Stack,
    subscription: Annotated[
        str | None,
        typer.Argument(help="Only of this subscription, or this tenant's; of all if not given.", metavar="[NAME]"),
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only those that stand here, such as quoted.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
) -> None:
    """List changes of subscriptions, in the order of their ids.

    Example: paybill subscription changes acme --status quoted
    """
    with Service(stack, "billing") as billing:
        of = None if subscription is None else found_by_name(stack, billing, subscription)["subscription_id"]
        found, more = billing.listed("/v1/changes", "changes", {"subscription_id": of, "status": status}, limit)
    out.rows("change.list", found if out.json else [_in_words(one) for one in found], COLUMNS)
    if more:
        out.say(f"there are more than {limit}; see them with --limit")


def discard(
    out: Output,
    stack: Stack,
    change: Annotated[str, typer.Argument(help="The change's id, chg_….", metavar="CHANGE")],
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Give up a change that is not confirmed yet.

    Example: paybill subscription discard chg_0123456789abcdef0123456789abcdef
    """
    if not _CHANGE.fullmatch(change):
        raise usage(f"{change!r} is no id of a change", next="paybill subscription changes")
    path = f"/v1/changes/{change}/discard"
    if dry_run:
        show_unsent(out, "billing", path, {})
        return
    with Service(stack, "billing") as billing:
        found = sent(out, billing, path, None, idempotency_key)
    out.record("change", found if out.json else _in_words(found), COLUMNS)


def _in_words(change: Mapping[str, Any]) -> dict[str, Any]:
    wanted = change["wanted"]
    plan = wanted["plan"]
    return {
        **change,
        "kind": wanted["kind"],
        "plan": words.plan(plan) if plan is not None else None,
        "quantity": wanted["quantity"],
        "when": "period_end" if wanted["at_period_end"] else "now",
    }
