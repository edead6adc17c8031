"""`paybill plans move`: migrates all subscriptions of one plan version to another, and shows the progress."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import completion, formatting
from paybill_cli.client.http import PAGE, Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import with_tenants
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Detach, OptionalReason, Reason, RequestOptions, Timeout
from paybill_cli.output import Output

COLUMNS = ("id", "status", "from", "to", "when", "total", "asked", "moved", "refused", "left")
REFUSED_COLUMNS = ("subscription_id", "tenant", "code", "refusal")

_VERSION = re.compile(r"([a-z][a-z0-9_-]{0,62})@([1-9][0-9]{0,6})")
_MIGRATION = re.compile(r"mov_[0-9a-f]{32}")

Id = Annotated[str, typer.Argument(help="Id of the migration, mov_….", metavar="MIGRATION")]


def start(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    from_: Annotated[
        str,
        typer.Argument(help="Current plan version, such as pro@1.", metavar="FROM", autocompletion=completion.versions),
    ],
    to: Annotated[
        str, typer.Argument(help="New plan version, such as pro@2.", metavar="TO", autocompletion=completion.versions)
    ],
    reason: OptionalReason = None,
    when: Annotated[
        Literal["now", "period_end"], typer.Option("--when", help="Now, or at the end of each paid period.")
    ] = "period_end",
    detach: Detach = False,
    timeout: Timeout = 3600,
) -> int:
    """Migrate all subscriptions from one plan version to another.

    Each keeps its quantity and interval. The migration continues in the service when this command ends or the service
    restarts. Exit code 1 when a subscription could not be migrated.

    Example: paybill plans move pro@1 pro@2 --when period_end --reason "new prices"
    """
    versions = _versions(from_, to)
    with Service(stack, "billing") as billing:
        preview = billing.get("/v1/moves/preview", versions)
        if options.dry_run:
            _show_preview(out, preview, from_, to)
            out.info("nothing was changed")
            return ExitCode.OK
        if not reason:
            raise usage("a migration needs a reason, which is kept in the log", next="paybill plans move --help")
        _print_preview(out, preview, from_, to)
        question = f"Migrate {preview['subscriptions']} subscriptions from {from_} to {to} ({when})?"
        out.confirm(question, yes=options.yes)
        body = {**versions, "when": when, "reason": reason}
        started = post(out, billing, "/v1/moves", body, options.idempotency_key)
        current = started if detach else _wait(out, billing, started, timeout)
    out.record("move", current if out.json else _row(current), COLUMNS)
    if current["refused"]:
        out.info(f"refused subscriptions and reasons: paybill plans moves {current['id']}")
    return int(ExitCode.FAILED if current["refused"] else ExitCode.OK)


def list_all(
    out: Output,
    stack: Stack,
    migration: Annotated[
        str | None,
        typer.Argument(help="Show the subscriptions that this migration could not migrate.", metavar="MIGRATION"),
    ] = None,
) -> None:
    """List migrations, or the subscriptions that one could not migrate.

    Example: paybill plans moves mov_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "billing") as billing:
        if migration is None:
            found = billing.get("/v1/moves", {"limit": PAGE})
            out.rows("move.list", found if out.json else [_row(one) for one in found], COLUMNS)
            return
        billing.get(f"/v1/moves/{_id(migration)}")
        refused, _ = billing.list_rows("/v1/changes", "changes", {"move_id": migration, "status": "refused"})
        out.rows("change.list", with_tenants(out, stack, refused), REFUSED_COLUMNS)


def pause(out: Output, stack: Stack, options: RequestOptions, migration: Id, reason: Reason) -> None:
    """Pause a migration: no further subscription is migrated until it is resumed.

    Example: paybill plans pause-move mov_0123456789abcdef0123456789abcdef --reason "a customer called"
    """
    _change(out, stack, options, f"/v1/moves/{_id(migration)}/pause", {"reason": reason})


def resume(out: Output, stack: Stack, options: RequestOptions, migration: Id) -> None:
    """Resume a paused migration.

    Example: paybill plans resume-move mov_0123456789abcdef0123456789abcdef
    """
    _change(out, stack, options, f"/v1/moves/{_id(migration)}/resume", None)


def _change(out: Output, stack: Stack, options: RequestOptions, path: str, body: Mapping[str, Any] | None) -> None:
    with Service(stack, "billing") as billing:
        if options.dry_run:
            preview(out, billing, path, body, options.idempotency_key)
            return
        found = post(out, billing, path, body, options.idempotency_key)
    out.record("move", found if out.json else _row(found), COLUMNS)


def _wait(out: Output, billing: Service, started: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = Deadline(timeout_s, next="paybill plans moves")
    current = dict(started)
    with out.progress(_bar(current)) as progress:
        while current["status"] == "running":
            deadline.pause(f"{current['id']}: {_bar(current)}")
            current = billing.get(f"/v1/moves/{started['id']}")
            progress.update(_bar(current))
    if current["status"] == "paused":
        out.info(f"the migration is paused: paybill plans resume-move {current['id']}")
    return current


def _bar(migration: Mapping[str, Any]) -> str:
    refused = f", {migration['refused']} refused" if migration["refused"] else ""
    text = f"{migration['moved']} of {migration['total']} migrated{refused}"
    return formatting.bar(migration["moved"] + migration["refused"], migration["total"], text)


def _show_preview(out: Output, preview: Mapping[str, Any], from_: str, to: str) -> None:
    if out.json:
        out.record("move.preview", preview)
    else:
        _print_preview(out, preview, from_, to)
        out.record("move.preview", {"from": from_, "to": to, "subscriptions": preview["subscriptions"]})


def _print_preview(out: Output, preview: Mapping[str, Any], from_: str, to: str) -> None:
    access = ", ".join(f"{count} {name}" for name, count in preview["by_access"].items()) or "none"
    out.info(f"{from_} -> {to}: {preview['subscriptions']} subscriptions ({access})")
    for price in preview["prices"]:
        before, after = _amount(price, "before"), _amount(price, "after") or "no such price: refused"
        out.info(f"  per {price['interval']}: {before} -> {after}")
    for text in formatting.plan_differences(preview):
        out.info(text)
    if preview["refused_now"]:
        out.info(f"  {preview['refused_now']} would be refused in their current state")


def _amount(price: Mapping[str, Any], side: str) -> str | None:
    amount = price[side]
    return formatting.money({"minor": amount["minor"], "currency": price["currency"]}) if amount else None


def _versions(from_: str, to: str) -> dict[str, Any]:
    versions: dict[str, Any] = {}
    for side, text in (("from", from_), ("to", to)):
        match = _VERSION.fullmatch(text)
        if match is None:
            raise usage(f"{text!r} is not a plan version such as pro@2", next="paybill plans list")
        versions |= {f"{side}_plan": match[1], f"{side}_version": int(match[2])}
    return versions


def _row(migration: Mapping[str, Any]) -> dict[str, Any]:
    from_ = f"{migration['from_plan']}@{migration['from_version']}"
    return {**migration, "from": from_, "to": formatting.plan(migration["to"])}


def _id(migration: str) -> str:
    if not _MIGRATION.fullmatch(migration):
        raise usage(f"{migration!r} is not an id of a migration", next="paybill plans moves")
    return migration
