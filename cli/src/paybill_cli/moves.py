"""`paybill plans move`: take everybody who subscribes to one plan version to another, and follow it."""

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import words
from paybill_cli.asking import Again, Reason, Unsent, Yes, sent, show_unsent
from paybill_cli.calls import PAGE, Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("id", "status", "from", "to", "when", "total", "asked", "moved", "refused", "left")
REFUSED_COLUMNS = ("subscription_id", "tenant_id", "code", "refusal")

_VERSION = re.compile(r"([a-z][a-z0-9_-]{0,62})@([1-9][0-9]{0,6})")
_MOVE = re.compile(r"mov_[0-9a-f]{32}")
_POLL_S = 0.25
_BAR = 24

Id = Annotated[str, typer.Argument(help="The move's id, mov_….", metavar="MOVE")]


def move(
    out: Output,
    stack: Stack,
    from_: Annotated[str, typer.Argument(help="Who subscribes to this version, such as pro@1.", metavar="FROM")],
    to: Annotated[str, typer.Argument(help="Where they go, such as pro@2.", metavar="TO")],
    reason: Reason = "",
    when: Annotated[
        Literal["now", "period_end"], typer.Option("--when", help="Now, or each when what it paid for is over.")
    ] = "period_end",
    yes: Yes = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start it, and do not wait; it goes on by itself.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait, then exit 8.")] = 3600,
    idempotency_key: Again = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would mean, and move nobody.")] = False,
) -> int:
    """Move everybody from one plan version to another.

    Each keeps its quantity and interval. It goes on in the service when this command is ended, and over restarts, too;
    exit 1 when somebody could not be moved.

    Example: paybill plans move pro@1 pro@2 --when period_end --reason "new prices"
    """
    who = _versions(from_, to)
    with Service(stack, "billing") as billing:
        preview = billing.get("/v1/moves/preview", who)
        if dry_run:
            _show_preview(out, preview, from_, to)
            out.say("nothing was changed")
            return ExitCode.OK
        if not reason:
            raise usage("a move needs a reason, which is kept in the log", next="add --reason")
        _say_preview(out, preview, from_, to)
        out.confirm(f"Move {preview['subscriptions']} subscriptions from {from_} to {to} ({when})?", yes=yes)
        body = {**who, "when": when, "reason": reason}
        started = sent(out, billing, "/v1/moves", body, idempotency_key)
        current = started if detach else _followed(out, billing, started, timeout)
    out.record("move", current if out.json else _in_words(current), COLUMNS)
    if current["refused"]:
        out.say(f"who was refused, and why: paybill plans moves {current['id']}")
    return int(ExitCode.FAILED if current["refused"] else ExitCode.OK)


def moves(
    out: Output,
    stack: Stack,
    move: Annotated[str | None, typer.Argument(help="Whom this move could not take along.", metavar="[MOVE]")] = None,
) -> None:
    """List moves and how far each is, or who was refused by one.

    Example: paybill plans moves mov_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "billing") as billing:
        if move is None:
            found = billing.get("/v1/moves", {"limit": PAGE})
            out.rows("move.list", found if out.json else [_in_words(one) for one in found], COLUMNS)
            return
        billing.get(f"/v1/moves/{_id(move)}")
        refused, _ = billing.listed("/v1/changes", "changes", {"move_id": move, "status": "refused"})
        out.rows("change.list", refused, REFUSED_COLUMNS)


def pause(
    out: Output, stack: Stack, move: Id, reason: Reason, idempotency_key: Again = None, dry_run: Unsent = False
) -> None:
    """Pause a move: nobody more is asked until it is resumed.

    Example: paybill plans pause-move mov_0123456789abcdef0123456789abcdef --reason "a customer called"
    """
    _act(out, stack, f"/v1/moves/{_id(move)}/pause", {"reason": reason}, idempotency_key, dry_run=dry_run)


def resume(out: Output, stack: Stack, move: Id, idempotency_key: Again = None, dry_run: Unsent = False) -> None:
    """Resume a move where it was paused.

    Example: paybill plans resume-move mov_0123456789abcdef0123456789abcdef
    """
    _act(out, stack, f"/v1/moves/{_id(move)}/resume", None, idempotency_key, dry_run=dry_run)


def _act(
    out: Output, stack: Stack, path: str, body: Mapping[str, Any] | None, key: str | None, *, dry_run: bool
) -> None:
    if dry_run:
        show_unsent(out, "billing", path, body or {})
        return
    with Service(stack, "billing") as billing:
        found = sent(out, billing, path, body, key)
    out.record("move", found if out.json else _in_words(found), COLUMNS)


def _followed(out: Output, billing: Service, started: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    current = dict(started)
    with out.progress(_bar(current)) as progress:
        while current["status"] == "running":
            if time.monotonic() > deadline:
                raise CliError(
                    "still_running",
                    f"{current['id']}: {_bar(current)}",
                    why="the time to wait is over; nothing was stopped",
                    next="paybill plans moves",
                    exit_code=ExitCode.TIMEOUT,
                )
            time.sleep(_POLL_S)
            current = billing.get(f"/v1/moves/{started['id']}")
            progress.now(_bar(current))
    if current["status"] == "paused":
        out.say(f"it is paused: paybill plans resume-move {current['id']}")
    return current


def _bar(move: Mapping[str, Any]) -> str:
    """How far it is, on one line."""
    done, total = move["moved"] + move["refused"], max(move["total"], 1)
    filled = min(_BAR * done // total, _BAR)
    refused = f", {move['refused']} refused" if move["refused"] else ""
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {move['moved']} of {move['total']} moved{refused}"


def _show_preview(out: Output, preview: Mapping[str, Any], from_: str, to: str) -> None:
    if out.json:
        out.record("move.preview", preview)
    else:
        _say_preview(out, preview, from_, to)
        out.record("move.preview", {"from": from_, "to": to, "subscriptions": preview["subscriptions"]})


def _say_preview(out: Output, preview: Mapping[str, Any], from_: str, to: str) -> None:
    """What a move would mean, in words."""
    access = ", ".join(f"{count} {name}" for name, count in preview["by_access"].items()) or "nobody"
    out.say(f"{from_} -> {to}: {preview['subscriptions']} subscriptions ({access})")
    for price in preview["prices"]:
        after = f"{price['after']['minor']} {price['currency']}" if price["after"] else "no such price: refused"
        out.say(f"  by the {price['interval']}: {price['before']['minor']} {price['currency']} -> {after}")
    words.say_differences(out, preview)
    if preview["refused_now"]:
        out.say(f"  {preview['refused_now']} would be refused as they stand")


def _versions(from_: str, to: str) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for side, text in (("from", from_), ("to", to)):
        match = _VERSION.fullmatch(text)
        if match is None:
            raise usage(f"{text!r} is no plan version", next="name it like pro@2; see: paybill plans list")
        wanted |= {f"{side}_plan": match[1], f"{side}_version": int(match[2])}
    return wanted


def _in_words(move: Mapping[str, Any]) -> dict[str, Any]:
    return {**move, "from": f"{move['from_plan']}@{move['from_version']}", "to": words.plan(move["to"])}


def _id(move: str) -> str:
    if not _MOVE.fullmatch(move):
        raise usage(f"{move!r} is no id of a move", next="paybill plans moves")
    return move
