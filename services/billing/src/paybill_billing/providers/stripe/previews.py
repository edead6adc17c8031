"""Reads Stripe's previews of invoices, and its schedules, as the quote of a change."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from paybill_contracts.changes import Proration, ProrationLine, ScheduledPhase
from paybill_contracts.money import Money
from paybill_contracts.values import Text
from pydantic import TypeAdapter

from paybill_billing.providers.stripe.mappers import Json, id_of, price_of_line

_LINE = TypeAdapter(Text)


def invoiced(base: Proration, invoice: Json | None, next_amount: Money | None) -> Proration:
    """Returns the quote of an invoice that is collected at once; None when nothing is invoiced."""
    if invoice is None:
        return base.model_copy(update={"next_amount": next_amount})
    return base.model_copy(
        update={"lines": _lines(invoice), "due_now": money(invoice, invoice["amount_due"]), "next_amount": next_amount}
    )


def _lines(invoice: Json) -> tuple[ProrationLine, ...]:
    """Returns the lines of an invoice; they add up to its total."""
    lines = [
        ProrationLine(
            text=_LINE.validate_python(" ".join(str(line.get("description") or "").split())[:500] or "no description"),
            amount=money(invoice, line["amount"]),
        )
        for line in invoice["lines"]["data"]
    ]
    rest = invoice["total"] - sum(line.amount.minor for line in lines)
    if rest:
        lines.append(ProrationLine(text="taxes, discounts and other lines", amount=money(invoice, rest)))
    return tuple(lines)


def regular_amount(invoice: Json | None, metered: Collection[str]) -> Money | None:
    """Returns the total of a regular invoice without its usage, which differs from period to period.

    metered: the prices of usage.
    """
    if invoice is None:
        return None
    used = sum(line["amount"] for line in invoice["lines"]["data"] if price_of_line(line) in metered)
    return money(invoice, invoice["total"] - used)


def later_phases(schedule: Json | None) -> tuple[ScheduledPhase, ...]:
    """Returns the phases of a schedule after the current one."""
    if schedule is None:
        return ()
    ends = (schedule.get("current_phase") or {}).get("end_date") or 0
    return tuple(
        ScheduledPhase(
            starts_at=datetime.fromtimestamp(phase["start_date"], UTC),
            text=", ".join(f"{item.get('quantity', 1)} x {id_of(item['price'])}" for item in phase["items"])[:500],
        )
        for phase in schedule["phases"]
        if phase["start_date"] >= ends
    )


def money(holder: Mapping[str, Any], minor: int) -> Money:
    """Returns an amount in the currency of an object."""
    return Money(minor=minor, currency=str(holder["currency"]).upper())
