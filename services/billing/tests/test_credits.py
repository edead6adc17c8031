"""Credit given never exceeds money received, in any history of payments and changes."""

from dataclasses import dataclass, field

import pytest
from billing_samples import CATALOGUE, DAY, NOW, PRO_1
from change_samples import SUBSCRIPTION
from hypothesis import example, given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain import changes
from paybill_billing.subscriptions.domain.change_requests import ChangeIntent, WhileOverdue, resolve
from paybill_billing.subscriptions.domain.changes import Status
from paybill_billing.subscriptions.domain.credits import credit_of, excess_credit, unpaid_credit
from paybill_contracts.billing import AccessState
from paybill_contracts.changes import ChangeKind, Proration, ProrationLine
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money

UNIT = SUBSCRIPTION.price.minor


def money(minor):
    return Money(minor=minor, currency="EUR")


def proration_of(before, after, left):
    """Returns the proration of a change of quantity. left: percent of the period."""
    credit, charge = before * UNIT * left // 100, -(-after * UNIT * left // 100)
    lines = (ProrationLine(text="unused", amount=money(-credit)), ProrationLine(text="rest", amount=money(charge)))
    return Proration(lines=lines, due_now=money(max(charge - credit, 0)), next_amount=None, effective_at=NOW)


@dataclass
class Balance:
    """A subscription, and the money of its current period."""

    while_overdue: WhileOverdue
    subscription: object = SUBSCRIPTION
    left: int = 100
    received: list[Money] = field(default_factory=list)
    credited: list[Money] = field(default_factory=list)

    def renew(self, *, is_paid):
        amount = money(self.subscription.quantity * UNIT)
        self.left, self.received, self.credited = 100, [amount] if is_paid else [], []
        failed = (AccessState.GRACE, "past_due", amount)
        # None: the provider is still collecting, which takes Stripe an hour.
        self._set(*(failed if is_paid is False else (AccessState.ACTIVE, "active", None)))

    def pay(self):
        if self.subscription.overdue is not None:
            self.received.append(self.subscription.overdue)
            self._set(AccessState.ACTIVE, "active", None)

    def change(self, quantity, *, passed, fails_meanwhile):
        self.left = max(self.left - passed, 0)
        intent = ChangeIntent(ChangeKind.PLAN, quantity=quantity)
        try:
            desired = resolve(CATALOGUE, self.subscription, intent, leaving=False, while_overdue=self.while_overdue)
        except DomainError:
            return
        if self.subscription.overdue is None and not self.received:
            amount = money(self.subscription.quantity * UNIT)
            if fails_meanwhile:
                self._set(AccessState.GRACE, "past_due", amount)
            else:
                self.received.append(amount)
        quote = proration_of(self.subscription.quantity, quantity, self.left)
        if desired.without_proration:
            quote = quote.model_copy(update={"lines": (), "due_now": money(0)})
        request = changes.request(
            None, self.subscription, desired, change_id="chg_" + "1" * 32, confirmed=True, reason="x", open_change=None
        )
        change = changes.evolve(None, request[0])
        for event in changes.quoted(change, self.subscription, quote, PRO_1, PRO_1, NOW):
            change = changes.evolve(change, event)
        if change.status is Status.CONFIRMED:
            self.received += [line.amount for line in quote.lines if line.amount.minor > 0]
            self.credited.append(credit_of(quote))
            self.subscription = self.subscription.model_copy(update={"quantity": quantity})

    def _set(self, access, status, overdue):
        until = NOW + DAY if access is AccessState.GRACE else None
        values = {"access": access, "provider_status": status, "overdue": overdue, "grace_until": until}
        self.subscription = self.subscription.model_copy(update=values)


actions = st.lists(
    st.one_of(
        st.builds(lambda paid: ("renew", {"is_paid": paid}), st.sampled_from([True, False, None])),
        st.just(("pay", {})),
        st.builds(
            lambda quantity, passed, fails: (
                "change",
                {"quantity": quantity, "passed": passed, "fails_meanwhile": fails},
            ),
            st.integers(1, 20),
            st.integers(0, 60),
            st.booleans(),
        ),
    ),
    max_size=20,
)


def _changed(quantity):
    return "change", {"quantity": quantity, "passed": 0, "fails_meanwhile": False}


@given(history=actions, while_overdue=st.sampled_from(WhileOverdue), first_is_paid=st.booleans())
@example(
    history=[_changed(5), ("pay", {}), _changed(1)], while_overdue=WhileOverdue.WITHOUT_PRORATION, first_is_paid=False
)
def test_credit_given_never_exceeds_money_received(history, while_overdue, first_is_paid):
    balance = Balance(while_overdue)
    balance.renew(is_paid=first_is_paid)

    for name, values in history:
        getattr(balance, name)(**values)

        assert excess_credit(balance.received, balance.credited) == {}


def test_a_credit_for_an_unpaid_period_is_found_and_refused():
    balance = Balance(WhileOverdue.REFUSED)
    balance.renew(is_paid=False)
    quote = proration_of(3, 1, 50)

    assert unpaid_credit(balance.subscription, quote) == money(3 * UNIT // 2)
    assert unpaid_credit(SUBSCRIPTION, quote) is None
    assert excess_credit([money(UNIT // 2)], [credit_of(quote)]) == {"EUR": UNIT}


@pytest.mark.parametrize("credited", [[money(5)], [money(5), Money(minor=1, currency="USD")]])
def test_each_currency_has_its_own_balance(credited):
    assert excess_credit([money(5)], credited) == ({} if len(credited) == 1 else {"USD": 1})
