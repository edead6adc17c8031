"""`paybill usage`: shows usage of tenants, and proves that the log, the tables and the provider agree."""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.client.waiting import POLL_S
from paybill_cli.commands.usage_proof import TYPES, Ledger, Window, next_step, windows_of
from paybill_cli.errors import CliError
from paybill_cli.errors import usage as usage_error
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, Limit, OnlyTenant, RequestOptions, TenantName
from paybill_cli.output import Output, Progress

if TYPE_CHECKING:
    from nats.aio.client import Client

METERS = ("meter", "value", "included", "quota", "remaining", "window_end", "total")
WINDOWS = ("id", "aggregation", "value", "records", "status", "closes_at", "reported", "unbilled", "failure")
DIFFERENCES = ("where", "meaning", "expected", "found")
_REPORT_EVERY = 5000
_COMPARISONS = 8
_WINDOW_ID = re.compile(r"([a-z0-9_-]{1,64}):([a-z][a-z0-9_-]{0,62}:[0-9T-]{13})")

Since = Annotated[
    str | None, typer.Option("--since", help="Only windows that start at this time or later, such as 2026-03-01.")
]
Until = Annotated[str | None, typer.Option("--until", help="Only windows that start before this time.")]


def show(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Show a tenant's current usage and its limits.

    Example: paybill usage show acme
    """
    id_ = tenant_id(stack, tenant)
    with Service(stack, "billing") as billing:
        found = billing.get(f"/v1/tenants/{id_}/usage")
    now = datetime.now(UTC)
    for meter in found["meters"]:
        current = (w["end"] for w in meter["windows"] if _parsed(w["start"]) <= now < _parsed(w["end"]))
        meter["window_end"] = next(current, None)
    out.rows("usage.meters", found["meters"], METERS)
    if not found["allows_access"]:
        out.info(f"{tenant} has no access now: it cannot consume usage")


def windows(
    out: Output,
    stack: Stack,
    tenant: OnlyTenant = None,
    status: Annotated[
        Literal["open", "unbilled", "due", "reported", "failed"] | None,
        typer.Option("--status", help="Only windows with this status."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 1000,
) -> None:
    """List open and closed windows of usage.

    `due`: usage is being reported to the provider. `failed`: the provider refused usage; report it again with
    `paybill usage report`. `unbilled`: not reported, because no provider bills it or the last invoice was final.

    Example: paybill usage windows --status failed
    """
    query = {"tenant_id": tenant and tenant_id(stack, tenant), "since": _iso(since), "until": _iso(until)}
    start, end = _time(since), _time(until)
    rows: list[dict[str, Any]] = []
    more = False
    with Service(stack, "billing") as billing:
        if status in {None, "open"}:
            meters, _ = billing.list_rows("/v1/usage/meters", "meters", {"tenant_id": query["tenant_id"]})
            for meter in meters:
                rows += [
                    window | {"id": f"{meter['id']}:{window['start'][:13]}", "status": "open"}
                    for window in meter["windows"]
                    if (start is None or _parsed(window["start"]) >= start)
                    and (end is None or _parsed(window["start"]) < end)
                ]
        if status != "open":
            closed, more = billing.list_rows("/v1/usage/windows", "windows", query | {"status": status}, limit)
            # A window that is still open is listed above, unless its report has a status of interest.
            rows += [row for row in closed if row["closed"] or status is not None]
    rows.sort(key=lambda row: row["id"])
    out.rows("usage.windows", for_reading(out, stack, rows[:limit]), WINDOWS)
    if more or len(rows) > limit:
        out.more(limit)


def consume(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    meter: Annotated[str, typer.Argument(help="Meter of the tenant's plan.", metavar="METER")],
    quantity: Annotated[int, typer.Option("--quantity", min=1, help="Quantity to consume.")] = 1,
    of: Annotated[
        str | None, typer.Option("--of", help="Object to count, for a meter that counts distinct objects.")
    ] = None,
) -> None:
    """Count usage if the plan allows it; exit code 6 when it does not.

    Example: paybill usage consume acme calls --quantity 5
    """
    body = {"meter": meter, "quantity": quantity} | ({"of": of} if of is not None else {})
    path = f"/v1/tenants/{tenant_id(stack, tenant)}/usage/consume"
    with Service(stack, "billing") as billing:
        if options.dry_run:
            decision = preview(out, billing, path, body, options.idempotency_key)
        else:
            decision = post(out, billing, path, body, options.idempotency_key)
            out.record("usage.consumed", decision)
    if decision is not None and not decision["allowed"]:
        raise CliError(
            str(decision["refusal"]),
            f"{tenant} may not use {quantity} more of {meter} now; nothing was counted",
            next=f"paybill usage show {tenant}",
            exit_code=ExitCode.CONFLICT,
        )


def report(
    out: Output,
    stack: Stack,
    window: Annotated[
        str, typer.Argument(help="Id of the window, as `paybill usage windows` lists it.", metavar="WINDOW")
    ],
    dry_run: DryRun = False,
) -> None:
    """Report a window's value to the provider again.

    For a value that the provider refused. Reporting is idempotent.

    Example: paybill usage report acme:calls:2026-03-01T00
    """
    path = f"{_window_path(_window_id(stack, window))}/report"
    with Service(stack, "billing") as billing:
        if dry_run:
            preview(out, billing, path, None)
            return
        out.record("usage.window", for_reading(out, stack, billing.post(path, key=str(uuid.uuid4()))))


async def prove(
    out: Output,
    stack: Stack,
    tenant: OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    provider: Annotated[
        bool, typer.Option("--provider/--no-provider", help="Compare with the provider's counts, too.")
    ] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the provider.")] = 120,
) -> None:
    """Prove that recorded usage is billed usage; exit code 1 when it is not.

    Sums the measurements in the log per tenant, meter and window, and compares the sums with the values of closed
    windows, with billing's tables, with the reports to the provider, with the provider's counts, and with the lines of
    its invoices.

    Example: paybill usage prove --since 2026-03-01
    """
    from paybill_cli.client.event_log import connected

    id_ = tenant and tenant_id(stack, tenant)
    ledger = Ledger(id_, _time(since), _time(until))
    query = {"tenant_id": id_, "since": _iso(since), "until": _iso(until)}
    with out.progress("reading the log") as progress, Service(stack, "billing") as billing:
        async with connected(stack.nats()) as client:
            table_differences = await _compare_tables(client, billing, ledger, id_, query, progress)
        if provider:
            await _fetch_counts(billing, ledger.reported(), timeout_s, progress)
            _fetch_invoices(billing, ledger, progress)
    differences = [*ledger.differences(), *ledger.invoice_differences(), *table_differences]
    sums = ledger.sums()
    if out.json:
        out.record("usage.proof", {"equal": not differences, **sums, "differences": differences})
    elif differences:
        out.rows("usage.difference", for_reading(out, stack, differences), DIFFERENCES)
    else:
        out.record("usage.proof", sums)
    if differences:
        raise CliError(
            "usage_differs",
            f"recorded usage is not billed usage: {len(differences)} differences",
            next=next_step(differences, tenant),
            exit_code=ExitCode.FAILED,
        )
    counted = f"{sums['measurements']} measurements in {sums['windows']} windows"
    if waiting := sums["not_billed_yet"]:
        out.info(
            f"{counted}: all that is due is billed. {waiting} units in {sums['open']} open windows are not billed yet, "
            "or are included"
        )
    else:
        out.info(f"{counted}: recorded usage is billed usage")
    if sums["quarantined"]:
        out.info(f"{sums['quarantined']} reports were refused; list them with: paybill events quarantine")


async def _compare_tables(
    client: "Client", billing: Service, ledger: Ledger, tenant: str | None, query: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    """Reads the log into `ledger` and compares it with billing's tables; repeats while events are in flight."""
    from paybill_contracts.event import partition_of
    from paybill_runtime.messaging.ordered_consumer import stream_sequence

    from paybill_cli.client.event_log import event_fields, messages, stream_info

    filters = [f"paybill.events.{partition_of(tenant) if tenant else '*'}.billing.{type_}.*" for type_ in TYPES]
    position, differences = 0, list[dict[str, Any]]()
    for attempt in range(1, _COMPARISONS + 1):
        last = (await stream_info(client)).state.last_seq
        async for message in messages(client, filters, position + 1, last):
            position = stream_sequence(message)
            if position % _REPORT_EVERY == 0:
                progress.update(f"reading the log: {position} of {last}")
            ledger.add(event_fields(position, message.subject, message.headers or {}, message.data))
        position = last
        progress.update("comparing with billing's tables")
        differences = ledger.table_differences(*windows_of(lambda path, name: billing.list_rows(path, name, query)[0]))
        if not differences:
            break
        await asyncio.sleep(POLL_S * attempt)
    return differences


async def _fetch_counts(billing: Service, windows: list[Window], timeout_s: float, progress: Progress) -> None:
    """Requests the provider's count of each window through billing, and waits for the answers."""
    requested = {}
    for number, window in enumerate(windows, start=1):
        progress.update(f"requesting counts of the provider: {number} of {len(windows)} windows")
        requested[window.id] = billing.post(f"{_window_path(window.id)}/count", key=str(uuid.uuid4()))["asked"]
    deadline = time.monotonic() + timeout_s
    for number, window in enumerate(windows, start=1):
        progress.update(f"waiting for the provider: {number} of {len(windows)} windows")
        while True:
            found = billing.get(_window_path(window.id))
            if found["answered"] >= requested[window.id]:
                window.counted, window.count_failure = found["counted"], found["count_failure"]
                break
            if time.monotonic() > deadline:
                window.count_failure = "no answer before the timeout; extend it with --timeout"
                break
            await asyncio.sleep(POLL_S)


def _fetch_invoices(billing: Service, ledger: Ledger, progress: Progress) -> None:
    """Compares each tenant's reported usage with the lines of the provider's invoices."""
    tenants = ledger.tenants_in_parts()
    for number, tenant in enumerate(tenants, start=1):
        progress.update(f"comparing with invoices: {number} of {len(tenants)} tenants")
        try:
            ledger.invoiced[tenant] = billing.get(f"/v1/tenants/{tenant}/usage/invoiced")["periods"]
        except CliError as error:
            if error.code != "no_invoiced_usage":
                ledger.invoiced[tenant] = error.message


def _window_id(stack: Stack, window: str) -> str:
    """Returns the id of a window, which people name by the slug of its tenant."""
    match = _WINDOW_ID.fullmatch(window)
    if match is None:
        raise usage_error(f"{window!r} is not an id of a window", next="paybill usage windows")
    return f"{tenant_id(stack, match[1])}:{match[2]}"


def _window_path(id_: str) -> str:
    return f"/v1/usage/windows/{id_}"


def _time(text: str | None) -> datetime | None:
    """Parses a day or a time; one without a zone is in UTC."""
    if text is None:
        return None
    try:
        return _parsed(text)
    except ValueError as error:
        raise usage_error(f"{text!r} is not a time such as 2026-03-01 or 2026-03-01T12:00Z") from error


def _iso(text: str | None) -> str | None:
    time_ = _time(text)
    return time_.isoformat() if time_ is not None else None


def _parsed(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
