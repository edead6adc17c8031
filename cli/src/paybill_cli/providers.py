"""`paybill provider`: which billing providers there are; compare what one holds with what we know."""

import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli.asking import Again, sent
from paybill_cli.calls import PAGE, Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("name", "default", "capabilities")
RUN_COLUMNS = ("id", "provider", "status", "repair", "looked", "drifted", "started_at")
DRIFT_COLUMNS = ("provider_object", "tenant_id", "kind", "repaired", "differs")

_POLL_S = 0.25

Name = Annotated[str, typer.Argument(help="The provider's name, such as stripe.", metavar="PROVIDER")]
Id = Annotated[str, typer.Argument(help="The reconciliation's id, rec_….", metavar="ID")]


def list_all(out: Output, stack: Stack) -> None:
    """List the billing providers of this installation, and what each can do.

    Example: paybill provider list
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/providers")
    words = [one | {"capabilities": ", ".join(one["capabilities"]) or None} for one in found]
    out.rows("provider.list", found if out.json else words, COLUMNS)


def reconcile(
    out: Output,
    stack: Stack,
    provider: Name = "stripe",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what differs, and repair nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start it, and do not wait; it goes on by itself.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait, then exit 8.")] = 3600,
    idempotency_key: Again = None,
) -> int:
    """Compare all subscriptions at a provider with ours, and repair what differs.

    It goes on in the service when this command is ended, and over restarts, too; exit 1 when something differed.

    Example: paybill provider reconcile stripe --dry-run
    """
    with Service(stack, "billing") as billing:
        run = sent(out, billing, f"{path_of(provider)}/reconciliations", {"repair": not dry_run}, idempotency_key)
        if not detach:
            run = _followed(out, billing, run, timeout)
            _show_drifts(out, billing, run["id"])
    if not out.json or detach:
        out.record("reconciliation", run, RUN_COLUMNS)
    return int(ExitCode.FAILED if run["drifted"] else ExitCode.OK)


def reconciliations(
    out: Output,
    stack: Stack,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="How many at most.")] = 20,
) -> None:
    """List reconciliations, the newest first.

    Example: paybill provider reconciliations
    """
    with Service(stack, "billing") as billing:
        out.rows("reconciliation.list", billing.get("/v1/reconciliations", {"limit": limit}), RUN_COLUMNS)


def stop(out: Output, stack: Stack, run: Id, idempotency_key: Again = None) -> None:
    """End a reconciliation where it is; what it has repaired stays.

    Example: paybill provider stop rec_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "billing") as billing:
        ended = sent(out, billing, f"/v1/reconciliations/{_name(run)}/stop", None, idempotency_key)
    out.record("reconciliation", ended, RUN_COLUMNS)


def drifts(
    out: Output,
    stack: Stack,
    run: Annotated[str | None, typer.Option("--run", help="Only what this reconciliation found.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's, by id.")] = None,
) -> None:
    """List where a provider and we differed, and whether it was repaired.

    Example: paybill provider drifts --tenant ten_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "billing") as billing:
        _show_drifts(out, billing, run, tenant)


def _show_drifts(out: Output, billing: Service, run: str | None, tenant: str | None = None) -> None:
    found = drifts_of(billing, run, tenant)
    out.rows(
        "drift.list", found if out.json else [drift | {"differs": _differs(drift)} for drift in found], DRIFT_COLUMNS
    )


def drifts_of(billing: Service, run: str | None, tenant: str | None = None) -> list[dict[str, Any]]:
    """All that a reconciliation found, or all of a tenant."""
    found, _ = billing.listed("/v1/drifts", "drifts", {"run": run, "tenant": tenant})
    return found


def compared(out: Output, billing: Service, provider: str, *, repair: bool, timeout_s: float) -> dict[str, Any]:
    """A reconciliation from its start to its end; one that runs already ends first."""
    deadline, key = time.monotonic() + timeout_s, str(uuid.uuid4())
    while True:
        left_s = max(deadline - time.monotonic(), 0.0)
        try:
            run = billing.post(f"{path_of(provider)}/reconciliations", {"repair": repair}, key=key)
        except CliError as error:
            if error.code != "reconciliation_runs":
                raise
            runs = billing.get("/v1/reconciliations", {"limit": PAGE})
            for other in runs:
                if (other["provider"], other["status"]) == (provider, "running"):
                    _followed(out, billing, other, left_s)
        else:
            return _followed(out, billing, run, left_s)


def _differs(drift: Mapping[str, Any]) -> str:
    """`field: ours -> theirs` for people."""
    return ", ".join(f"{d['field']}: {d['here'] or '-'} -> {d['there'] or '-'}" for d in drift["differences"]) or "-"


def _followed(out: Output, billing: Service, run: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    current = dict(run)
    with out.progress(f"comparing with {run['provider']} ({run['id']})") as progress:
        while current["status"] == "running":
            if time.monotonic() > deadline:
                raise CliError(
                    "still_running",
                    f"{run['id']} has compared {current['looked']} subscriptions",
                    why="the time to wait is over; nothing was stopped",
                    next="paybill provider reconciliations",
                    exit_code=ExitCode.TIMEOUT,
                )
            time.sleep(_POLL_S)
            current = billing.get(f"/v1/reconciliations/{run['id']}")
            progress.now(f"compared {current['looked']} subscriptions, {current['drifted']} differ")
    return current


def path_of(provider: str) -> str:
    """Where the provider is."""
    return f"/v1/providers/{_name(provider)}"


def _name(text: str) -> str:
    """A name that could lead elsewhere is none."""
    if not text.replace("_", "").replace("-", "").isalnum():
        raise usage(f"{text!r} is no name", next="paybill provider --help")
    return text
