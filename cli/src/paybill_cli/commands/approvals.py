"""`paybill approval`: lists, shows, approves and rejects the plans and the agents' calls that wait for a person."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from paybill_cli.call_view import call_lines
from paybill_cli.client.http import Service, get_or_none
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, Reason, RequestOptions
from paybill_cli.output import Output
from paybill_cli.plan_view import after_approval, plan_lines

COLUMNS = ("id", "slug", "subject", "status", "hash", "requester", "decided_by", "expires_at", "reasons")
FIELDS = (*COLUMNS[:7], "other_person", "requested_at", "expires_at", "reasons")

_ID = re.compile(r"apr_[0-9a-f]{32}")

Id = Annotated[str, typer.Argument(help="Id of the approval, apr_….", metavar="APPROVAL")]
Status = Literal["requested", "granted", "rejected", "denied", "used", "void"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Approvals of one service. subject: field of the details with what is approved; hash: field with its hash."""

    service: str
    subject: str
    hash: str


_KINDS = (_Kind("provisioner", "plan", "plan_hash"), _Kind("agent-gateway", "call", "subject_hash"))


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[
        Status | None, typer.Option("--status", help="Only approvals with this status; denied means rejected.")
    ] = None,
    limit: Limit = 1000,
) -> None:
    """List the last approval of each environment and of each agent's run.

    Those of a service that your key may not read are left out.

    Example: paybill approval list --status requested
    """
    rows: list[dict[str, Any]] = []
    is_cut = False
    denied: list[CliError] = []
    query = {"status": "rejected" if status == "denied" else status}
    for kind in _KINDS:
        with _unless_denied(denied), Service(stack, kind.service) as service:
            found, more = service.list_rows("/v1/approvals", "approvals", query, limit)
            rows += [{**each, "service": kind.service} if out.json else _row(kind, each) for each in found]
            is_cut = is_cut or more
    _require_some(denied)
    out.rows("approval.list", rows[:limit], COLUMNS)
    if is_cut or len(rows) > limit:
        out.more(limit)
    for each in denied:
        out.info(f"left out, because your key may not read them: {each.message}")


def show(out: Output, stack: Stack, approval: Id) -> None:
    """Show an approval, with its plan or its call.

    A call is shown with every row before and after.

    Example: paybill approval show apr_0123456789abcdef0123456789abcdef
    """
    with _found(stack, approval) as (_, kind, found):
        pass
    if out.json:
        out.record("approval", {**found, "service": kind.service})
        return
    _show_approval(out, kind, found["approval"])
    _show_subject(out, kind, found)


def approve(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    approval: Id,
    hash_: Annotated[
        str | None,
        typer.Option("--plan", "--hash", help="Hash of what you have seen; by default it is shown now."),
    ] = None,
) -> None:
    """Approve a plan or a call: it can be executed once, until it expires.

    Exit code 6 when it has changed since, or when you are the requester and another person has to approve.

    Example: paybill approval approve apr_0123456789abcdef0123456789abcdef --yes
    """
    path = _path(approval)
    with _found(stack, approval) as (service, kind, found):
        body = {kind.hash: hash_ or found["approval"][kind.hash]}
        if options.dry_run:
            preview(out, service, f"{path}/approve", body, options.idempotency_key)
            return
        if hash_ is None and found[kind.subject] is None:
            raise CliError(
                "approval_ended",
                f"the approval is {found['approval']['status']}, and a later one has taken its place",
                next="paybill approval list",
                exit_code=ExitCode.CONFLICT,
            )
        if not out.json:
            _show_subject(out, kind, found)
        out.confirm(f"Approve the {kind.subject} {body[kind.hash][:12]}…?", yes=options.yes)
        done = post(out, service, f"{path}/approve", body, options.idempotency_key)
    _show_approval(out, kind, done)
    out.info(f"next: {_after(kind, found, done)}")


def reject(out: Output, stack: Stack, options: RequestOptions, approval: Id, reason: Reason) -> None:
    """Reject a plan or a call.

    A plan is requested again when it changes, or by a person with `paybill environment plan`.

    Example: paybill approval reject apr_0123456789abcdef0123456789abcdef --reason "wait for the weekend"
    """
    path, body = f"{_path(approval)}/reject", {"reason": reason}
    with _found(stack, approval) as (service, kind, _):
        if options.dry_run:
            preview(out, service, path, body, options.idempotency_key)
            return
        done = post(out, service, path, body, options.idempotency_key)
    _show_approval(out, kind, done)


@contextmanager
def _found(stack: Stack, approval: str) -> Iterator[tuple[Service, _Kind, dict[str, Any]]]:
    """Provides the service that has the approval, its kind, and the approval with its subject."""
    path = _path(approval)
    denied: list[CliError] = []
    for kind in _KINDS:
        with Service(stack, kind.service) as service:
            found = None
            with _unless_denied(denied):
                found = get_or_none(service, path)
            if found is not None:
                yield service, kind, found
                return
    _require_some(denied)
    raise CliError(
        "approval_unknown",
        f"there is no approval {approval}",
        why="; ".join(f"your key may not read all: {each.message}" for each in denied),
        next="paybill approval list",
        exit_code=ExitCode.NOT_FOUND,
    )


@contextmanager
def _unless_denied(denied: list[CliError]) -> Iterator[None]:
    """Appends the refusal of a service that the key may not read, and continues."""
    try:
        yield
    except CliError as error:
        if error.exit_code is not ExitCode.DENIED:
            raise
        denied.append(error)


def _require_some(denied: list[CliError]) -> None:
    """Raises the first refusal when every service has refused the key."""
    if len(denied) == len(_KINDS):
        raise denied[0]


def _show_approval(out: Output, kind: _Kind, found: Mapping[str, Any]) -> None:
    """Prints an approval; people get the reason of a rejection under its own name."""
    is_rejected = found["status"] == "rejected"
    row = dict(found) if out.json else _row(kind, found) | ({"rejection": found["ended"]} if is_rejected else {})
    out.record("approval", row, (*FIELDS, "rejection" if is_rejected else "ended"))


def _show_subject(out: Output, kind: _Kind, found: Mapping[str, Any]) -> None:
    subject = found[kind.subject]
    if subject is None:
        return
    lines = plan_lines(subject, found["approval"]["slug"]) if kind.subject == "plan" else call_lines(subject)
    out.styled(kind.subject, subject, list(lines))


def _after(kind: _Kind, found: Mapping[str, Any], done: Mapping[str, Any]) -> str:
    if kind.subject == "call":
        return f"the agent repeats its call; paybill agent show {done['run_id']}"
    plan = found["plan"]
    return after_approval(plan, done["slug"]) if plan else f"paybill approval show {done['id']}"


def _path(approval: str) -> str:
    if not _ID.fullmatch(approval):
        raise usage(f"{approval!r} is not an id of an approval", next="paybill approval list")
    return f"/v1/approvals/{approval}"


def _row(kind: _Kind, found: Mapping[str, Any]) -> dict[str, Any]:
    is_plan = kind.subject == "plan"
    reasons = "; ".join(each["text"] for each in found["reasons"]) if is_plan else found["reason"]
    return {
        **found,
        "subject": "plan" if is_plan else f"{found['workflow']}.{found['step']}",
        "hash": found[kind.hash],
        "status": "expired" if found["expired"] else found["status"],
        "reasons": reasons,
    }
