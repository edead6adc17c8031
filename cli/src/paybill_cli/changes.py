"""`paybill subscription changes` and `discard`: what was asked of subscriptions, and giving one up."""

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import usage
from paybill_cli.output import Output
from paybill_cli.subscriptions import Again, found_by_name

COLUMNS = ("id", "subscription_id", "kind", "plan", "quantity", "when", "status", "refusal")

_CHANGE = re.compile(r"chg_[0-9a-f]{32}")
_PAGE = 200


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
    found: list[dict[str, Any]] = []
    after: str | None = None
    with Service(stack, "billing") as billing:
        of = None if subscription is None else found_by_name(stack, billing, subscription)["subscription_id"]
        while len(found) < limit:
            query = {"subscription_id": of, "status": status, "after": after, "limit": min(limit - len(found), _PAGE)}
            page = billing.get("/v1/changes", query)
            found += page["changes"]
            after = page["next"]
            if after is None:
                break
    out.rows("change.list", found if out.json else [_in_words(one) for one in found], COLUMNS)
    if after is not None:
        out.say(f"there are more than {limit}; see them with --limit")


def discard(
    out: Output,
    stack: Stack,
    change: Annotated[str, typer.Argument(help="The change's id, chg_….", metavar="CHANGE")],
    idempotency_key: Again = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked for, and ask for nothing.")] = (
        False
    ),
) -> None:
    """Give up a change that is not confirmed yet.

    Example: paybill subscription discard chg_0123456789abcdef0123456789abcdef
    """
    if not _CHANGE.fullmatch(change):
        raise usage(f"{change!r} is no id of a change", next="paybill subscription changes")
    path = f"/v1/changes/{change}/discard"
    if dry_run:
        out.record("request", {"service": "billing", "method": "POST", "path": path, "body": {}})
        out.say("nothing was sent")
        return
    with Service(stack, "billing") as billing:
        found = billing.post(path, None, key=idempotency_key or str(uuid.uuid4()))
    out.record("change", found if out.json else _in_words(found), COLUMNS)


def _in_words(change: Mapping[str, Any]) -> dict[str, Any]:
    wanted = change["wanted"]
    plan = wanted["plan"]
    return {
        **change,
        "kind": wanted["kind"],
        "plan": f"{plan['plan']}@{plan['version']}" if plan is not None else None,
        "quantity": wanted["quantity"],
        "when": "period_end" if wanted["at_period_end"] else "now",
    }
