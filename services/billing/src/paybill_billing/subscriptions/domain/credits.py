"""Credit and money received: credit given never exceeds money received (invariant 4)."""

from collections.abc import Iterable, Mapping

from paybill_contracts.billing import Subscription
from paybill_contracts.changes import Proration
from paybill_contracts.money import Money

from paybill_billing.subscriptions.domain.change_requests import is_overdue


def excess_credit(received: Iterable[Money], credited: Iterable[Money]) -> Mapping[str, int]:
    """Returns how much more was credited than received, in minor units by currency; empty when the invariant holds.

    received: payments of invoices. credited: credits and refunds, each positive.
    """
    balance: dict[str, int] = {}
    for amount in received:
        balance[amount.currency] = balance.get(amount.currency, 0) + amount.minor
    for amount in credited:
        balance[amount.currency] = balance.get(amount.currency, 0) - amount.minor
    return {currency: -left for currency, left in balance.items() if left < 0}


def credit_of(proration: Proration) -> Money:
    """Returns the credit in a quote: the sum of its negative lines, as a positive amount."""
    credited = -sum(line.amount.minor for line in proration.lines if line.amount.minor < 0)
    return Money(minor=credited, currency=proration.due_now.currency)


def unpaid_credit(subscription: Subscription, proration: Proration) -> Money | None:
    """Returns the credit that a change would give for a period that is not paid; None when it gives none.

    The payment may fail between the request of a change and its quote.
    """
    credit = credit_of(proration)
    return credit if credit.minor and is_overdue(subscription) else None
