"""`paybill subscription changes` and `discard`: lists requested changes, and discards one."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import completion, formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.subscriptions import find_subscription
from paybill_cli.errors import usage
from paybill_cli.options import Limit, RequestOptions
from paybill_cli.output import Output

COLUMNS = ("id", "subscription_id", "kind", "plan", "quantity", "when", "status", "refusal")

_CHANGE = re.compile(r"chg_[0-9a-f]{32}")
Status = Literal["requested", "quoted", "confirmed", "applied", "refused", "expired", "discarded"]


def changes(
    out: Output,
    stack: Stack,
    subscription: Annotated[
        str | None,
        typer.Argument(
            help="Subscription or tenant whose changes are listed; by default all.",
            metavar="NAME",
            autocompletion=completion.tenants,
        ),
    ] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only changes with this status.")] = None,
    limit: Limit = 1000,
) -> None:
    """List changes of subscriptions, in the order of their ids.

    Example: paybill subscription changes acme --status quoted
    """
    with Service(stack, "billing") as billing:
        id_ = None if subscription is None else find_subscription(stack, billing, subscription)["subscription_id"]
        query = {"subscription_id": id_, "status": status}
        found, more = billing.list_rows("/v1/changes", "changes", query, limit)
    out.rows("change.list", found if out.json else [_row(one) for one in found], COLUMNS)
    if more:
        out.more(limit)


def discard(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    change: Annotated[str, typer.Argument(help="Id of the change, chg_….", metavar="CHANGE")],
) -> None:
    """Discard a change that is not confirmed yet.

    Example: paybill subscription discard chg_0123456789abcdef0123456789abcdef
    """
    if not _CHANGE.fullmatch(change):
        raise usage(f"{change!r} is not an id of a change", next="paybill subscription changes")
    path = f"/v1/changes/{change}/discard"
    with Service(stack, "billing") as billing:
        if options.dry_run:
            preview(out, billing, path, None, options.idempotency_key)
            return
        found = post(out, billing, path, None, options.idempotency_key)
    out.record("change", found if out.json else _row(found), COLUMNS)


def _row(change: Mapping[str, Any]) -> dict[str, Any]:
    desired = change["wanted"]
    plan = desired["plan"]
    return {
        **change,
        "kind": desired["kind"],
        "plan": formatting.plan(plan) if plan is not None else None,
        "quantity": desired["quantity"],
        "when": "period_end" if desired["at_period_end"] else "now",
    }
