"""`paybill tenant`: a client of the tenant service, and of billing for where to pay."""

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli.asking import Again, Reason, Unsent, Yes, sent, show_unsent
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, Progress

COLUMNS = ("slug", "status", "plan", "region", "id")
FIELDS = ("slug", "id", "name", "status", "plan", "region", "holds", "environment", "failure", "retain_until")

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ID = re.compile(r"ten_[0-9a-f]{32}")
_POLL_S = 0.25
CHECKOUT_WAIT_S = 10.0
MANUAL = "manual"

Name = Annotated[str, typer.Argument(help="The tenant's slug or id.", metavar="TENANT")]


def create(
    out: Output,
    stack: Stack,
    slug: Annotated[str, typer.Argument(help="The name in URLs and database roles; unique for ever.")],
    plan: Annotated[str, typer.Option("--plan", help="A plan of the published catalogue.")],
    region: Annotated[str, typer.Option("--region", help="A region of the published blueprint.")],
    email: Annotated[str, typer.Option("--email", help="Where billing reaches the customer; sealed, never shown.")],
    name: Annotated[str | None, typer.Option("--name", help="The organisation's name; the slug if not given.")] = None,
    payment: Annotated[
        str | None, typer.Option("--payment", help="Where it pays: a provider, such as manual (by invoice).")
    ] = None,
    customer: Annotated[
        str | None,
        typer.Option("--customer", help="The customer that it is there already, such as cus_Q1; it pays nothing anew."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the tenant until it is active.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait, then exit 8.")] = 120,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Ask for a new tenant.

    It becomes active when its subscription gives access and its environment is ready.

    Example: paybill tenant create acme --plan team --region eu-central --email ops@acme.example --wait
    """
    body = {"slug": slug, "name": name or slug, "plan": plan, "region": region, "contact_email": email}
    body |= {"payment": payment} if payment is not None else {}
    body |= {"customer": customer} if customer is not None else {}
    if dry_run:
        show_unsent(out, "tenant", "/v1/tenants", body | {"contact_email": "(sealed)"})
        return
    with Service(stack, "tenant") as tenants:
        tenant = sent(out, tenants, "/v1/tenants", body, idempotency_key)
        with out.progress(f"{slug} is {tenant['status']} ({tenant['id']})") as progress:
            deadline = time.monotonic() + timeout
            checkout = _checkout(out, stack, tenant["id"], min(timeout, CHECKOUT_WAIT_S))
            if wait and checkout:
                out.say(f"waiting for {slug} to {'order' if payment == MANUAL else f'pay at {checkout}'}")
            while wait and tenant["status"] != "active":
                tenant = _next_standing(tenants, tenant, deadline, progress)
    _show(out, tenant | {"checkout_url": checkout}, (*FIELDS, "checkout_url"))
    if not wait and checkout:
        pay = f"paybill manual accept {slug} --po NUMBER" if payment == MANUAL else "pay at the checkout"
        out.say(f"next: {pay}, then: paybill tenant show {slug}")


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[str | None, typer.Option("--status", help="Only those who stand here, such as active.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
) -> None:
    """List tenants in the order of their slugs.

    Example: paybill tenant list --status suspended
    """
    with Service(stack, "tenant") as tenants:
        found, more = tenants.listed("/v1/tenants", "tenants", {"status": status}, limit)
    out.rows("tenant.list", found, COLUMNS)
    if more:
        out.say(f"there are more than {limit}; see them with --limit")


def show(out: Output, stack: Stack, tenant: Name) -> None:
    """Show one tenant, by slug or id.

    Example: paybill tenant show acme
    """
    path = path_of(tenant)
    with Service(stack, "tenant") as tenants:
        found = tenants.get(path)
    _show(out, found)


def suspend(
    out: Output,
    stack: Stack,
    tenant: Name,
    reason: Reason,
    mode: Annotated[
        Literal["blocked", "read_only"], typer.Option("--mode", help="How far; blocked: no access at all.")
    ] = "blocked",
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Shut a tenant out, keeping everything it owns.

    Undo it with `paybill tenant resume`.

    Example: paybill tenant suspend acme --reason "abuse report 7" --mode read_only
    """
    path, body = f"{path_of(tenant)}/suspend", {"mode": mode, "reason": reason}
    if dry_run:
        show_unsent(out, "tenant", path, body)
        return
    with Service(stack, "tenant") as tenants:
        out.confirm(f"Shut {tenant} out ({mode})? Nothing is deleted; `paybill tenant resume` lifts it.", yes=yes)
        _show(out, sent(out, tenants, path, body, idempotency_key))


def resume(out: Output, stack: Stack, tenant: Name, idempotency_key: Again = None, dry_run: Unsent = False) -> None:
    """Lift the operator's hold on a tenant.

    It stays suspended while billing holds it too.

    Example: paybill tenant resume acme
    """
    path = f"{path_of(tenant)}/resume"
    if dry_run:
        show_unsent(out, "tenant", path, {})
        return
    with Service(stack, "tenant") as tenants:
        found = sent(out, tenants, path, None, idempotency_key)
    _show(out, found)
    for hold in found["holds"]:
        out.say(f"{tenant} is still held by {hold['origin']}: {hold['reason']}")


def offboard(
    out: Output,
    stack: Stack,
    tenant: Name,
    reason: Reason,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Let a tenant go: export, close, keep.

    Its data is exported and kept until the end of its retention, its access ends, and its subscription is cancelled.
    This cannot be undone.

    Example: paybill tenant offboard acme --reason "contract ended" --yes
    """
    path, body = f"{path_of(tenant)}/offboard", {"reason": reason}
    if dry_run:
        show_unsent(out, "tenant", path, body)
        return
    with Service(stack, "tenant") as tenants:
        found = tenants.get(path_of(tenant))
        out.say(f"{found['slug']} ({found['name']}) is {found['status']}. Offboarding it will, in this order:")
        for step in (
            "cancel its subscription",
            "export its data",
            "end its access",
            "keep its data as its plan promised",
        ):
            out.say(f"  - {step}")
        out.confirm(f"Offboard {found['slug']}? This cannot be undone.", yes=yes)
        _show(out, sent(out, tenants, path, body, idempotency_key))


def id_of(stack: Stack, tenant: str) -> str:
    """The id of a tenant that is named by its slug or id."""
    if _ID.fullmatch(tenant):
        return tenant
    path = path_of(tenant)
    with Service(stack, "tenant") as tenants:
        return str(tenants.get(path)["id"])


def portal(out: Output, stack: Stack, tenant: Name) -> None:
    """Get a link to the provider's own pages for a tenant.

    There it sees its invoices, changes its card, and cancels. The link is good for a short while, and whoever has it
    can use it: hand it to nobody else.

    Example: paybill tenant portal acme
    """
    path = f"/v1/tenants/{id_of(stack, tenant)}/portal"
    with Service(stack, "billing") as billing:
        out.record("tenant.portal", billing.post(path))


def path_of(tenant: str) -> str:
    """Where the tenant is; a name that could lead elsewhere is none."""
    if not _NAME.fullmatch(tenant):
        raise usage(f"{tenant!r} is neither a slug nor an id", next="paybill tenant list")
    return f"/v1/tenants/{tenant}"


def _checkout(out: Output, stack: Stack, tenant_id: str, wait_s: float) -> str | None:
    """Where the tenant pays, as soon as billing has it. The tenant is there already, so that billing may be away."""
    deadline = time.monotonic() + wait_s
    try:
        with Service(stack, "billing") as billing:
            while (account := _account(billing, tenant_id)) is None or account["status"] != "open":
                if account is not None and account["failure"]:
                    out.say(f"billing could not open the account: {account['failure']}")
                    return None
                if time.monotonic() > deadline:
                    return None
                time.sleep(_POLL_S)
    except CliError as error:
        out.say(f"where to pay is not known yet: {error.what}")
        return None
    checkout: str | None = account["checkout_url"]
    return checkout


def _account(billing: Service, tenant_id: str) -> dict[str, Any] | None:
    """The tenant as a customer, once billing has heard of it."""
    try:
        account: dict[str, Any] = billing.get(f"/v1/tenants/{tenant_id}/account")
    except CliError as error:
        if error.exit_code is not ExitCode.NOT_FOUND:
            raise
        return None
    return account


def _next_standing(tenants: Service, tenant: dict[str, Any], deadline: float, progress: Progress) -> dict[str, Any]:
    """The tenant a moment later."""
    if time.monotonic() > deadline:
        raise CliError(
            "still_running",
            f"{tenant['slug']} is {tenant['status']} ({tenant['id']})",
            why="the time to wait is over; nothing was stopped",
            next=f"paybill tenant show {tenant['slug']}",
            exit_code=ExitCode.TIMEOUT,
        )
    if tenant["status"] in {"provision_failed", "offboarding", "retained", "cancelled"}:
        raise CliError(
            "will_not_be_active",
            f"{tenant['slug']} is {tenant['status']}",
            why=tenant["failure"] or "",
            next=f"paybill tenant show {tenant['slug']}",
        )
    time.sleep(_POLL_S)
    found: dict[str, Any] = tenants.get(path_of(tenant["id"]))
    progress.now(f"{found['slug']} is {found['status']} ({found['id']})")
    return found


def _show(out: Output, tenant: Mapping[str, Any], fields: tuple[str, ...] = FIELDS) -> None:
    """One tenant: holds and environment in words for people."""
    if out.json:
        out.record("tenant", tenant)
        return
    environment = tenant["environment"]
    holds = ", ".join(f"{hold['origin']} ({hold['mode']}): {hold['reason']}" for hold in tenant["holds"])
    out.record("tenant", {**tenant, "holds": holds or None, "environment": environment and environment["id"]}, fields)
