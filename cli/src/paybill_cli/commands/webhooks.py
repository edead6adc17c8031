"""`paybill webhook`: lists webhooks of billing providers, and retries objects whose sync is pending."""

import re
from typing import Annotated, Any, Literal

import typer

from paybill_cli import formatting
from paybill_cli.client.http import PAGE, Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import for_reading
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, DryRun, Limit, Reason
from paybill_cli.output import Output

WAITING = ("provider", "object", "tries", "due", "reason")
REFUSED = ("provider", "reason", "count", "last_at", "accepted_at", "source", "detail")
DISMISSED = ("provider", "customer", "count", "last_at", "reason")
MESSAGES = ("received_at", "provider", "id", "type", "state", "object", "quarantine")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_OBJECT = re.compile(r"[A-Za-z0-9_\-.:]{1,200}(/[A-Za-z0-9_\-.:]{1,200})?")


def waiting(
    out: Output,
    stack: Stack,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="Maximum number of rows.")] = 50,
) -> None:
    """List provider objects whose sync is pending, those with most attempts first.

    An object is a subscription, or `<kind>/<id>` of another kind, such as a refund. The sync is retried with growing
    delay; nothing is lost meanwhile.

    Example: paybill webhook waiting
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/webhooks/waiting", {"limit": limit})
    out.rows("webhook.waiting", for_reading(out, stack, found), WAITING)
    failing = next((row for row in found if row["reason"]), None)
    if failing is not None:
        out.info("a retry succeeds once the reason is corrected")
        out.info(f"next: paybill webhook retry {failing['object']} --provider {failing['provider']}")


def retry(
    out: Output,
    stack: Stack,
    object_: Annotated[str, typer.Argument(help="Object, as `paybill webhook waiting` lists it.", metavar="OBJECT")],
    provider: Annotated[str, typer.Option("--provider", help="Provider of the object.")] = "stripe",
    dry_run: DryRun = False,
) -> None:
    """Sync a pending object now.

    Example: paybill webhook retry sub_1Pgc6rB7WZ01zgkW
    """
    path = f"{_path(provider, object_)}/retry"
    with Service(stack, "billing") as billing:
        if dry_run:
            found = _pending(billing, provider, object_)
            would = f"fetch it from {provider} now and not at {formatting.readable(found['due'])}, as a first attempt"
            out.record("webhook.found", found | {"would": would}, (*WAITING, "would"))
            out.info(f"would {would}; nothing was changed")
            return
        out.record("webhook.retried", billing.post(path), WAITING)


def dismiss(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    object_: Annotated[str, typer.Argument(help="Object, as `paybill webhook waiting` lists it.", metavar="OBJECT")],
    reason: Reason,
    provider: Annotated[str, typer.Option("--provider", help="Provider of the object.")] = "stripe",
) -> None:
    """Dismiss the customer of a pending object: it is not ours.

    Its objects are not fetched any more. The dismissal ends when the customer becomes a tenant, for example by
    `paybill provider backfill`.

    Example: paybill webhook dismiss sub_1Pgc6rB7WZ01zgkW --reason "not ours"
    """
    path, body = f"{_path(provider, object_)}/dismiss", {"reason": reason}
    with Service(stack, "billing") as billing:
        if options.dry_run:
            preview(out, billing, path, body, options.idempotency_key)
            return
        out.confirm(f"Dismiss all objects of the customer of {object_}?", yes=options.yes)
        out.record("webhook.dismissed", post(out, billing, path, body, options.idempotency_key), DISMISSED)


def dismissed(
    out: Output,
    stack: Stack,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="Maximum number of rows.")] = 50,
) -> None:
    """List dismissed customers, with the number of their dismissed objects.

    Example: paybill webhook dismissed
    """
    with Service(stack, "billing") as billing:
        out.rows("webhook.dismissed", billing.get("/v1/webhooks/dismissed", {"limit": limit}), DISMISSED)


def list_all(
    out: Output,
    stack: Stack,
    state: Annotated[
        Literal["waiting", "done", "quarantined"] | None,
        typer.Option(
            "--state", help="Only webhooks with this state; quarantined: from another mode or account of the provider."
        ),
    ] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="Only webhooks about this object.", metavar="OBJECT")
    ] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Only webhooks from this provider.")] = None,
    limit: Limit = 100,
) -> None:
    """List webhooks of the last 30 days, the newest first.

    Example: paybill webhook list --state quarantined
    """
    query = {"state": state, "object": object_, "provider": provider}
    with Service(stack, "billing") as billing:
        found, more = billing.list_rows("/v1/webhooks", "messages", query, limit)
    out.rows("webhook.list", for_reading(out, stack, found), MESSAGES)
    if more:
        out.more(limit)


def refused(
    out: Output,
    stack: Stack,
    provider: Annotated[str | None, typer.Option("--provider", help="Only webhooks from this provider.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="Maximum number of rows.")] = 50,
) -> None:
    """List refused webhooks, counted by reason, the latest first.

    With a wrong signing secret every webhook is refused as bad_signature. Nothing of a refused webhook is stored; the
    redelivery poll and `paybill provider reconcile` fetch what it was about.

    Example: paybill webhook refused --provider stripe
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/webhooks/refused", {"provider": provider, "limit": limit})
    out.rows("webhook.refused", found, REFUSED)


def _path(provider: str, object_: str) -> str:
    if _NAME.fullmatch(provider) is None:
        raise usage(f"{provider!r} is not a provider", next="paybill webhook waiting")
    if _OBJECT.fullmatch(object_) is None or ".." in object_:
        raise usage(f"{object_!r} is not an object", next="paybill webhook waiting")
    return f"/v1/webhooks/waiting/{provider}/{object_}"


def _pending(billing: Service, provider: str, object_: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = billing.get("/v1/webhooks/waiting", {"limit": PAGE})
    for row in rows:
        if (row["provider"], row["object"]) == (provider, object_):
            return row
    raise CliError(
        "not_waiting",
        f"no sync of {object_} of {provider} is pending",
        next="paybill webhook waiting",
        exit_code=ExitCode.NOT_FOUND,
    )
