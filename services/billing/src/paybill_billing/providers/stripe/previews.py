"""Reads Stripe's previews of invoices, and its schedules, as the quote of a change."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from paybill_contracts.changes import Proration, ProrationLine, ScheduledPhase
from paybill_contracts.money import Money
from paybill_contracts.values import Text
from pydantic import TypeAdapter

from paybill_billing.providers.stripe.mappers import Json, id_of, price_of_line

_LINE = TypeAdapter(Text)


def invoiced(base: Proration, invoice: Json | None, next_amount: Money | None, metered: Collection[str]) -> Proration:
    """Returns the quote of an invoice that is collected at once; None when nothing is invoiced.

    metered: the prices of usage.
    """
    if invoice is None:
        return base.model_copy(update={"next_amount": next_amount})
    used = _usage(invoice, metered)
    return base.model_copy(
        update={
            "lines": _lines(invoice),
            "due_now": money(invoice, invoice["amount_due"]),
            "next_amount": next_amount,
            "usage": money(invoice, used) if used else None,
        }
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


def with_usage(invoice: Json | None, subscription: Json, item: Json, units: int) -> Json | None:
    """Adds usage of a metered item that Stripe does not know yet to a preview, with its taxes and before discounts.

    Only prices per unit are known: usage of a price with tiers is a line without an amount.
    """
    if not units:
        return invoice
    before: Json = invoice or {"currency": subscription["currency"], "total": 0, "amount_due": 0, "lines": {"data": []}}
    price, lines = item["price"], before["lines"]["data"]
    known = sum(line.get("quantity") or 0 for line in lines if price_of_line(line) == price["id"])
    amount = _amount(price, known + units) - _amount(price, known)
    rates = item.get("tax_rates") or subscription.get("default_tax_rates") or ()
    taxes = sum(_rounded(amount * Decimal(str(rate["percentage"])) / 100) for rate in rates if not rate["inclusive"])
    name = price.get("nickname") or price.get("lookup_key") or price["id"]
    line = {
        "description": f"{units} x {name}, not reported yet",
        "amount": amount,
        "pricing": {"price_details": {"price": price["id"]}},
        "taxes": [{"amount": taxes, "tax_behavior": "exclusive"}],
    }
    total = before["total"] + amount + taxes
    return {
        **before,
        "lines": {**before["lines"], "data": [*lines, line]},
        "total": total,
        "amount_due": max(total + (before.get("starting_balance") or 0), 0),
    }


def _amount(price: Json, units: int) -> int:
    """Returns the amount of this number of units in minor units, rounded as Stripe does."""
    quantity = Decimal(units)
    if transform := price.get("transform_quantity"):
        rounding = ROUND_CEILING if transform["round"] == "up" else ROUND_FLOOR
        quantity = (quantity / transform["divide_by"]).quantize(Decimal(1), rounding=rounding)
    return _rounded(Decimal(str(price.get("unit_amount_decimal") or 0)) * quantity)


def _rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def regular_amount(invoice: Json | None, metered: Collection[str]) -> Money | None:
    """Returns the total of a regular invoice without its usage, which differs from period to period.

    metered: the prices of usage.
    """
    if invoice is None:
        return None
    return money(invoice, invoice["total"] - _usage(invoice, metered))


def _usage(invoice: Json, metered: Collection[str]) -> int:
    """Returns the part of the total that is for usage, with its discounts and taxes."""
    return sum(
        line["amount"]
        - sum(each["amount"] for each in line.get("discount_amounts") or ())
        + sum(each["amount"] for each in line.get("taxes") or () if each.get("tax_behavior") == "exclusive")
        for line in invoice["lines"]["data"]
        if price_of_line(line) in metered
    )


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
