"""`paybill webhook`: what billing providers sent, and what of it is not understood yet."""

import re
from typing import Annotated, Any, Literal

import typer

from paybill_cli.calls import PAGE, Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

WAITING = ("provider", "object", "tries", "due", "reason")
MESSAGES = ("received_at", "provider", "id", "type", "state", "object", "quarantine")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_OBJECT = re.compile(r"[A-Za-z0-9_\-.:]{1,200}(/[A-Za-z0-9_\-.:]{1,200})?")


def waiting(
    out: Output,
    stack: Stack,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="How many at most.")] = 50,
) -> None:
    """List what is still to be looked at there, the longest tried first.

    An object is a subscription, or `<kind>/<id>` of something else, such as a refund. It is looked at again by itself,
    later and later; nothing is lost meanwhile.

    Example: paybill webhook waiting
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/webhooks/waiting", {"limit": limit})
    out.rows("webhook.waiting", found, WAITING)
    if any(row["reason"] for row in found):
        out.say("next: mend the reason, then: paybill webhook retry OBJECT")


def retry(
    out: Output,
    stack: Stack,
    object_: Annotated[str, typer.Argument(help="As `paybill webhook waiting` lists it.", metavar="OBJECT")],
    provider: Annotated[str, typer.Option("--provider", help="Whose object it is.")] = "stripe",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
) -> None:
    """Have an object that waits looked at now.

    Example: paybill webhook retry sub_1Pgc6rB7WZ01zgkW
    """
    if _NAME.fullmatch(provider) is None:
        raise usage(f"{provider!r} is no provider", next="paybill webhook waiting")
    if _OBJECT.fullmatch(object_) is None or ".." in object_:
        raise usage(f"{object_!r} is no object", next="paybill webhook waiting")
    with Service(stack, "billing") as billing:
        if dry_run:
            out.record("webhook.found", _found(billing, provider, object_), WAITING)
            out.say("nothing was sent")
            return
        out.record("webhook.retried", billing.post(f"/v1/webhooks/waiting/{provider}/{object_}/retry"), WAITING)


def list_all(
    out: Output,
    stack: Stack,
    state: Annotated[
        Literal["waiting", "done", "quarantined"] | None,
        typer.Option("--state", help="Only what became this; quarantined: of another mode or account."),
    ] = None,
    object_: Annotated[str | None, typer.Option("--object", help="Only what is about this.", metavar="OBJECT")] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Only what this provider sent.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
) -> None:
    """List messages of the last 30 days, the last first.

    Example: paybill webhook list --state quarantined
    """
    query = {"state": state, "object": object_, "provider": provider}
    with Service(stack, "billing") as billing:
        found, more = billing.listed("/v1/webhooks", "messages", query, limit)
    out.rows("webhook.list", found, MESSAGES)
    if more:
        out.say(f"there are more than {limit}; see them with --limit")


def _found(billing: Service, provider: str, object_: str) -> dict[str, Any]:
    """What waits under this name."""
    rows: list[dict[str, Any]] = billing.get("/v1/webhooks/waiting", {"limit": PAGE})
    for row in rows:
        if (row["provider"], row["object"]) == (provider, object_):
            return row
    raise CliError(
        "not_waiting",
        f"{object_} of {provider} does not wait",
        next="paybill webhook waiting",
        exit_code=ExitCode.NOT_FOUND,
    )
