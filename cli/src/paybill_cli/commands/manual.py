"""`paybill manual`: quotations, purchase orders and invoices of customers who pay by invoice."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import completion, formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, result_preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenant, with_tenants
from paybill_cli.errors import usage
from paybill_cli.options import ConfirmedOptions, Interval, Limit, OnlyTenant, Reason, TenantName
from paybill_cli.output import Output
from paybill_cli.texts import text

OFFERS = ("tenant", "plan", "quantity", "price", "interval", "valid_until")
INVOICES = ("invoice_id", "status", "total", "due_at", "tenant", "reference")
FIELDS = (
    "tenant",
    "status",
    "order",
    "plan",
    "quantity",
    "price",
    "interval",
    "period_end",
    "paid_until",
    "invoices",
)

_INVOICE = re.compile(r"inv_[0-9a-f]{32}_[0-9]{1,9}")
_DAYS = re.compile(r"([0-9]{1,3})d")

InvoiceId = Annotated[
    str, typer.Argument(help="Id of the invoice: `paybill manual invoices` lists them.", metavar="INVOICE")
]
Quantity = Annotated[int | None, typer.Option("--quantity", min=1, help="Quantity.")]


def offers(out: Output, stack: Stack, limit: Limit = 1000) -> None:
    """List offers that were not ordered yet.

    Example: paybill manual offers
    """
    rows = []
    with Service(stack, "billing") as billing:
        found, _ = billing.list_rows("/v1/manual/offers", "offers", {}, limit)
    for contract in found:
        offer = contract["offer"]
        rows.append(contract | _terms(offer["terms"]) | {"valid_until": offer["valid_until"]})
    out.rows("manual.offers", with_tenants(out, stack, rows), OFFERS)


def offer(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            help="Plan that is on sale; by default that of the last offer, or of the sign-up.",
            autocompletion=completion.plans,
        ),
    ] = None,
    interval: Interval = None,
    quantity: Quantity = None,
    valid: Annotated[str, typer.Option("--valid", help="Validity of the offer, in days.")] = "30d",
) -> None:
    """Make an offer to a tenant; it replaces an earlier offer.

    What no option names stays as in the earlier offer, unless the plan changes.

    Example: paybill manual offer acme --plan team --interval year --quantity 5 --valid 60d
    """
    body = {"plan": plan, "interval": interval, "quantity": quantity, "valid_days": _days(valid)}
    path = f"/v1/manual/contracts/{tenant_id(stack, tenant)}/offer"
    _change(out, stack, options, path, body, f"Make this offer to {tenant}?")


def show(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Show a tenant's offer, contract and invoices.

    Example: paybill manual show acme
    """
    path = f"/v1/manual/contracts/{tenant_id(stack, tenant)}"
    with Service(stack, "billing") as billing:
        _show(out, stack, billing.get(path))


def accept(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    order: Annotated[str, typer.Option("--po", parser=text, help="Number of the customer's purchase order.")],
    interval: Interval = None,
    quantity: Quantity = None,
    terms: Annotated[str, typer.Option("--terms", help="Days from an invoice to its due date.")] = "30d",
) -> None:
    """Accept a customer's purchase order: access begins, and an invoice is issued.

    Interval and quantity default to those of the offer.

    Example: paybill manual accept acme --po "PO 4711" --interval year --quantity 5 --terms 30d
    """
    body = {"order": order, "interval": interval, "quantity": quantity, "payment_days": _days(terms)}
    path = f"/v1/manual/contracts/{tenant_id(stack, tenant)}/accept"
    _change(out, stack, options, path, body, f"Accept {order} of {tenant}?")


def invoices(
    out: Output,
    stack: Stack,
    tenant: OnlyTenant = None,
    status: Annotated[
        Literal["open", "overdue", "paid", "void"] | None,
        typer.Option("--status", help="Only invoices with this status."),
    ] = None,
    limit: Limit = 1000,
) -> None:
    """List invoices: all unpaid ones, and the newest of the others.

    Example: paybill manual invoices --status overdue
    """
    query = {"status": status, "tenant_id": tenant_id(stack, tenant) if tenant is not None else None}
    with Service(stack, "billing") as billing:
        found, _ = billing.list_rows("/v1/manual/invoices", "invoices", query, limit)
    rows = found if out.json else [invoice | {"total": formatting.money(invoice["total"])} for invoice in found]
    out.rows("manual.invoices", with_tenants(out, stack, rows), INVOICES)


def paid(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    invoice: InvoiceId,
    reference: Annotated[
        str, typer.Option("--reference", parser=text, help="Payment reference; kept permanently: no personal data.")
    ],
) -> None:
    """Record that an invoice is paid.

    Example: paybill manual paid inv_0123456789abcdef0123456789abcdef_1 --reference "bank 17-3" --yes
    """
    path = f"{_invoice_path(invoice)}/paid"
    _change(out, stack, options, path, {"reference": reference}, f"Record {invoice} as paid?")


def void(out: Output, stack: Stack, options: ConfirmedOptions, invoice: InvoiceId, reason: Reason) -> None:
    """Void an invoice. This cannot be undone.

    Example: paybill manual void inv_0123456789abcdef0123456789abcdef_1 --reason "issued twice" --yes
    """
    path = f"{_invoice_path(invoice)}/void"
    _change(out, stack, options, path, {"reason": reason}, f"Void {invoice}? This cannot be undone.")


def _change(
    out: Output, stack: Stack, options: ConfirmedOptions, path: str, body: Mapping[str, Any], question: str
) -> None:
    """Previews the change, asks for confirmation, and executes it."""
    with Service(stack, "billing") as billing:
        if options.dry_run:
            _show(out, stack, result_preview(out, billing, path, body, options.idempotency_key))
            return
        if not options.yes:
            preview = billing.post(f"{path}?dry_run=true", body)
            fields = {name: formatting.readable(value) for name, value in _row(preview).items() if value is not None}
            for name, value in fields.items():
                out.info(f"  {name}: {value}")
        out.confirm(question, yes=options.yes)
        done = post(out, billing, path, body, options.idempotency_key)
    _show(out, stack, done)


def _show(out: Output, stack: Stack, contract: Mapping[str, Any]) -> None:
    if out.json:
        out.record("manual.agreement", contract)
    else:
        out.record("manual.agreement", with_tenant(out, stack, _row(contract)), FIELDS)


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    contract, offer = found["contract"] or {}, found["offer"]
    terms = contract.get("terms") or (offer["terms"] if offer is not None else None)
    row = {"tenant_id": found["tenant_id"], "status": contract.get("status", "offered" if offer else "none")}
    row |= {name: contract.get(name) for name in ("order", "period_end")}
    row |= _terms(terms) if terms is not None else {}
    invoices = [
        f"{invoice['invoice_id']} {invoice['status']} {formatting.money(invoice['total'])}"
        f" due {formatting.readable(invoice['due_at'])}"
        for invoice in found["invoices"]
    ]
    return row | {"paid_until": found["paid_until"], "invoices": ", ".join(invoices) or None}


def _terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "plan": formatting.plan(terms),
        "quantity": terms["quantity"],
        "price": formatting.money(terms["unit_price"]),
        "interval": terms["interval"],
    }


def _invoice_path(invoice: str) -> str:
    if not _INVOICE.fullmatch(invoice):
        raise usage(f"{invoice!r} is not an id of an invoice", next="paybill manual invoices")
    return f"/v1/manual/invoices/{invoice}"


def _days(text: str) -> int:
    match = _DAYS.fullmatch(text)
    if match is None:
        raise usage(f"{text!r} is not a number of days such as 30d")
    return int(match[1])
