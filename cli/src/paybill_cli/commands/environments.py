"""`paybill environment`: lists and shows environments, makes and applies their plans; `paybill tenant retry`."""

from typing import Annotated, Any, Literal

import typer

from paybill_cli import completion, environment_view
from paybill_cli.client.http import Service
from paybill_cli.client.next_steps import remember_argument
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenant
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, RequestOptions, TenantName, Timeout
from paybill_cli.output import Output
from paybill_cli.plan_view import plan_lines

COLUMNS = ("slug", "id", "status", "access", "tier", "preset", "region", "blueprint", "pending", "unsettled")
FIELDS = ("tenant", "id", "status", "tier", "preset", "failure")
Status = Literal[
    "registered", "building", "failed", "ready", "changing", "retaining", "retained", "restoring", "purging", "purged",
]  # fmt: skip
PlanHash = Annotated[
    str | None,
    typer.Option("--plan", help="Hash of the plan that you have seen; by default that of the open approval."),
]


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[Status | None, typer.Option("--status", help="Only environments with this status.")] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Only in this region.", autocompletion=completion.regions)
    ] = None,
    preset: Annotated[
        Literal["pooled", "bridge", "silo"] | None, typer.Option("--preset", help="Only on this placement.")
    ] = None,
    pending: Annotated[bool, typer.Option("--pending", help="Only environments whose size is to change.")] = False,
    unsettled: Annotated[
        bool, typer.Option("--unsettled", help="Only environments that are not as they have to be.")
    ] = False,
    limit: Limit = 1000,
) -> None:
    """List environments with their status, access, tier and placement.

    Example: paybill environment list --pending
    """
    query = {"status": status, "region": region, "preset": preset, "pending": "true" if pending else None}
    query |= {"unsettled": "true" if unsettled else None}
    with Service(stack, "provisioner") as provisioner:
        found, more = provisioner.list_rows("/v1/environments", "environments", query, limit)
    out.rows("environment.list", found if out.json else list(map(environment_view.row, found)), COLUMNS)
    if more:
        out.more(limit)


def show(
    out: Output,
    stack: Stack,
    tenant: TenantName,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print each step and change as it happens, until the environment is stable.")
    ] = False,
    timeout: Timeout = 600,
) -> None:
    """Show an environment: desired, planned and built, and what it waits for.

    Example: paybill environment show acme --watch
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}"
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(path)
        if watch:
            found = _watched(
                out, provisioner, path, found, Deadline(timeout, next=f"paybill environment show {tenant}")
            )
    if not (watch and out.json):
        out.record("environment", found if out.json else environment_view.fields(found))
    if found["refusal"]:
        out.info(found["refusal"]["next"])
    if found["unsettled"] and found["unsettled"]["reason"] != "transfer":
        out.info(f"next: {found['unsettled']['command']}")


def plan(out: Output, stack: Stack, options: RequestOptions, tenant: TenantName) -> None:
    """Plan what a tenant is entitled to; request an approval if it needs one.

    Nothing is applied. You are the requester; an open approval of a plan that is still right stays.

    Example: paybill environment plan acme
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/plans"
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, None, options.idempotency_key)
            return
        found = post(out, provisioner, path, None, options.idempotency_key)
    out.styled("plan", found, list(plan_lines(found, tenant)))


def move(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    preset: Annotated[
        Literal["pooled", "bridge", "silo"], typer.Option("--to", help="Placement after the move; the tier stays.")
    ],
) -> None:
    """Plan a move to another placement, and request its approval.

    Nothing is applied. You are the requester. The placement that is built withdraws a move that is pending.

    Example: paybill environment move acme --to silo
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/move"
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, {"to": preset}, options.idempotency_key)
            return
        found = post(out, provisioner, path, {"to": preset}, options.idempotency_key)
    out.styled("plan", found, list(plan_lines(found, tenant)))


def apply(out: Output, stack: Stack, options: ConfirmedOptions, tenant: TenantName, plan_hash: PlanHash = None) -> None:
    """Apply a plan that is approved or needs no approval.

    Its approval is used. Exit code 6 when the plan is superseded or its approval is missing, used, rejected or void.

    Example: paybill environment apply acme --yes
    """
    id_ = tenant_id(stack, tenant)
    with Service(stack, "provisioner") as provisioner:
        current = provisioner.get(f"/v1/environments/{id_}/plans")["plan"]
        chosen = plan_hash or (current["hash"] if current else None)
        if chosen is None:
            raise CliError(
                "nothing_to_apply",
                f"there is no plan for {tenant}",
                next=f"paybill environment show {tenant}",
                exit_code=ExitCode.CONFLICT,
            )
        path = f"/v1/environments/{id_}/plans/{_checked(chosen, tenant)}/apply"
        if options.dry_run:
            preview(out, provisioner, path, None, options.idempotency_key)
            return
        if current is not None and current["approval"] is not None:
            remember_argument("approval", current["approval"]["id"])
        if current is not None and current["hash"] == chosen and not out.json:
            out.styled("plan", current, list(plan_lines(current, tenant)))
        out.confirm(f"Apply the plan {chosen[:12]}… of {tenant}?", yes=options.yes)
        found = post(out, provisioner, path, None, options.idempotency_key)
    out.record("environment", with_tenant(out, stack, found), FIELDS)
    out.info(f"next: paybill environment show {tenant} --watch")


def retry(out: Output, stack: Stack, options: RequestOptions, tenant: TenantName) -> None:
    """Build a failed environment again, by the current blueprint.

    What is built stays. `paybill tenant retry` and `paybill environment retry` are one action. Exit code 6 when it is
    refused again, with the reason.

    Example: paybill environment retry acme
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/retry"
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, None, options.idempotency_key)
            return
        found = post(out, provisioner, path, None, options.idempotency_key)
    out.record("environment", with_tenant(out, stack, found), FIELDS)
    if refused := environment_view.refused_again(found):
        raise refused
    out.info(f"next: paybill why {tenant}")


def _watched(out: Output, provisioner: Service, path: str, found: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Prints each change, with --json the whole environment, until it is stable; returns its last state."""
    before: dict[str, Any] | None = None
    while True:
        lines = environment_view.changes(before, found)
        if lines:
            out.line("environment", found, *lines)
        if environment_view.is_stable(found):
            return found
        deadline.pause(f"the environment is {found['status']}")
        before, found = found, provisioner.get(path)


def _checked(plan_hash: str, tenant: str) -> str:
    if len(plan_hash) != 64 or set(plan_hash) - set("0123456789abcdef"):  # noqa: PLR2004  # hexadecimal SHA-256
        raise usage(f"{plan_hash!r} is no hash of a plan", next=f"paybill environment plan {tenant}")
    return plan_hash
