"""Compares the credit for unused time with what was paid for that time, on Stripe's invoices.

Stripe credits the current price, whether or not an invoice of the period was paid
(https://docs.stripe.com/billing/subscriptions/prorations).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from paybill_contracts.money import Money

from paybill_billing.providers.stripe.mappers import Json, id_of

_NEVER = frozenset({"void", "uncollectible"})
"""Statuses of an invoice that nobody collects any more."""


@dataclass(frozen=True, slots=True)
class UnpaidCredit:
    """Credit of an invoice for the time from `since` to `end`, which was not paid."""

    minor: int
    since: int
    end: int


@dataclass(frozen=True, slots=True)
class _Line:
    """A line for an item of a subscription. amount: less its discounts."""

    item: str
    amount: int
    start: int
    end: int
    is_proration: bool

    def left(self, at: int) -> Fraction:
        """Returns the part of the amount that is for the time after `at`."""
        if self.end <= max(at, self.start):
            return Fraction(0)
        return Fraction(self.amount * (self.end - max(at, self.start)), self.end - self.start)


def is_settled(invoice: Json) -> bool:
    """Returns whether an invoice is paid; one that gives credit needs no payment."""
    status = invoice.get("status")
    return status == "paid" or (status not in _NEVER and _total(invoice) < 0)


def is_collected(invoice: Json) -> bool:
    """Returns whether an invoice is paid, or Stripe still collects it: then what is owed is known as a debt."""
    return is_settled(invoice) or invoice.get("status") == "open" or bool(invoice.get("auto_advance"))


def paid_share(invoice: Json, returned: int = 0) -> Fraction:
    """Returns the part of a paid invoice that did not go back. returned: refunds and lost disputes that we know."""
    total = _total(invoice)
    if total <= 0:
        return Fraction(1)
    noted = [invoice.get(f"{when}_payment_credit_notes_amount") or 0 for when in ("pre", "post")]
    return max(Fraction(0), 1 - Fraction(noted[0] + max(noted[1], returned), total))


def unpaid_credits(
    invoice: Json, earlier: Sequence[tuple[Json, Fraction]] = (), *, since: int | None = None
) -> Iterator[UnpaidCredit]:
    """Yields the credit of an invoice for time that was not paid.

    earlier: the invoices before it, each with the share of it that counts as paid. since: only credit from then on.
    """
    lines = list(_lines(invoice))
    given: dict[tuple[str, int, int], int] = {}
    for line in lines:
        if line.is_proration and line.amount < 0 and (since is None or line.start >= since):
            time = (line.item, line.start, line.end)
            given[time] = given.get(time, 0) - line.amount
    for (item, start, end), credit in sorted(given.items()):
        paid, rounded = Fraction(0), 1
        for source, share in [*earlier, (invoice, Fraction(1))]:
            of_period = [line for line in _lines(source) if (line.item, line.end) == (item, end)]
            if source is invoice:
                # What an earlier change in the same period charged and credited.
                of_period = [line for line in of_period if line.is_proration and line.start < start]
            elif not all(line.is_proration for line in of_period):
                # The invoice of the whole period: what was before it belongs to another one.
                paid = Fraction(0)
            paid += share * sum(line.left(start) for line in of_period)
            rounded += len(of_period)
        unpaid = credit - max(paid, Fraction(0))
        if unpaid > rounded:
            yield UnpaidCredit(int(unpaid), start, end)


def reason_of(credit: UnpaidCredit, invoices: Iterable[tuple[Json, Fraction]]) -> str:
    """Returns why the time of a credit is not paid, for people. invoices: with the share of each that is paid."""
    found = []
    for invoice, share in invoices:
        if not any(line.amount >= 0 and line.end == credit.end for line in _lines(invoice)):
            continue
        total = Money(minor=max(_total(invoice), 0), currency=str(invoice["currency"]).upper())
        name = f"the invoice {id_of(invoice)} of {total.text}"
        if not is_settled(invoice):
            found.append(f"{name} is {invoice.get('status')}")
        elif share < 1:
            found.append(f"{name} was given back{' in part' if share else ''}")
        else:
            found.append(f"{name} is paid")
    return ", and ".join(found)[:300] or "no invoice charged it"


def _total(invoice: Json) -> int:
    total = invoice.get("total")
    return total if isinstance(total, int) else 0


def _lines(invoice: Json) -> Iterator[_Line]:
    for line in invoice["lines"]["data"]:
        parent = line.get("parent") or {}
        details = parent.get("subscription_item_details") or {}
        period = line.get("period") or {}
        item = id_of(details.get("subscription_item")) or id_of(line.get("subscription_item"))
        off = sum(each.get("amount") or 0 for each in line.get("discount_amounts") or ())
        if item is None or not isinstance(period.get("start"), int) or not isinstance(period.get("end"), int):
            continue
        is_proration = bool(details.get("proration") or line.get("proration"))
        yield _Line(item, (line.get("amount") or 0) - off, period["start"], period["end"], is_proration)
