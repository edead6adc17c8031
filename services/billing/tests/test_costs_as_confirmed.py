"""Comparison of a confirmed quote with the cost of the change at the time of its execution."""

import pytest
from billing_samples import NOW
from paybill_billing.providers.port.desired import DesiredSubscription, costs_as_confirmed
from paybill_contracts.changes import ChangeKind, Proration, ProrationLine, ScheduledPhase, UnpaidTime
from paybill_contracts.money import Money


def euros(minor):
    return Money(minor=minor, currency="EUR")


def quote(*lines, due=None, usage=0, **more):
    values = {
        "lines": tuple(ProrationLine(text="x", amount=euros(each)) for each in lines),
        "due_now": euros(max(sum(lines), 0) if due is None else due),
        "next_amount": euros(5000),
        "effective_at": NOW,
        "usage": euros(usage) if usage else None,
    }
    return Proration(**values | more)


PLAN = DesiredSubscription(ChangeKind.PLAN, at_period_end=False, product="shop")
QUOTE = quote(-2000, 5000, 300, usage=300)
PHASE = ScheduledPhase(starts_at=NOW.replace(year=NOW.year + 1), text="2 x price_1")


@pytest.mark.parametrize(
    "current",
    [
        QUOTE,
        quote(-2000, 5000, 900, usage=900),
        quote(-2000, 5000),
        quote(-2000, 5000, 900, usage=900, due=3500),
    ],
    ids=["the same", "more usage", "no usage any more", "credit of the balance"],
)
def test_usage_since_the_quote_does_not_make_it_outdated(current):
    assert costs_as_confirmed(PLAN, QUOTE, current)


@pytest.mark.parametrize(
    "current",
    [
        quote(-2000, 5001, 300, usage=300),
        quote(-2000, 5000, 300, usage=300, due=3301),
        quote(-2000, 5000, 900, usage=900, due=3901),
        quote(-2000, 5000, 300, usage=300, next_amount=euros(5001)),
        quote(-2000, 5000, 300, usage=300, effective_at=NOW.replace(year=NOW.year + 1)),
        quote(-2000, 5000, 300, usage=300, dropped=(PHASE,)),
        quote(-2000, 5000, 300, usage=300, unpaid=UnpaidTime(amount=euros(2000), reason="it is void")),
    ],
    ids=["a line", "due now", "more than the usage", "later periods", "the period", "a new phase", "unpaid time"],
)
def test_another_cost_makes_the_quote_outdated(current):
    assert not costs_as_confirmed(PLAN, QUOTE, current)


def test_phases_that_were_confirmed_or_are_the_change_itself_may_be_dropped():
    own = PHASE.model_copy(update={"starts_at": NOW})

    assert costs_as_confirmed(PLAN, quote(dropped=(PHASE,)), quote(dropped=(PHASE, own)))
    assert costs_as_confirmed(PLAN, quote(dropped=(PHASE,)), quote())
