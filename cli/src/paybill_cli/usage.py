"""`paybill usage`: what tenants use of what they may, and the proof that it is what is billed."""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from nats.aio.client import Client
from paybill_contracts.event import partition_of
from paybill_runtime.messaging.ordered_consumer import stream_sequence

from paybill_cli.asking import Again, Unsent, sent, show_unsent
from paybill_cli.bus import connected, messages, seen, stream_info
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError
from paybill_cli.errors import usage as wrong_use
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, Progress
from paybill_cli.tenants import id_of, path_of
from paybill_cli.usage_proof import TYPES, Ledger, Tally, states_of

ALLOWED = ("meter", "value", "included", "quota", "remaining", "window_end", "total")
WINDOWS = ("id", "aggregation", "value", "records", "status", "closes_at", "reported", "failure")
DIFFERENCES = ("where", "meaning", "expected", "found")
_SAY_EVERY = 5000
_LOOKS = 8
_POLL_S = 0.25
_WINDOW_ID = re.compile(r"ten_[0-9a-f]{32}:[a-z][a-z0-9_-]{0,62}:[0-9T-]{13}")

Name = Annotated[str, typer.Argument(help="The tenant's slug or id.", metavar="TENANT")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant: its slug or id.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Only windows that start then or later, such as 2026-03-01.")
]
Until = Annotated[str | None, typer.Option("--until", help="Only windows that start before.")]


def show(out: Output, stack: Stack, tenant: Name) -> None:
    """Show what a tenant uses now, of what it may use.

    Example: paybill usage show acme
    """
    id_ = id_of(stack, tenant)
    with Service(stack, "billing") as billing:
        found = billing.get(f"/v1/tenants/{id_}/usage")
    now = datetime.now(UTC)
    for meter in found["meters"]:
        meter["window_end"] = next((w["end"] for w in meter["windows"] if _at(w["start"]) <= now < _at(w["end"])), None)
    out.rows("usage.meters", found["meters"], ALLOWED)
    if not found["allows_access"]:
        out.say(f"{tenant} has no access now: nothing can be consumed")


def windows(
    out: Output,
    stack: Stack,
    tenant: OfTenant = None,
    status: Annotated[
        Literal["open", "unbilled", "due", "reported", "failed"] | None,
        typer.Option("--status", help="Only those that stand so."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
) -> None:
    """List windows of usage, those that are open and those that are closed.

    `due` is being sent to the provider, `failed` was refused there and waits for `paybill usage report`, and `unbilled`
    is sent nowhere.

    Example: paybill usage windows --status failed
    """
    query = {"tenant_id": tenant and id_of(stack, tenant), "since": _text(since), "until": _text(until)}
    start, end = _moment(since), _moment(until)
    rows: list[dict[str, Any]] = []
    more = False
    with Service(stack, "billing") as billing:
        if status in {None, "open"}:
            meters, _ = billing.listed("/v1/usage/meters", "meters", {"tenant_id": query["tenant_id"]})
            for meter in meters:
                rows += [
                    window | {"id": f"{meter['id']}:{window['start'][:13]}", "status": "open"}
                    for window in meter["windows"]
                    if (start is None or _at(window["start"]) >= start) and (end is None or _at(window["start"]) < end)
                ]
        if status != "open":
            closed, more = billing.listed("/v1/usage/windows", "windows", query | {"status": status}, limit)
            rows += closed
    out.rows("usage.windows", sorted(rows, key=lambda row: row["id"])[:limit], WINDOWS)
    if more or len(rows) > limit:
        out.say(f"there are more than {limit}; see them with --limit")


def consume(
    out: Output,
    stack: Stack,
    tenant: Name,
    meter: Annotated[str, typer.Argument(help="A meter that the tenant's plan counts.")],
    quantity: Annotated[int, typer.Option("--quantity", min=1, help="How much is about to be used.")] = 1,
    of: Annotated[str | None, typer.Option("--of", help="Which thing, where the meter counts different ones.")] = None,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Count usage if the plan allows it; exit code 6 when it does not.

    Example: paybill usage consume acme calls --quantity 5
    """
    body = {"meter": meter, "quantity": quantity} | ({"of": of} if of is not None else {})
    if dry_run:
        show_unsent(out, "billing", f"{path_of(tenant)}/usage/consume", body)
        return
    path = f"/v1/tenants/{id_of(stack, tenant)}/usage/consume"
    with Service(stack, "billing") as billing:
        answer = sent(out, billing, path, body, idempotency_key)
    out.record("usage.consumed", answer)
    if not answer["allowed"]:
        raise CliError(
            str(answer["refusal"]),
            f"{tenant} may not use {quantity} more of {meter} now; nothing was counted",
            next=f"paybill usage show {tenant}",
            exit_code=ExitCode.CONFLICT,
        )


def report(
    out: Output,
    stack: Stack,
    window: Annotated[str, typer.Argument(help="The window's id, as `paybill usage windows` lists it.")],
    dry_run: Unsent = False,
) -> None:
    """Have a window's value sent to the provider again.

    For one that was refused there. It is counted once, however often it is sent.

    Example: paybill usage report ten_0123456789abcdef0123456789abcdef:calls:2026-03-01T00
    """
    path = f"{_window_path(window)}/report"
    if dry_run:
        show_unsent(out, "billing", path, {})
        return
    with Service(stack, "billing") as billing:
        out.record("usage.window", billing.post(path, key=str(uuid.uuid4())))


async def prove(
    out: Output,
    stack: Stack,
    tenant: OfTenant = None,
    since: Since = None,
    until: Until = None,
    provider: Annotated[
        bool, typer.Option("--provider/--no-provider", help="Ask the provider what it has counted, too.")
    ] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the provider.")] = 120,
) -> None:
    """Prove that usage in is usage billed; exit code 1 when it is not.

    The log's measurements are counted anew, for each tenant, meter and window, and compared with the values that
    windows were closed with, with billing's tables, with what the provider was told, and with what it has counted.

    Example: paybill usage prove --since 2026-03-01
    """
    id_ = tenant and id_of(stack, tenant)
    ledger = Ledger(id_, _moment(since), _moment(until))
    query = {"tenant_id": id_, "since": _text(since), "until": _text(until)}
    with out.progress("reading the log") as progress, Service(stack, "billing") as billing:
        async with connected(stack.nats()) as client:
            beside = await _folded(client, billing, ledger, id_, query, progress)
        if provider:
            await _ask(billing, ledger.told(), timeout_s, progress)
    differences = [*ledger.differences(), *beside]
    sums = ledger.sums()
    if out.json:
        out.record("usage.proof", {"equal": not differences, **sums, "differences": differences})
    elif differences:
        out.rows("usage.difference", differences, DIFFERENCES)
    else:
        out.record("usage.proof", sums)
    if differences:
        raise CliError(
            "usage_differs",
            f"usage in is not usage billed: {len(differences)} differences",
            next="paybill usage windows --status failed; then paybill replay --verify",
            exit_code=ExitCode.FAILED,
        )
    out.say(f"{sums['measurements']} measurements in {sums['windows']} windows: usage in is usage billed")
    if sums["quarantined"]:
        out.say(f"{sums['quarantined']} reports were refused; see them with: paybill events quarantine")


async def _folded(
    client: Client, billing: Service, ledger: Ledger, tenant: str | None, query: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    """Where log and tables differ, once nothing is on its way from one to the other any more."""
    filters = [f"paybill.events.{partition_of(tenant) if tenant else '*'}.billing.{type_}.*" for type_ in TYPES]
    place, differences = 0, list[dict[str, Any]]()
    for look in range(_LOOKS):
        last = (await stream_info(client)).state.last_seq
        async for message in messages(client, filters, place + 1, last):
            place = stream_sequence(message)
            if place % _SAY_EVERY == 0:
                progress.now(f"reading the log: {place} of {last}")
            ledger.take(seen(place, message.subject, message.headers or {}, message.data))
        place = last
        progress.now("comparing with billing's tables")
        differences = ledger.beside(*states_of(lambda path, name: billing.listed(path, name, query)[0]))
        if not differences:
            break
        await asyncio.sleep(_POLL_S * (look + 1))
    return differences


async def _ask(billing: Service, told: list[Tally], timeout_s: float, progress: Progress) -> None:
    """Have billing ask the provider what it has counted in each window, and wait for the answers."""
    asked = {}
    for number, tally in enumerate(told, start=1):
        progress.now(f"asking the provider: {number} of {len(told)} windows")
        asked[tally.id] = billing.post(f"{_window_path(tally.id)}/count", key=str(uuid.uuid4()))["asked"]
    deadline = time.monotonic() + timeout_s
    for number, tally in enumerate(told, start=1):
        progress.now(f"waiting for the provider: {number} of {len(told)} windows")
        while True:
            window = billing.get(_window_path(tally.id))
            if window["answered"] >= asked[tally.id]:
                tally.counted, tally.unanswered = window["counted"], window["count_failure"]
                break
            if time.monotonic() > deadline:
                tally.unanswered = "it has not answered yet; give it more time with --timeout"
                break
            await asyncio.sleep(_POLL_S)


def _window_path(window: str) -> str:
    if not _WINDOW_ID.fullmatch(window):
        raise wrong_use(f"{window!r} is no window", next="paybill usage windows")
    return f"/v1/usage/windows/{window}"


def _moment(text: str | None) -> datetime | None:
    """A day or a time; one without an offset is meant in UTC."""
    if text is None:
        return None
    try:
        return _at(text)
    except ValueError as error:
        raise wrong_use(f"{text!r} is no time", next="write it as 2026-03-01 or 2026-03-01T12:00Z") from error


def _text(text: str | None) -> str | None:
    moment = _moment(text)
    return moment.isoformat() if moment is not None else None


def _at(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
