"""Policies of subscription changes: unpaid invoices, and phases that are scheduled at the provider."""

from dataclasses import replace

import pytest
from billing_samples import CATALOGUE, DAY, NOW, PRO_1, PRO_2
from change_samples import PRORATION, SUBSCRIPTION, UPGRADE, after, having, requested, resolved
from paybill_billing.subscriptions.domain import changes
from paybill_billing.subscriptions.domain.change_requests import (
    ChangeIntent,
    SubscriptionOverdueError,
    WhileOverdue,
    desired_at_provider,
    resolve,
)
from paybill_billing.subscriptions.domain.changes import DropsScheduledError
from paybill_contracts.billing import AccessState
from paybill_contracts.changes import ChangeConfirmed, ChangeKind, ProrationLine, ScheduledPhase, UnpaidTime
from paybill_contracts.money import Money

OWED = Money(minor=5000, currency="EUR")
OVERDUE = having(access=AccessState.GRACE, provider_status="past_due", grace_until=NOW + DAY, overdue=OWED)


@pytest.mark.parametrize("intent", [UPGRADE, ChangeIntent(ChangeKind.PLAN, quantity=1)], ids=["plan", "quantity"])
def test_a_change_while_the_invoice_is_unpaid_gives_no_credit(intent):
    with pytest.raises(SubscriptionOverdueError, match=r"50\.00 EUR"):
        resolved(intent, OVERDUE)

    desired = resolve(CATALOGUE, OVERDUE, intent, leaving=False, while_overdue=WhileOverdue.WITHOUT_PRORATION)

    assert (desired.without_proration, desired_at_provider(CATALOGUE, OVERDUE, desired).without_proration) == (
        True,
    ) * 2
    assert not resolved(replace(intent, at_period_end=True), OVERDUE).without_proration
    paid = resolve(CATALOGUE, SUBSCRIPTION, intent, leaving=False, while_overdue=WhileOverdue.WITHOUT_PRORATION)
    assert not paid.without_proration


CREDITED = Money(minor=19_900, currency="EUR")
UNPAID = PRORATION.model_copy(
    update={
        "lines": (ProrationLine(text="unused", amount=Money(minor=-19_900, currency="EUR")),),
        "unpaid": UnpaidTime(amount=CREDITED, reason="the invoice in_1 of 199.00 EUR is void"),
    }
)


def test_a_quote_that_credits_time_that_was_never_paid_is_refused_with_reason_and_amount() -> None:
    (refused,) = changes.quoted(requested(confirmed=True), SUBSCRIPTION, UNPAID, PRO_1, PRO_2, NOW)

    assert refused.code == "period_unpaid"
    assert "the invoice in_1 of 199.00 EUR is void" in refused.reason
    assert "would credit 199.00 EUR that were never paid" in refused.reason


def test_a_quote_that_names_unpaid_time_without_a_credit_is_applied_without_a_proration() -> None:
    change = requested(confirmed=True)
    quote, confirmed = changes.quoted(change, SUBSCRIPTION, UNPAID.model_copy(update={"lines": ()}), PRO_1, PRO_2, NOW)

    assert (quote.proration.unpaid.amount, type(confirmed)) == (CREDITED, ChangeConfirmed)
    assert not change.wanted.without_proration
    assert after(change, [quote]).wanted.without_proration


@pytest.mark.parametrize(
    ("policy", "quantity", "expected"),
    [
        (WhileOverdue.REFUSED, 1, False),
        (WhileOverdue.WITHOUT_PRORATION, 1, True),
        (WhileOverdue.WITHOUT_PRORATION, 9, False),
    ],
)
def test_only_a_cheaper_change_may_go_without_a_proration(policy, quantity, expected) -> None:
    intent = ChangeIntent(ChangeKind.PLAN, quantity=quantity)

    desired = resolve(CATALOGUE, SUBSCRIPTION, intent, leaving=False, while_overdue=policy)

    assert (desired.unpaid_without_proration, desired.without_proration) == (expected, False)


def test_a_past_due_subscription_whose_invoice_was_voided_owes_nothing() -> None:
    with pytest.raises(
        SubscriptionOverdueError, match="nothing is owed: the invoice of the period was voided"
    ) as refused:
        resolved(UPGRADE, OVERDUE.model_copy(update={"overdue": None}))

    assert "has to be paid" not in str(refused.value)


PHASES = tuple(ScheduledPhase(starts_at=NOW + days * DAY, text=f"{days} x price_1") for days in (30, 60))


@pytest.mark.parametrize(("phases", "allowed", "code"), [(1, False, None), (2, False, "drops"), (2, True, None)])
def test_scheduled_phases_are_dropped_only_with_the_flag(phases, allowed, code):
    intent, proration = (
        replace(UPGRADE, drop_scheduled=allowed),
        PRORATION.model_copy(update={"dropped": PHASES[:phases]}),
    )
    change = requested(intent=intent)
    shown = after(change, changes.quoted(change, SUBSCRIPTION, proration, PRO_1, PRO_2, NOW))
    automatic = requested(intent=intent, confirmed=True)
    last = changes.quoted(automatic, SUBSCRIPTION, proration, PRO_1, PRO_2, NOW)[-1]

    if code is None:
        assert isinstance(changes.confirm(shown, shown.quote.quote_hash, NOW)[0], ChangeConfirmed)
        assert isinstance(last, ChangeConfirmed)
    else:
        with pytest.raises(DropsScheduledError, match=r"30 x price_1 from .* --drop-scheduled"):
            changes.confirm(shown, shown.quote.quote_hash, NOW)
        assert (last.code, shown.quote.proration.dropped) == ("drops_scheduled_phases", PHASES)


def test_a_quote_names_what_is_overdue():
    (quote,) = changes.quoted(requested(), OVERDUE, PRORATION, PRO_1, PRO_2, NOW)
    (paid,) = changes.quoted(requested(), SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW)

    assert (quote.overdue, paid.overdue) == (OWED, None)
    assert quote.quote_hash != paid.quote_hash


def test_a_quote_names_what_the_customer_owes_for_earlier_subscriptions() -> None:
    debt = Money(minor=4000, currency="EUR")
    (quote,) = changes.quoted(requested(), SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW, debt)

    assert quote.overdue == debt
