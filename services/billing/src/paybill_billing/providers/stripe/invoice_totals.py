"""Sums of Stripe's invoices of a customer: money received, and credit that later invoices have not used up."""

from collections.abc import Iterable

from paybill_contracts.money import Money

from paybill_billing.providers.port.snapshots import InvoiceTotals
from paybill_billing.providers.stripe.mappers import Json, money_of

_FINAL = frozenset({"open", "paid", "uncollectible"})


def totals_of(invoices: Iterable[Json]) -> InvoiceTotals:
    """Returns the sums of all invoices of a customer.

    An invoice with a negative total adds credit to the customer's balance, and a later one uses it up. Credit that a
    person added to the balance is not counted: no invoice gave it.
    """
    received, credit = list[Money](), dict[str, int]()
    for invoice in invoices:
        if invoice.get("status") not in _FINAL:
            continue
        paid = money_of(invoice.get("amount_paid"), invoice.get("currency"), invoice)
        received.append(paid)
        before, after = invoice.get("starting_balance"), invoice.get("ending_balance")
        if isinstance(before, int) and isinstance(after, int):
            # Balances are negative for credit.
            credit[paid.currency] = credit.get(paid.currency, 0) + before - after
    left = (Money(minor=minor, currency=currency) for currency, minor in credit.items() if minor > 0)
    return InvoiceTotals(tuple(received), tuple(left))
