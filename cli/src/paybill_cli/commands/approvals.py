"""`paybill approval`: lists, shows, approves and rejects the plans that wait for a person."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, Reason, RequestOptions
from paybill_cli.output import Output
from paybill_cli.plan_view import after_approval, plan_lines

COLUMNS = ("id", "slug", "status", "plan_hash", "requester", "decided_by", "expires_at", "reasons")
FIELDS = (*COLUMNS[:6], "other_person", "requested_at", "expires_at", "reasons", "ended")

_ID = re.compile(r"apr_[0-9a-f]{32}")

Id = Annotated[str, typer.Argument(help="Id of the approval, apr_….", metavar="APPROVAL")]
Status = Literal["requested", "granted", "rejected", "used", "void"]


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[Status | None, typer.Option("--status", help="Only approvals with this status.")] = None,
    limit: Limit = 1000,
) -> None:
    """List the last approval of each environment.

    Example: paybill approval list --status requested
    """
    with Service(stack, "provisioner") as provisioner:
        found, more = provisioner.list_rows("/v1/approvals", "approvals", {"status": status}, limit)
    out.rows("approval.list", found if out.json else [_row(each) for each in found], COLUMNS)
    if more:
        out.more(limit)


def show(out: Output, stack: Stack, approval: Id) -> None:
    """Show an approval and its plan.

    Example: paybill approval show apr_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(_path(approval))
    if out.json:
        out.record("approval", found)
        return
    out.record("approval", _row(found["approval"]), FIELDS)
    if found["plan"] is not None:
        out.styled("plan", found["plan"], list(plan_lines(found["plan"], found["approval"]["slug"])))


def approve(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    approval: Id,
    plan_hash: Annotated[
        str | None, typer.Option("--plan", help="Hash of the plan that you have seen; by default it is shown now.")
    ] = None,
) -> None:
    """Approve a plan: it can be applied once, until the approval expires.

    Exit code 6 when the plan is superseded, or when you are the requester and policy requires another person.

    Example: paybill approval approve apr_0123456789abcdef0123456789abcdef --yes
    """
    path = _path(approval)
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(path)
        body = {"plan_hash": plan_hash or found["approval"]["plan_hash"]}
        if options.dry_run:
            preview(out, provisioner, f"{path}/approve", body, options.idempotency_key)
            return
        if plan_hash is None and found["plan"] is None:
            raise CliError(
                "approval_ended",
                f"the approval is {found['approval']['status']}, and a later one has taken its place",
                next="paybill approval list",
                exit_code=ExitCode.CONFLICT,
            )
        if found["plan"] is not None and not out.json:
            out.styled("plan", found["plan"], list(plan_lines(found["plan"], found["approval"]["slug"])))
        out.confirm(f"Approve the plan {body['plan_hash'][:12]}…?", yes=options.yes)
        done = post(out, provisioner, f"{path}/approve", body, options.idempotency_key)
    out.record("approval", done if out.json else _row(done), FIELDS)
    plan = found["plan"]
    out.info(f"next: {after_approval(plan, done['slug']) if plan else f'paybill approval show {approval}'}")


def reject(out: Output, stack: Stack, options: RequestOptions, approval: Id, reason: Reason) -> None:
    """Reject a plan; it is requested again when it changes.

    A person can request it again with `paybill environment plan`.

    Example: paybill approval reject apr_0123456789abcdef0123456789abcdef --reason "wait for the weekend"
    """
    path, body = f"{_path(approval)}/reject", {"reason": reason}
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, body, options.idempotency_key)
            return
        done = post(out, provisioner, path, body, options.idempotency_key)
    out.record("approval", done if out.json else _row(done), FIELDS)


def _path(approval: str) -> str:
    if not _ID.fullmatch(approval):
        raise usage(f"{approval!r} is not an id of an approval", next="paybill approval list")
    return f"/v1/approvals/{approval}"


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    status = "expired" if found["expired"] else found["status"]
    return {**found, "status": status, "reasons": "; ".join(each["text"] for each in found["reasons"])}
