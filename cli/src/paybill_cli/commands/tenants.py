"""`paybill tenant`: a client of the tenant service, and of billing for the checkout."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import completion, environment_view, formatting
from paybill_cli.client.filters import explain_no_match
from paybill_cli.client.http import Service, get_or_none
from paybill_cli.client.next_steps import next_step
from paybill_cli.client.requests import earlier_result, post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, tenant_path, tenants_of_customer
from paybill_cli.client.waiting import Deadline
from paybill_cli.commands.signups import price_of, region_proposed, show_quote
from paybill_cli.commands.why import explained
from paybill_cli.errors import CliError, usage
from paybill_cli.options import ConfirmedOptions, Interval, Limit, Reason, RequestOptions, TenantName, Timeout
from paybill_cli.output import Output, Progress
from paybill_cli.texts import email, text

COLUMNS = ("slug", "status", "plan", "region", "billing", "infrastructure", "age", "id")
FIELDS = (
    *("slug", "id", "name", "status", "plan", "region", "billing", "infrastructure", "holds", "legal_holds"),
    *("environment", "failure", "waits_for", "approval", "debt", "requested_at", "offboards_at", "retain_until"),
)
SHOWN = (*FIELDS, "change", "customer", "why")

Case = Annotated[str, typer.Option("--case", parser=text, help="Reference of the case; kept: no personal data.")]
Legal = Annotated[bool, typer.Option("--legal", help="Required: the hold is a legal one.")]
CHECKOUT_WAIT_S = 10.0
LEFT = frozenset({"offboarding", "retained", "cancelled", "purging", "purged"})
OFFBOARDING = (
    "cancel its subscription",
    "export its data",
    "end its access",
    "retain its data for the retention period of its plan",
)
MANUAL = "manual"
Status = Literal[
    "requested", "awaiting_approval", "provisioning", "provision_failed", "active", "changing", "suspended",
    "quarantined", "offboarding", "retained", "returning", "cancelled", "purging", "purged",
]  # fmt: skip


def create(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    slug: Annotated[str, typer.Argument(help="Name in URLs and database roles; permanently unique.", metavar="SLUG")],
    plan: Annotated[
        str, typer.Option("--plan", help="Plan of the published catalogue.", autocompletion=completion.plans)
    ],
    region: Annotated[
        str, typer.Option("--region", help="Region of the published blueprint.", autocompletion=completion.regions)
    ],
    email: Annotated[str, typer.Option("--email", parser=email, help="Billing contact; encrypted, never shown.")],
    name: Annotated[
        str | None, typer.Option("--name", parser=text, help="Name for people; by default the slug.")
    ] = None,
    payment: Annotated[
        str | None, typer.Option("--payment", help="Billing provider, such as manual (by invoice).")
    ] = None,
    customer: Annotated[
        str | None,
        typer.Option("--customer", help="Existing customer at the provider, such as cus_Q1; nothing is charged again."),
    ] = None,
    interval: Interval = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Currency of the price, such as EUR.")] = None,
    quantity: Annotated[int, typer.Option("--quantity", "--seats", min=1, help="Seats.")] = 1,
    coupon: Annotated[str | None, typer.Option("--coupon", help="Promotion code, or id of a coupon.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the tenant is active.")] = False,
    timeout: Timeout = 120,
) -> None:
    """Request a new tenant.

    It becomes active when its subscription gives access and its environment is ready. Without --interval and
    --currency, the first price of the plan is used; --dry-run shows the price.

    Example: paybill tenant create acme --plan team --region eu-central --email ops@acme.example --wait
    """
    body: dict[str, Any] = {"slug": slug, "name": name or slug, "plan": plan, "region": region, "contact_email": email}
    body |= {"payment": payment} if payment is not None else {}
    body |= {"customer": customer} if customer is not None else {}
    body |= {"interval": interval, "currency": currency, "quantity": quantity, "coupon": coupon}
    if options.dry_run:
        with Service(stack, "tenant") as tenants, region_proposed(stack, region):
            if earlier := earlier_result(out, tenants, "/v1/tenants", body, options.idempotency_key):
                _show(out, earlier)
            else:
                show_quote(out, slug, tenants.post("/v1/tenants/quote", body))
        return
    with Service(stack, "tenant") as tenants:
        with region_proposed(stack, region):
            tenant = post(out, tenants, "/v1/tenants", body, options.idempotency_key)
        with out.progress(_status(tenant)) as progress:
            deadline = Deadline(timeout, next=f"paybill tenant show {slug}")
            account = _settled_account(out, stack, tenant["id"], min(timeout, CHECKOUT_WAIT_S))
            refused = account["failure"] if account is not None and account["status"] != "open" else None
            checkout = account["checkout_url"] if account is not None else None
            by_invoice = account is not None and account["provider"] == MANUAL
            if wait and checkout:
                action = "the purchase order" if by_invoice else f"the payment at {checkout}"
                out.info(f"waiting for {action} of {slug}")
            while wait and not refused and tenant["status"] != "active":
                tenant = _next_status(tenants, tenant, deadline, progress)
    price = price_of(account) if account is not None else None
    _show(out, tenant | {"price": price, "checkout_url": checkout}, (*FIELDS, "price", "checkout_url"))
    if refused:
        out.info(f"to give it up and free the slug: paybill tenant offboard {slug} --reason refused")
        raise CliError("account_refused", f"billing could not open the account: {refused}", next=f"paybill why {slug}")
    if not wait and checkout:
        pay = f"paybill manual accept {slug} --po NUMBER" if by_invoice else "pay at the checkout"
        out.info(f"next: {pay}, then: paybill tenant show {slug}")


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[Status | None, typer.Option("--status", help="Only tenants with this status.")] = None,
    email: Annotated[
        str | None,
        typer.Option("--email", parser=email, help="Only tenants with this contact address, by its digest."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="Only tenants on this plan now.", autocompletion=completion.plans)
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Only tenants in this region.", autocompletion=completion.regions)
    ] = None,
    customer: Annotated[
        str | None, typer.Option("--customer", help="Only the tenant of this customer at a provider, such as cus_Q1.")
    ] = None,
    limit: Limit = 1000,
) -> None:
    """List tenants in the order of their slugs.

    billing is pending, entitled or not_entitled, and the debt. age is the time since the sign-up.

    Example: paybill tenant list --status suspended --plan team
    """
    query: dict[str, Any] = {"status": status, "email": email, "plan": plan, "region": region}
    found: list[dict[str, Any]] = []
    more = False
    ids = tenants_of_customer(stack, customer) if customer is not None else None
    if ids != []:
        with Service(stack, "tenant") as tenants:
            found, more = tenants.list_rows("/v1/tenants", "tenants", query | {"id": ids}, limit)
    out.rows("tenant.list", found if out.json else list(map(_row, found)), COLUMNS)
    if more:
        out.more(limit)
    named = [("plans on sale", ("billing",), completion.plan_names)] if plan else []
    named += [("regions", ("provisioner",), completion.region_names)] if region else []
    if not found and named:
        explain_no_match(out, stack, "tenants", named)


def show(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Show one tenant, by slug or id.

    Example: paybill tenant show acme
    """
    path = tenant_path(tenant)
    with Service(stack, "tenant") as tenants:
        found = tenants.get(path)
    why = explained(stack, found["id"])
    more = {"customer": why.customer, "change": _pending_or_refused(stack, found["id"]), "why": why.headline}
    more |= {} if out.json else environment_view.change_fields(more["change"])
    # The tenant's own wait and approval are those of its status: without one, only those of its change are shown.
    fields = [each for each in SHOWN if each not in {"waits_for", "approval"} or found[each] is not None]
    _show(out, found | more, (*fields, *(each for each in more if each not in SHOWN)))


def _pending_or_refused(stack: Stack, id_: str) -> Any:
    """Returns the change of the environment that is pending, or its refusal; None when the provisioner is away, too."""
    try:
        with Service(stack, "provisioner") as provisioner:
            found = get_or_none(provisioner, f"/v1/environments/{id_}")
    except CliError:
        return None
    return found and (found["pending"] or found["refusal"])


def suspend(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    reason: Reason,
    mode: Annotated[
        Literal["blocked", "read_only"], typer.Option("--mode", help="Remaining access; blocked: none.")
    ] = "blocked",
) -> None:
    """Suspend a tenant's access and keep all of its data.

    `paybill tenant resume` reverses it.

    Example: paybill tenant suspend acme --reason "abuse report 7" --mode read_only
    """
    path, body = f"{tenant_path(tenant)}/suspend", {"mode": mode, "reason": reason}
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, body, options.idempotency_key)
            return
        question = f"Suspend {tenant} ({mode})? No data is deleted; `paybill tenant resume` reverses it."
        out.confirm(question, yes=options.yes)
        _show(out, post(out, tenants, path, body, options.idempotency_key))


def resume(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    reason: Annotated[
        str | None,
        typer.Option("--reason", parser=text, help="Lift only the hold with this reason; by default all of operators."),
    ] = None,
) -> None:
    """Lift operators' suspensions of a tenant.

    The tenant stays suspended while another hold remains, such as billing's.

    Example: paybill tenant resume acme --reason "abuse report 7"
    """
    path, body = f"{tenant_path(tenant)}/resume", {"reason": reason} if reason is not None else None
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, body, options.idempotency_key)
            return
        found = post(out, tenants, path, body, options.idempotency_key)
    _show(out, found)
    for hold in found["holds"]:
        out.info(f"{tenant} is still suspended by {hold['origin']}: {hold['reason']}")


def hold(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    case: Case,
    legal: Legal = False,
) -> None:
    """Keep a tenant's data for a legal case; access does not change.

    Until its release, nothing that leads to the deletion of the data begins. `paybill tenant suspend` ends access.

    Example: paybill tenant hold acme --legal --case 2026-17
    """
    _change_legal_hold(out, stack, options, tenant, "legal-hold", case, legal=legal)


def release(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    case: Case,
    legal: Legal = False,
) -> None:
    """Release the legal hold of a case.

    An offboarding that was due meanwhile begins.

    Example: paybill tenant release acme --legal --case 2026-17
    """
    _change_legal_hold(out, stack, options, tenant, "legal-hold/release", case, legal=legal)


def _change_legal_hold(
    out: Output, stack: Stack, options: RequestOptions, tenant: str, action: str, case: str, *, legal: bool
) -> None:
    if not legal:
        raise usage(
            "only legal holds are placed and released by case",
            code="legal_missing",
            why="it keeps the data, and access does not change; `paybill tenant suspend` ends access",
            next=next_step("legal_missing"),
        )
    path, body = f"{tenant_path(tenant)}/{action}", {"case": case}
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, body, options.idempotency_key)
            return
        _show(out, post(out, tenants, path, body, options.idempotency_key))


def offboard(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    reason: Reason,
) -> None:
    """Offboard a tenant: export its data, end its access, retain the data.

    The data is retained until the end of the plan's retention period, and the subscription is cancelled. This cannot
    be undone.

    Example: paybill tenant offboard acme --reason "contract ended" --yes
    """
    path, body = f"{tenant_path(tenant)}/offboard", {"reason": reason}
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, body, options.idempotency_key)
            return
        found = tenants.get(tenant_path(tenant))
        state = f"{found['slug']} ({found['name']}) is {found['status']}"
        out.info(state if found["status"] in LEFT else f"{state}. Offboarding does, in this order:")
        for step in () if found["status"] in LEFT else OFFBOARDING:
            out.info(f"  - {step}")
        out.confirm(f"Offboard {found['slug']}? This cannot be undone.", yes=options.yes)
        _show(out, post(out, tenants, path, body, options.idempotency_key))


def checkout(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Print a link at which a tenant's customer can pay.

    It is the last checkout, or a new one after that expired. A customer whose tenant is retained returns with it.

    Example: paybill tenant checkout acme
    """
    path = f"/v1/tenants/{tenant_id(stack, tenant)}/checkout"
    with Service(stack, "billing") as billing:
        out.record("tenant.checkout", billing.post(path))


def portal(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Create a link to the provider's customer portal for a tenant.

    In the portal the customer can see invoices, change the card and cancel. The link expires soon. It gives access to
    everyone who has it, so share it only with the customer.

    Example: paybill tenant portal acme
    """
    path = f"/v1/tenants/{tenant_id(stack, tenant)}/portal"
    with Service(stack, "billing") as billing:
        out.record("tenant.portal", billing.post(path))


def _settled_account(out: Output, stack: Stack, tenant: str, wait_s: float) -> dict[str, Any] | None:
    """Returns the account once it is open or refused. The tenant exists already, so billing may be unavailable."""
    deadline = Deadline(wait_s)
    try:
        with Service(stack, "billing") as billing:
            while (account := get_or_none(billing, f"/v1/tenants/{tenant}/account")) is None or (
                account["status"] != "open" and not account["failure"]
            ):
                deadline.pause("billing has not opened the account yet")
    except CliError as error:
        out.info(f"the checkout is not known yet: {error.message}")
        return None
    found: dict[str, Any] = account
    return found


def _next_status(tenants: Service, tenant: dict[str, Any], deadline: Deadline, progress: Progress) -> dict[str, Any]:
    """Returns the tenant after one poll. Raises CliError when it cannot become active."""
    if tenant["status"] in {"provision_failed", *LEFT}:
        raise CliError(
            "will_not_be_active",
            f"{tenant['slug']} is {tenant['status']}",
            why=tenant["failure"] or "",
            next=f"paybill tenant show {tenant['slug']}",
        )
    deadline.pause(_status(tenant))
    found: dict[str, Any] = tenants.get(tenant_path(tenant["id"]))
    progress.update(_status(found))
    return found


def _row(tenant: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a tenant in the list for people."""
    billing = tenant["billing"]
    debt = f", owes {', '.join(map(formatting.money, tenant['debt']))}" if tenant["debt"] else ""
    return {
        **tenant,
        "plan": billing["plan"],
        "billing": billing["access"] + debt,
        "age": formatting.age(tenant["requested_at"]),
    }


def _status(tenant: Mapping[str, Any]) -> str:
    return f"{tenant['slug']} is {tenant['status']} ({tenant['id']})"


def _show(out: Output, tenant: Mapping[str, Any], fields: tuple[str, ...] = FIELDS) -> None:
    if out.json:
        out.record("tenant", tenant)
        return
    environment = tenant["environment"]
    holds = ", ".join(f"{hold['origin']} ({hold['mode']}): {hold['reason']}" for hold in tenant["holds"])
    shown = {"holds": holds or None, "environment": environment and environment["id"]}
    shown["plan"], shown["billing"] = tenant["billing"]["plan"], tenant["billing"]["access"]
    shown["debt"] = ", ".join(map(formatting.money, tenant["debt"])) or None
    shown["legal_holds"] = ", ".join(tenant["legal_holds"]) or None
    out.record("tenant", {**tenant, **shown}, fields)
