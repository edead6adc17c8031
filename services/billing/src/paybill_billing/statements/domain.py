"""The statement of a tenant's customer, and the invariants 4 and 5 that it proves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from paybill_contracts.invariants import Difference, Invariant
from paybill_contracts.money import Money
from paybill_contracts.statements import StatementChanged, UsageDifference

from paybill_billing.providers.port.snapshots import InvoiceTotals
from paybill_billing.subscriptions.domain.credits import excess_credit
from paybill_billing.usage.domain.invoices import UsageComparison

UNKNOWN = "statement_unknown"
"""Kind of the incident about a customer whose invoices cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The sums and differences of a tenant, as in `StatementChanged`."""

    id: str
    received: tuple[Money, ...] = ()
    returned: tuple[Money, ...] = ()
    credit: tuple[Money, ...] = ()
    usage: tuple[UsageDifference, ...] = ()
    unpaid_credit: tuple[Money, ...] = ()


def subject_of(customer: str) -> str:
    """Returns the subject of the incident about the statement of a customer (`<provider>/<customer>`)."""
    return f"customer/{customer}"


def unknown_summary(customer: str) -> str:
    """Returns the summary of that incident."""
    return f"the invoices of {customer} cannot be fetched, so that money and usage on them are not checked"


def on_fetched(
    statement: Statement | None,
    tenant_id: str,
    provider: str,
    totals: InvoiceTotals,
    returned: Iterable[Money],
    compared: Iterable[UsageComparison],
) -> list[StatementChanged]:
    """Records what the invoices of the provider show. returned: our refunds and lost disputes of invoices."""
    before = statement or Statement(tenant_id)
    after = Statement(
        tenant_id,
        received=_sums(totals.received),
        returned=_sums(returned),
        credit=_sums(totals.credit),
        usage=tuple(
            UsageDifference(
                meter=each.meter,
                period_start=each.start,
                period_end=each.end,
                reported=each.reported,
                invoiced=each.invoiced,
                invoice=each.invoice,
            )
            for each in compared
            if each.differs
        ),
        unpaid_credit=_sums(totals.unpaid_credit),
    )
    if after == before:
        return []
    return [
        StatementChanged(
            tenant_id=tenant_id,
            provider=provider,
            received=after.received,
            returned=after.returned,
            credit=after.credit,
            usage=after.usage,
            unpaid_credit=after.unpaid_credit,
        )
    ]


def evolve(_statement: Statement | None, event: StatementChanged) -> Statement:
    """Returns the statement after `event`, which contains all of it."""
    match event:
        case StatementChanged():
            return Statement(
                event.tenant_id, event.received, event.returned, event.credit, event.usage, event.unpaid_credit
            )
        case _:
            assert_never(event)


def check_credit(states: Sequence[Any], _: datetime) -> Difference | None:
    """Invariant 4: credit given never exceeds money received, neither in all nor for any time of a period."""
    statement: Statement | None = states[0]
    if statement is None:
        return None
    excess = excess_credit(statement.received, [*statement.returned, *statement.credit])
    if statement.unpaid_credit:
        return Difference(
            left=f"received {_text(statement.received)}",
            right=f"given as credit {_text(statement.unpaid_credit)} for time that was never paid",
        )
    if not excess:
        return None
    return Difference(
        left=f"received {_text(statement.received)}",
        right=f"returned {_text(statement.returned)}, and given as credit {_text(statement.credit)}",
    )


def check_usage(states: Sequence[Any], _: datetime) -> Difference | None:
    """Invariant 5: usage recorded is usage on invoice lines."""
    statement: Statement | None = states[0]
    if statement is None or not statement.usage:
        return None
    first, more = statement.usage[0], len(statement.usage) - 1
    rest = f", and {more} more" if more else ""
    return Difference(
        left=f"{first.reported} units of {first.meter} were reported for {first.period_start:%Y-%m-%d %H:%M} UTC{rest}",
        right=f"{first.invoiced} are on {first.invoice}" if first.invoice else "no invoice has them",
    )


RULES = (
    Invariant(4, "credit given never exceeds money received", check_credit),
    Invariant(5, "usage recorded is usage on invoice lines", check_usage),
)


def _sums(amounts: Iterable[Money]) -> tuple[Money, ...]:
    """Returns the sum of each currency, without those that are zero."""
    sums: dict[str, int] = {}
    for amount in amounts:
        sums[amount.currency] = sums.get(amount.currency, 0) + amount.minor
    return tuple(Money(minor=minor, currency=currency) for currency, minor in sorted(sums.items()) if minor)


def _text(amounts: Iterable[Money]) -> str:
    return " and ".join(amount.text for amount in amounts) or "nothing"
