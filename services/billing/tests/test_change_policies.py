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
from paybill_contracts.changes import ChangeConfirmed, ChangeKind, ScheduledPhase
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
