"""Sample manual contracts for several tests."""

from billing_samples import DAY, NOW, TENANT
from paybill_billing.providers.manual.domain import manual
from paybill_billing.providers.manual.domain.contracts import contract_id, evolve
from paybill_contracts.catalogue import Interval
from paybill_contracts.event import decode, encode
from paybill_contracts.manual import Terms
from paybill_contracts.money import Money

ID = contract_id(TENANT)


def terms(minor=3100, quantity=1, interval=Interval.MONTH, plan_="pro", currency="EUR"):
    return Terms(
        plan=plan_,
        version=1,
        quantity=quantity,
        unit_price=Money(minor=minor, currency=currency),
        interval=interval,
    )


def fold(state, events):
    """Returns the state after the events, each of which is encoded and decoded as in the log."""
    for event in events:
        assert decode(event.TYPE, event.VERSION, encode(event)) == event
        state = evolve(state, event)
    return state


QUOTED = fold(None, manual.offer(None, TENANT, terms(), NOW + 30 * DAY))


def accepted(ordered=None, trial_days=0, payment_days=30, at=NOW, state=QUOTED):
    events = manual.accept(
        state,
        order="PO 7",
        terms=ordered or terms(),
        payment_days=payment_days,
        trial_days=trial_days,
        now=at,
    )
    return fold(state, events)


ACTIVE = accepted()


def at(state, moment):
    """Returns the state at `moment`, after all due transitions."""
    while state.due is not None and state.due <= moment:
        events = manual.on_time(state, state.due)
        assert events, "a due transition must emit an event"
        state = fold(state, events)
    return state


def statuses(state):
    return [invoice.status.value for invoice in state.invoices]


def paid(state, number=-1, moment=NOW):
    invoice = state.invoices[number]
    return fold(state, manual.pay(state, invoice.invoice_id, "bank 1", moment))
