"""`paybill provider`: lists billing providers, and compares the subscriptions of one with ours."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli.client.http import PAGE, Service
from paybill_cli.client.requests import post
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenants
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import Detach, IdempotencyKey, OnlyTenant, Timeout
from paybill_cli.output import Output

COLUMNS = ("name", "default", "capabilities")
RUN_COLUMNS = ("id", "provider", "status", "repair", "looked", "drifted", "started_at")
DRIFT_COLUMNS = ("provider_object", "tenant", "kind", "repaired", "differs")

Name = Annotated[str, typer.Argument(help="Name of the provider, such as stripe.", metavar="PROVIDER")]
Id = Annotated[str, typer.Argument(help="Id of the reconciliation, rec_….", metavar="ID")]


def list_all(out: Output, stack: Stack) -> None:
    """List the billing providers of this installation and their capabilities.

    Example: paybill provider list
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/providers")
    rows = [one | {"capabilities": ", ".join(one["capabilities"]) or None} for one in found]
    out.rows("provider.list", found if out.json else rows, COLUMNS)


def reconcile(
    out: Output,
    stack: Stack,
    provider: Name = "stripe",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report differences, and repair nothing.")] = False,
    detach: Detach = False,
    timeout: Timeout = 3600,
    idempotency_key: IdempotencyKey = None,
) -> int:
    """Compare a provider's subscriptions with Paybill's, and repair differences.

    The reconciliation continues in the service when this command ends or the service restarts. Exit code 1 when a
    difference was found that is not repaired.

    Example: paybill provider reconcile stripe --dry-run
    """
    with Service(stack, "billing") as billing:
        path = f"{provider_path(provider)}/reconciliations"
        run = post(out, billing, path, {"repair": not dry_run}, idempotency_key)
        left: list[dict[str, Any]] = []
        if not detach:
            run = _wait(out, billing, run, timeout)
            left = [drift for drift in _show_drifts(out, stack, billing, run["id"]) if not drift["repaired"]]
    if not out.json or detach:
        out.record("reconciliation", run, RUN_COLUMNS)
    return int(ExitCode.FAILED if left else ExitCode.OK)


def reconciliations(
    out: Output,
    stack: Stack,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="Maximum number of rows.")] = 20,
) -> None:
    """List reconciliations, the newest first.

    Example: paybill provider reconciliations
    """
    with Service(stack, "billing") as billing:
        out.rows("reconciliation.list", billing.get("/v1/reconciliations", {"limit": limit}), RUN_COLUMNS)


def stop(out: Output, stack: Stack, run: Id, idempotency_key: IdempotencyKey = None) -> None:
    """Stop a reconciliation; its repairs stay.

    Example: paybill provider stop rec_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "billing") as billing:
        stopped = post(out, billing, f"/v1/reconciliations/{_name(run)}/stop", None, idempotency_key)
    out.record("reconciliation", stopped, RUN_COLUMNS)


def drifts(
    out: Output,
    stack: Stack,
    run: Annotated[str | None, typer.Option("--run", help="Only differences that this reconciliation found.")] = None,
    tenant: OnlyTenant = None,
) -> None:
    """List differences between a provider and Paybill, and their repairs.

    Example: paybill provider drifts --tenant acme
    """
    id_ = tenant and tenant_id(stack, tenant)
    with Service(stack, "billing") as billing:
        _show_drifts(out, stack, billing, run, id_)


def _show_drifts(
    out: Output, stack: Stack, billing: Service, run: str | None, tenant: str | None = None
) -> list[dict[str, Any]]:
    found = drifts_of(billing, run, tenant)
    rows = found if out.json else [drift | {"differs": _differences(drift)} for drift in found]
    out.rows("drift.list", with_tenants(out, stack, rows), DRIFT_COLUMNS)
    return found


def drifts_of(billing: Service, run: str | None, tenant: str | None = None) -> list[dict[str, Any]]:
    """Returns the differences that a reconciliation found, or those of a tenant."""
    found, _ = billing.list_rows("/v1/drifts", "drifts", {"run": run, "tenant": tenant})
    return found


def completed_reconciliation(
    out: Output, billing: Service, provider: str, *, repair: bool, timeout_s: float
) -> dict[str, Any]:
    """Runs a reconciliation to its end; waits first for one that runs already."""
    deadline, key = Deadline(timeout_s), str(uuid.uuid4())
    while True:
        try:
            run = billing.post(f"{provider_path(provider)}/reconciliations", {"repair": repair}, key=key)
        except CliError as error:
            if error.code != "reconciliation_runs":
                raise
            runs = billing.get("/v1/reconciliations", {"limit": PAGE})
            for other in runs:
                if (other["provider"], other["status"]) == (provider, "running"):
                    _wait(out, billing, other, deadline.left_s)
        else:
            return _wait(out, billing, run, deadline.left_s)


def _differences(drift: Mapping[str, Any]) -> str:
    """Returns `field: ours -> theirs` for each field."""
    return ", ".join(f"{d['field']}: {d['here'] or '-'} -> {d['there'] or '-'}" for d in drift["differences"]) or "-"


def _wait(out: Output, billing: Service, run: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = Deadline(timeout_s, next="paybill provider reconciliations")
    current = dict(run)
    with out.progress(f"comparing with {run['provider']} ({run['id']})") as progress:
        while current["status"] == "running":
            deadline.pause(f"{run['id']} has compared {current['looked']} subscriptions")
            current = billing.get(f"/v1/reconciliations/{run['id']}")
            progress.update(f"compared {current['looked']} subscriptions, {current['drifted']} differ")
    return current


def provider_path(provider: str) -> str:
    """Returns the HTTP path of a provider."""
    return f"/v1/providers/{_name(provider)}"


def _name(text: str) -> str:
    """Refuses a name that could change the path."""
    if not text.replace("_", "").replace("-", "").isalnum():
        raise usage(f"{text!r} is not a valid name", next="paybill provider --help")
    return text
