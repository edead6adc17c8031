"""One trial for each customer and plan, decided by the digest of the contact address."""

import asyncio
from datetime import timedelta
from importlib.resources import files

import pytest
from billing_samples import CATALOGUE, NOW, PRO_1, REQUESTED, TENANT
from paybill_billing.providers.domain import Choice
from paybill_billing.subscriptions.domain import accounts, trials
from paybill_billing.subscriptions.domain.trials import Trial
from paybill_contracts.accounts import TrialClaimed, TrialReleased
from paybill_contracts.tenant import HoldOrigin, TenantCancelled
from paybill_runtime.testing import until

OTHER = "ten_" + "2" * 32
DIGEST = "d" * 64
UNTIL = NOW + timedelta(days=400)
FIRST = REQUESTED.model_copy(update={"contact_digest": DIGEST, "contact_until": UNTIL})
SECOND = FIRST.model_copy(update={"tenant_id": OTHER})
PLANS = files("paybill_billing").joinpath("plans.yaml").read_text()
WITH_TRIAL = PLANS.replace("grace: 7d", "grace: 7d\n    trial: 14d", 1)
CHOICE = Choice("providers", ("stripe",), "stripe", "a" * 64)


def claimed(event=FIRST) -> Trial:
    (fact,) = trials.claim(None, event, NOW)
    return trials.evolve(None, fact)


def test_the_first_sign_up_of_a_customer_claims_the_trial_of_a_plan() -> None:
    (fact,) = trials.claim(None, FIRST, NOW)

    assert fact == TrialClaimed(trial_id=trials.trial_id(FIRST), tenant_id=TENANT, plan="pro", until=UNTIL)
    assert trials.claim(claimed(), FIRST, NOW) == []


def test_another_tenant_of_the_customer_has_no_trial_until_the_digest_ends() -> None:
    assert not trials.is_free(claimed(), SECOND, NOW)
    assert trials.claim(claimed(), SECOND, NOW) == []
    assert trials.is_free(claimed(), SECOND, UNTIL)
    assert len(trials.claim(claimed(), SECOND, UNTIL)) == 1


def test_another_plan_or_customer_has_its_own_trial() -> None:
    ids = {
        trials.trial_id(event)
        for event in (
            FIRST,
            FIRST.model_copy(update={"plan": "basic"}),
            FIRST.model_copy(update={"contact_digest": "e" * 64}),
            REQUESTED,
            REQUESTED.model_copy(update={"tenant_id": OTHER}),
        )
    }

    assert len(ids) == 5
    assert trials.trial_id(SECOND) == trials.trial_id(FIRST)


def test_without_a_digest_every_sign_up_has_its_trial() -> None:
    assert trials.is_free(None, REQUESTED, NOW)
    assert trials.claim(None, REQUESTED, NOW) == []


def test_an_abandoned_sign_up_releases_its_trial() -> None:
    (fact,) = trials.release(claimed(), TENANT)
    free = trials.evolve(claimed(), fact)

    assert fact == TrialReleased(trial_id=trials.trial_id(FIRST), tenant_id=TENANT)
    assert trials.is_free(free, SECOND, NOW)
    assert trials.release(free, TENANT) == trials.release(claimed(), OTHER) == trials.release(None, TENANT) == []
    with pytest.raises(trials.TrialOrderError):
        trials.evolve(None, fact)


def test_a_plan_is_sold_without_a_trial_that_its_customer_has_had() -> None:
    trial = PRO_1.model_copy(update={"trial_days": 14})
    first, second = (
        accounts.evolve(None, accounts.on_tenant_requested(None, CATALOGUE, CHOICE, event, has_trial=has_trial)[0])
        for event, has_trial in ((FIRST, True), (SECOND, False))
    )

    assert accounts.sold_plan(first, trial).trial_days == 14
    assert accounts.sold_plan(second, trial).trial_days == 0
    assert accounts.sold_plan(first, trial, is_first=False).trial_days == 0


@pytest.mark.parametrize("catalogue", [WITH_TRIAL], indirect=True)
async def test_a_second_sign_up_with_the_same_address_has_no_trial(testbed) -> None:
    ids = [f"ten_{number:032x}" for number in range(1, 4)]
    for tenant_id in ids[:2]:
        await testbed.tenants.request_tenant(tenant_id, contact_digest=DIGEST)
    opened = [await testbed.opened(tenant_id) for tenant_id in ids[:2]]
    for account in opened:
        testbed.fake.control.pay_checkout(account["checkout_url"].rpartition("/")[2])
    first = await testbed.subscription(ids[0], "trialing")
    second = await testbed.subscription(ids[1], "active")

    assert (first["trial_end"] is not None, second["trial_end"]) == (True, None)


@pytest.mark.parametrize("catalogue", [WITH_TRIAL], indirect=True)
async def test_an_abandoned_sign_up_leaves_the_trial_to_the_next(testbed) -> None:
    await testbed.tenants.request_tenant(TENANT, contact_digest=DIGEST)
    await testbed.opened(TENANT)
    await testbed.tenants.publish(
        TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.BILLING, reason="nobody paid", is_abandoned=True)
    )
    await testbed.log.facts("billing.trial_released")

    await testbed.tenants.request_tenant(OTHER, contact_digest=DIGEST)
    claims = await testbed.log.facts("billing.trial_claimed", at_least=2)

    assert [fact.event.tenant_id for fact in claims] == [TENANT, OTHER]


@pytest.mark.parametrize("catalogue", [WITH_TRIAL], indirect=True)
async def test_a_trial_that_began_while_its_sign_up_was_abandoned_is_not_left_to_the_next(testbed) -> None:
    control = testbed.fake.control
    await testbed.tenants.request_tenant(TENANT, contact_digest=DIGEST)
    session = (await testbed.opened(TENANT))["checkout_url"].rpartition("/")[2]
    await asyncio.to_thread(control.pause_delivery)
    await asyncio.to_thread(control.pay_checkout, session)
    await testbed.tenants.publish(
        TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.BILLING, reason="nobody paid", is_abandoned=True)
    )

    async def cancelled():
        found = await asyncio.to_thread(testbed.fake.stripe.subscriptions.list, {"status": "all"})
        return [each.status for each in found.data] == ["canceled"]

    await until(cancelled)
    await asyncio.to_thread(control.resume_delivery)
    await testbed.subscription(TENANT, "ended")
    await testbed.tenants.request_tenant(OTHER, contact_digest=DIGEST)
    session = (await testbed.opened(OTHER))["checkout_url"].rpartition("/")[2]
    await asyncio.to_thread(control.pay_checkout, session)

    assert (await testbed.subscription(OTHER, "active"))["trial_end"] is None
