"""Subscriptions that can still charge the customer of a tenant that left: cancelled, or reported as an incident."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import ACCOUNT, NOW, TENANT, snapshot
from paybill_billing.app import service
from paybill_billing.subscriptions.domain import accounts, leftovers
from paybill_contracts.accounts import AccountClosed, AccountReopened, LeftoverAction, LeftoverEnded, LeftoverFound
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

ID = "ten_" + "a" * 32
CANCEL = LeftoverAction.CANCEL
OPEN = ACCOUNT
CLOSED, LEAVING = replace(OPEN, closed=True), replace(OPEN, leaving=True)


def left(origin=HoldOrigin.BILLING, tenant_id=TENANT):
    return OffboardingStarted(tenant_id=tenant_id, origin=origin, reason="bye", retain_until=NOW)


def found(account, status="active", *, is_sold=False, is_known=False):
    return leftovers.on_fetched(account, snapshot(status), CANCEL, is_sold=is_sold, is_known=is_known)


def test_an_account_is_closed_when_its_last_subscription_ended_and_reopened_when_its_tenant_returns() -> None:
    (closed,) = accounts.on_tenant_leaving(OPEN, left())
    state = accounts.evolve(OPEN, closed)
    (reopened,) = accounts.on_tenant_returning(state)

    assert closed == AccountClosed(tenant_id=TENANT, provider="stripe", customer="cus_1")
    assert (state.closed, state.leaving) == (True, False)
    assert accounts.on_tenant_leaving(state, left()) == []
    assert reopened == AccountReopened(tenant_id=TENANT)
    assert accounts.evolve(state, reopened) == OPEN
    assert accounts.on_tenant_returning(OPEN) == accounts.on_tenant_returning(None) == []


@pytest.mark.parametrize("status", ["active", "trialing", "past_due", "unpaid", "paused"])
def test_what_belongs_to_no_plan_is_a_leftover_of_a_tenant_that_left(status) -> None:
    for account in (CLOSED, LEAVING):
        (event,) = found(account, status)

        assert event == LeftoverFound(
            tenant_id=TENANT, provider="stripe", customer="cus_1", subscription="sub_P1", action=CANCEL
        )
        assert found(accounts.evolve(account, event), status) == []
    assert found(OPEN, status) == []


def test_a_subscription_to_a_plan_brings_a_tenant_back_unless_an_operator_offboarded_it() -> None:
    assert found(CLOSED, is_sold=True) == found(CLOSED, "incomplete", is_sold=True) == []
    assert len(found(CLOSED, "unpaid", is_sold=True)) == 1
    assert len(found(LEAVING, is_sold=True)) == 1
    assert found(LEAVING, is_sold=True, is_known=True) == []


def test_the_end_of_a_leftover_is_recorded_once() -> None:
    held = replace(CLOSED, leftovers=("sub_P1",))
    (ended,) = found(held, "canceled")

    assert ended == LeftoverEnded(tenant_id=TENANT, provider="stripe", subscription="sub_P1")
    assert found(accounts.evolve(held, ended), "canceled") == []


async def with_second_subscription(testbed):
    """Signs a tenant up, and creates a second subscription with a price that no plan has, 50.00 a month."""
    stripe, first = testbed.fake.stripe, await testbed.subscribed(ID)
    customer = (await testbed.account(ID))["customer"]
    product = await asyncio.to_thread(stripe.products.create, {"name": "Training"})
    price = await asyncio.to_thread(
        stripe.prices.create,
        {"product": product.id, "currency": "eur", "unit_amount": 5000, "recurring": {"interval": "month"}},
    )
    second = await subscribed_to(testbed, customer, price.id)
    return first["provider_subscription"], second, customer, price.id


async def subscribed_to(testbed, customer, price):
    params = {"customer": customer, "items": [{"price": price}], "trial_period_days": 30}
    return (await asyncio.to_thread(testbed.fake.stripe.subscriptions.create, params)).id


async def status_is(testbed, subscription, status):
    async def probe():
        return (await asyncio.to_thread(testbed.fake.stripe.subscriptions.retrieve, subscription)).status == status

    await until(probe)


async def test_what_remains_or_appears_after_the_end_is_cancelled(testbed) -> None:
    first, second, customer, price = await with_second_subscription(testbed)
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, first)
    (ended,) = await testbed.log.facts("billing.subscription_ended")

    await testbed.tenants.publish(left(tenant_id=ID))
    await status_is(testbed, second, "canceled")
    await testbed.log.facts("billing.leftover_ended")
    third = await subscribed_to(testbed, customer, price)
    await status_is(testbed, third, "canceled")
    await testbed.log.facts("billing.leftover_ended", at_least=2)
    await testbed.settled()
    reconciled = await testbed.reconciled(repair=True)
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)

    assert (ended.event.others, ended.event.remaining) == (0, (second,))
    # Both are over, and were never a subscription to a plan: no run can repair anything about them.
    assert (reconciled["looked"], await testbed.drifts(reconciled)) == (3, [])
    assert report.equal, report.as_dict()


@pytest.mark.e2e
async def test_by_policy_it_is_reported_until_it_ends(testbed_of, settings) -> None:
    settings["leftovers"] = "report"
    testbed = await testbed_of(service())
    first, second, *_ = await with_second_subscription(testbed)
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, first)
    await testbed.log.facts("billing.subscription_ended")

    await testbed.tenants.publish(left(tenant_id=ID))
    (opened,) = await testbed.log.facts("billing.incident_opened")
    await status_is(testbed, second, "trialing")
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, second)
    (closed,) = await testbed.log.facts("billing.incident_closed")

    assert (opened.event.kind, opened.event.subject) == ("charge_without_tenant", f"subscription/{second}")
    assert closed.event.incident_id == opened.event.incident_id
    assert not (await testbed.account(ID))["entitlements"]["allows_access"]


@pytest.mark.e2e
async def test_a_subscription_after_an_operators_offboarding_gives_no_access(testbed) -> None:
    await testbed.subscribed(ID)
    customer = (await testbed.account(ID))["customer"]
    await testbed.tenants.publish(left(HoldOrigin.OPERATOR, ID))
    await testbed.subscription(ID, "ended")
    price = testbed.fake.stripe.prices.list({"lookup_keys": ["starter_v1_month_eur"]}).data[0].id

    later = await subscribed_to(testbed, customer, price)
    await status_is(testbed, later, "canceled")
    await testbed.log.facts("billing.leftover_ended")

    sets = await testbed.log.facts("billing.entitlements_set", at_least=2)
    assert [fact.event.allows_access for fact in sets] == [True, False]


@pytest.mark.e2e
async def test_access_ends_with_an_operators_offboarding_although_its_webhooks_are_lost(testbed) -> None:
    await testbed.subscribed(ID)
    await asyncio.to_thread(testbed.fake.control.faults, lose=["customer.subscription.deleted"])
    await testbed.tenants.publish(left(HoldOrigin.OPERATOR, ID))

    await testbed.subscription(ID, "ended")

    assert not (await testbed.account(ID))["entitlements"]["allows_access"]


PAID = replace(snapshot("canceled"), period_start=NOW, paid_until=NOW + timedelta(days=30))


@pytest.mark.parametrize(
    ("account", "ended", "is_found"),
    [
        (replace(LEAVING, abandoned=True), PAID, True),
        (replace(LEAVING, leftovers=(PAID.id,)), PAID, True),
        (replace(LEAVING, closed=True), PAID, True),
        (LEAVING, PAID, False),
        (OPEN, PAID, False),
        (replace(LEAVING, abandoned=True), replace(PAID, status="active"), False),
        (replace(LEAVING, abandoned=True), replace(PAID, paid_until=None), False),
        (replace(LEAVING, abandoned=True), replace(PAID, trial_end=PAID.paid_until), False),
    ],
)
def test_a_payment_for_a_tenant_that_had_left_is_an_incident(account, ended, is_found) -> None:
    finding = leftovers.unserved_payment(account, ended)

    assert (finding is not None) is is_found
    assert finding is None or finding.command == f"paybill tenant show {account.id}"
