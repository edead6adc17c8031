"""A failed payment is one fact for each event of the provider."""

from billing_samples import EUR_20, TENANT
from paybill_billing.domain import payments
from paybill_billing.domain.payments import Attempt

ATTEMPT = Attempt(event="evt_1", invoice="in_1", amount=EUR_20, number=2)
SUBSCRIPTION = "sub_" + "a" * 32


def test_the_same_event_twice_is_one_failure():
    (said,) = payments.fail(None, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION)
    state = payments.evolve(None, said)

    assert (state.id, state.attempt, state.amount) == ("evt_1", 2, EUR_20)
    assert payments.fail(state, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION) == []
