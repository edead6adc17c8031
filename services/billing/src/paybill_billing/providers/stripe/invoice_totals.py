"""Sums of Stripe's invoices of a customer: money received, credit that is left, and credit for unpaid time."""

from collections.abc import Iterable
from datetime import timedelta
from fractions import Fraction

from paybill_contracts.money import Money

from paybill_billing.providers.port.snapshots import InvoiceTotals
from paybill_billing.providers.stripe.mappers import Json, money_of
from paybill_billing.providers.stripe.paid_time import is_collected, paid_share, unpaid_credits

_FINAL = frozenset({"open", "paid", "uncollectible"})
_RECENT_S = timedelta(days=100).total_seconds()
"""The age of a credit for unpaid time, before the newest invoice, that still counts."""


def totals_of(invoices: Iterable[Json], balance: Money | None = None) -> InvoiceTotals:
    """Returns the sums of all invoices of a customer, which are ordered by their age, the oldest first.

    An invoice with a negative total adds credit to the customer's balance, and a later one uses it up. Credit that a
    person added to the balance is not counted: no invoice gave it. balance: the current one, negative for credit; None
    when it is not known. Credit that it does not contain was taken back by a person.
    """
    received, credit = list[Money](), dict[str, int]()
    unpaid, earlier, newest = dict[tuple[str, int], int](), list[tuple[Json, Fraction]](), 0
    for invoice in sorted(invoices, key=_created):
        newest = _created(invoice)
        if invoice.get("status") in _FINAL:
            paid = money_of(invoice.get("amount_paid"), invoice.get("currency"), invoice)
            received.append(paid)
            before, after = invoice.get("starting_balance"), invoice.get("ending_balance")
            if isinstance(before, int) and isinstance(after, int):
                # Balances are negative for credit.
                credit[paid.currency] = credit.get(paid.currency, 0) + before - after
            for given in unpaid_credits(invoice, earlier):
                unpaid[paid.currency, newest] = unpaid.get((paid.currency, newest), 0) + given.minor
        earlier.append((invoice, paid_share(invoice) if is_collected(invoice) else Fraction(0)))
    recent = dict[str, int]()
    for (currency, created), minor in unpaid.items():
        if newest - created <= _RECENT_S:
            recent[currency] = recent.get(currency, 0) + minor
    if balance is not None:
        taken_back = max(credit.get(balance.currency, 0) + balance.minor, 0)
        for sums in (credit, recent):
            sums[balance.currency] = sums.get(balance.currency, 0) - taken_back
    return InvoiceTotals(tuple(received), _positive(credit), _positive(recent))


def _positive(sums: dict[str, int]) -> tuple[Money, ...]:
    return tuple(Money(minor=minor, currency=currency) for currency, minor in sums.items() if minor > 0)


def _created(invoice: Json) -> int:
    created = invoice.get("created")
    return created if isinstance(created, int) else 0
