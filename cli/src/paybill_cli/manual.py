"""`paybill manual`: offers, purchase orders and invoices of customers who pay by invoice."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import words
from paybill_cli.asking import Again, Reason, Yes, sent
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import usage
from paybill_cli.output import Output
from paybill_cli.tenants import id_of

OFFERS = ("tenant_id", "plan", "quantity", "price", "interval", "valid_until")
INVOICES = ("invoice_id", "status", "total", "due_at", "tenant_id", "reference")
FIELDS = (
    "tenant_id",
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

Name = Annotated[str, typer.Argument(help="The tenant's slug or id.", metavar="TENANT")]
InvoiceId = Annotated[
    str, typer.Argument(help="The invoice's id: `paybill manual invoices` lists them.", metavar="INVOICE")
]
IntervalOption = Annotated[Literal["month", "year"] | None, typer.Option("--interval", help="How often it is paid.")]
Quantity = Annotated[int | None, typer.Option("--quantity", min=1, help="How many.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would come of it, and do nothing.")]


def offers(out: Output, stack: Stack, limit: Limit = 1000) -> None:
    """List what was offered and not ordered yet.

    Example: paybill manual offers
    """
    rows = []
    with Service(stack, "billing") as billing:
        offered, _ = billing.listed("/v1/manual/offers", "offers", {}, limit)
    for found in offered:
        terms = found["offer"]["terms"]
        rows.append(found | _terms(terms) | {"valid_until": found["offer"]["valid_until"]})
    out.rows("manual.offers", rows, OFFERS)


def offer(
    out: Output,
    stack: Stack,
    tenant: Name,
    plan: Annotated[str | None, typer.Option("--plan", help="A plan on sale; else what it signed up for.")] = None,
    interval: IntervalOption = None,
    quantity: Quantity = 1,
    valid: Annotated[str, typer.Option("--valid", help="How long it can be ordered, in days.")] = "30d",
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Offer a tenant something, instead of what was offered before.

    Example: paybill manual offer acme --plan team --interval year --quantity 5 --valid 60d
    """
    body = {"plan": plan, "interval": interval, "quantity": quantity, "valid_days": _days(valid)}
    path = f"/v1/manual/contracts/{id_of(stack, tenant)}/offer"
    _act(out, stack, path, body, f"Offer this to {tenant}?", yes=yes, key=idempotency_key, dry_run=dry_run)


def show(out: Output, stack: Stack, tenant: Name) -> None:
    """Show a tenant's offer, contract and invoices.

    Example: paybill manual show acme
    """
    path = f"/v1/manual/contracts/{id_of(stack, tenant)}"
    with Service(stack, "billing") as billing:
        _show(out, billing.get(path))


def accept(
    out: Output,
    stack: Stack,
    tenant: Name,
    order: Annotated[str, typer.Option("--po", help="The customer's number of its purchase order.")],
    interval: IntervalOption = None,
    quantity: Quantity = None,
    terms: Annotated[str, typer.Option("--terms", help="From an invoice to its due date, in days.")] = "30d",
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Take a customer's purchase order: access begins, and an invoice is issued.

    What is not named is as it was offered.

    Example: paybill manual accept acme --po "PO 4711" --interval year --quantity 5 --terms 30d
    """
    body = {"order": order, "interval": interval, "quantity": quantity, "payment_days": _days(terms)}
    path = f"/v1/manual/contracts/{id_of(stack, tenant)}/accept"
    _act(out, stack, path, body, f"Accept {order} of {tenant}?", yes=yes, key=idempotency_key, dry_run=dry_run)


def invoices(
    out: Output,
    stack: Stack,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's: its slug or id.")] = None,
    status: Annotated[
        Literal["open", "overdue", "paid", "void"] | None, typer.Option("--status", help="Only those that stand so.")
    ] = None,
    limit: Limit = 1000,
) -> None:
    """List invoices: those that are owed, and the newest of the rest.

    Example: paybill manual invoices --status overdue
    """
    query = {"status": status, "tenant_id": id_of(stack, tenant) if tenant is not None else None}
    with Service(stack, "billing") as billing:
        found, _ = billing.listed("/v1/manual/invoices", "invoices", query, limit)
    rows = found if out.json else [invoice | {"total": words.money(invoice["total"])} for invoice in found]
    out.rows("manual.invoices", rows, INVOICES)


def paid(
    out: Output,
    stack: Stack,
    invoice: InvoiceId,
    reference: Annotated[str, typer.Option("--reference", help="Of the payment; kept for ever: no personal data.")],
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Note that the money of an invoice has come.

    Example: paybill manual paid inv_0123456789abcdef0123456789abcdef_1 --reference "bank 17-3" --yes
    """
    path, question = f"/v1/manual/invoices/{_invoice(invoice)}/paid", f"Has the money of {invoice} come?"
    _act(out, stack, path, {"reference": reference}, question, yes=yes, key=idempotency_key, dry_run=dry_run)


def void(
    out: Output,
    stack: Stack,
    invoice: InvoiceId,
    reason: Reason,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Have nobody owe an invoice any more. This cannot be undone.

    Example: paybill manual void inv_0123456789abcdef0123456789abcdef_1 --reason "sent twice" --yes
    """
    path, question = f"/v1/manual/invoices/{_invoice(invoice)}/void", f"Void {invoice}? This cannot be undone."
    _act(out, stack, path, {"reason": reason}, question, yes=yes, key=idempotency_key, dry_run=dry_run)


def _act(
    out: Output,
    stack: Stack,
    path: str,
    body: Mapping[str, Any],
    question: str,
    *,
    yes: bool,
    key: str | None,
    dry_run: bool,
) -> None:
    """Show what would come of it, ask, and do it."""
    with Service(stack, "billing") as billing:
        if dry_run or not yes:
            preview = billing.post(f"{path}?dry_run=true", body)
            if dry_run:
                _show(out, preview)
                out.say("nothing was done")
                return
            out.say(" ".join(f"{name}: {value}" for name, value in _row(preview).items() if value is not None))
        out.confirm(question, yes=yes)
        done = sent(out, billing, path, body, key)
    _show(out, done)


def _show(out: Output, agreement: Mapping[str, Any]) -> None:
    """An agreement: whole for programs, in words for people."""
    if out.json:
        out.record("manual.agreement", agreement)
    else:
        out.record("manual.agreement", _row(agreement), FIELDS)


def _row(agreement: Mapping[str, Any]) -> dict[str, Any]:
    contract, offered = agreement["contract"] or {}, agreement["offer"]
    terms = contract.get("terms") or (offered["terms"] if offered is not None else None)
    row = {"tenant_id": agreement["tenant_id"], "status": contract.get("status", "offered" if offered else "none")}
    row |= {name: contract.get(name) for name in ("order", "period_end")}
    row |= _terms(terms) if terms is not None else {}
    owed = [
        f"{invoice['invoice_id']} {invoice['status']} {words.money(invoice['total'])} due {invoice['due_at']}"
        for invoice in agreement["invoices"]
    ]
    return row | {"paid_until": agreement["paid_until"], "invoices": ", ".join(owed) or None}


def _terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "plan": words.plan(terms),
        "quantity": terms["quantity"],
        "price": words.money(terms["unit_price"]),
        "interval": terms["interval"],
    }


def _invoice(text: str) -> str:
    if not _INVOICE.fullmatch(text):
        raise usage(f"{text!r} is no invoice", next="paybill manual invoices")
    return text


def _days(text: str) -> int:
    match = _DAYS.fullmatch(text)
    if match is None:
        raise usage(f"{text!r} is no number of days", next="write it as 30d")
    return int(match[1])
