"""Histories of customers that return, leave with something left, pay twice, or pay too late."""

import history_actions
import pytest
from history_actions import open_checkout, request, set_card
from history_checks import faults_of
from history_starts import at_rest, incidents, pay_at_checkout, requested
from history_world import DAY_S, TENANT, Network, World
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.subscriptions.domain.accounts import NoCheckoutError
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS
from paybill_contracts.incidents import BillingIncidentClosed, BillingIncidentOpened
from paybill_tenant.domain import holds
from paybill_tenant.domain.tenants import Status
from paybill_tenant.tables import TENANTS


async def test_a_customer_returns_whose_subscription_ended_before_its_environment_was_planned() -> None:
    world = await requested()
    await pay_at_checkout(world)
    await history_actions.end(world, world.stripe.all("subscription")[0])
    await world.poll()
    cancelled = world.tenant.state(TENANTS, TENANT)

    await history_actions.open_checkout(world)
    await pay_at_checkout(world)
    faults = await faults_of(world)

    assert cancelled.status is Status.CANCELLED
    assert (world.tenant.state(TENANTS, TENANT).status, faults) == (Status.ACTIVE, [])


async def test_nothing_remains_when_an_operator_offboards_after_the_end_of_the_last_subscription() -> None:
    world = await at_rest()
    await history_actions.subscribe_to_other(world)
    plan, _ = world.stripe.all("subscription")
    await history_actions.end(world, plan)
    await world.run_for(60)
    ended = world.tenant.state(TENANTS, TENANT)

    await history_actions.offboard(world)
    faults = await faults_of(world)

    assert len(ended.remaining) == 1
    assert (world.tenant.state(TENANTS, TENANT).remaining, faults) == ((), [])


async def test_what_a_customer_subscribes_to_after_an_operators_offboarding_never_gives_access() -> None:
    world = await requested()
    await history_actions.offboard(world)
    await world.rest()
    world.network = Network.DOWN
    for _ in range(2):
        await history_actions.subscribe(world)
    ended, _ = world.stripe.all("subscription")
    await history_actions.end(world, ended)
    world.catch_up()

    world.receive(next(event for event in world.lost if event["type"] == "customer.subscription.deleted"))
    await world.run_for(5)
    faults = await faults_of(world)

    assert [fact for fact in world.billing.facts if fact.event.TYPE == "billing.entitlements_set"] == []
    assert ({each["status"] for each in world.stripe.all("subscription")}, faults) == ({"canceled"}, [])


@pytest.mark.parametrize("leave", ["customer", "operator"])
async def test_a_subscription_that_was_to_begin_later_ends_with_its_tenant(leave: str) -> None:
    world = await at_rest()
    await history_actions.schedule(world)
    if leave == "customer":
        await history_actions.end(world, world.stripe.all("subscription")[0])
    else:
        await history_actions.offboard(world)
    await world.rest()
    scheduled = [each["status"] for each in world.stripe.all("subscription_schedule")]

    await world.run_for(50 * DAY_S)
    faults = await faults_of(world)

    assert (scheduled, faults) == (["canceled"], [])
    assert {each["status"] for each in world.stripe.all("subscription")} == {"canceled"}


async def test_a_subscription_that_begins_while_its_tenant_leaves_keeps_it() -> None:
    world = await at_rest()
    await history_actions.schedule(world)
    starts = world.stripe.all("subscription_schedule")[0]["phases"][0]["start_date"]
    await world.run_for(starts - world.now.timestamp() - 60)
    await history_actions.end(world, world.stripe.all("subscription")[0])
    await world.run_for(50)
    scheduled = world.tenant.state(TENANTS, TENANT).scheduled

    await world.run_for(60)
    faults = await faults_of(world)

    assert scheduled is not None
    assert (world.tenant.state(TENANTS, TENANT).status, faults) == (Status.ACTIVE, [])


async def test_a_customer_that_is_deleted_at_the_provider_leaves() -> None:
    world = await at_rest()
    await history_actions.delete_customer(world)

    faults = await faults_of(world)

    assert (world.tenant.state(TENANTS, TENANT).status, faults) == (Status.RETAINED, [])


@pytest.mark.parametrize("payments", [0, 1])
async def test_an_operators_offboarding_after_that_of_billing_rules_out_the_return(payments: int) -> None:
    world = await at_rest()
    await history_actions.end(world, world.stripe.all("subscription")[0])
    await world.run_for(60)
    await world.rest()
    await open_checkout(world)
    retained = world.tenant.state(TENANTS, TENANT).status

    await history_actions.offboard(world)
    if payments:
        await pay_at_checkout(world)
    await world.rest()
    with pytest.raises(NoCheckoutError):
        await open_checkout(world)
    faults = await faults_of(world)

    opened = [each.event.kind for each in world.billing.facts if isinstance(each.event, BillingIncidentOpened)]
    assert retained is world.tenant.state(TENANTS, TENANT).status is Status.RETAINED
    assert "open" not in {each["status"] for each in world.stripe.all("checkout.session")}
    assert {each["status"] for each in world.stripe.all("subscription")} == {"canceled"}
    assert (opened.count("payment_without_tenant"), faults) == (payments, [])


async def test_a_second_subscription_is_an_incident_until_one_of_them_ends() -> None:
    world = await at_rest()
    first = world.stripe.all("subscription")[0]
    await history_actions.subscribe(world)
    await world.run_for(60)
    soon = incidents(world)
    await world.run_for(20 * 60)
    await world.rest()
    (opened,) = incidents(world)

    await history_actions.end(world, first)
    await world.run_for(60)
    closed = [each.event for each in world.billing.facts if isinstance(each.event, BillingIncidentClosed)]

    evidence = {each.name: each.value for each in opened.evidence}
    assert (soon, opened.kind, opened.command) == ([], "second_subscription", f"paybill tenant portal {TENANT}")
    assert {evidence["subscription_1"], evidence["subscription_2"]} == {
        each["id"] for each in world.stripe.all("subscription")
    }
    assert "20.00 EUR each month" in evidence.values()
    assert opened.incident_id in {each.incident_id for each in closed}


@pytest.mark.parametrize("network", [Network.RELIABLE, Network.DOWN])
async def test_a_replacement_is_no_second_subscription(network: Network) -> None:
    world = await at_rest()
    first = world.stripe.all("subscription")[0]
    await history_actions.subscribe(world)
    await world.run_for(60)
    world.network = network
    await history_actions.end(world, first)
    await world.run_for(60)
    await world.rest()

    assert "second_subscription" not in {each.kind for each in incidents(world)}
    assert [state.subscription.access for state in world.billing.all(SUBSCRIPTIONS)].count("ended") == 1


async def test_what_charges_while_a_legal_hold_delays_the_offboarding_is_an_incident() -> None:
    world = await at_rest()
    world.decide_tenant(lambda tenant: holds.place_legal_hold(tenant, "2026-17"))
    await history_actions.subscribe_to_other(world)
    plan, other = world.stripe.all("subscription")
    await history_actions.end(world, plan)
    await world.run_for(3600)
    found = [each for each in incidents(world) if each.kind == "charge_without_tenant"]
    status = world.tenant.state(TENANTS, TENANT).status

    world.decide_tenant(lambda tenant: holds.release_legal_hold(tenant, "2026-17"))
    await world.run_for(3600)
    closed = {each.event.incident_id for each in world.billing.facts if isinstance(each.event, BillingIncidentClosed)}

    assert (status, [each.subject for each in found]) == (Status.SUSPENDED, [f"subscription/{other['id']}"])
    assert found[0].incident_id in closed
    assert {each["status"] for each in world.stripe.all("subscription")} == {"canceled"}


async def test_a_failed_renewal_after_a_pause_that_one_fetch_shows_together_keeps_access() -> None:
    world = await at_rest()
    subscription = f"subscriptions/{world.stripe.all('subscription')[0]['id']}"
    await world.stripe.post(f"/v1/{subscription}", pause_collection={"behavior": "void"})
    await world.rest()
    paused = world.tenant.state(TENANTS, TENANT)

    world.network = Network.DOWN
    await world.stripe.post(f"/v1/{subscription}", pause_collection="")
    await set_card(world, "fail")
    await world.stripe.post(f"/fake/{subscription}/renew")
    await world.run_for(60)
    still_paused = world.tenant.state(TENANTS, TENANT)
    await world.reconcile()

    after = world.tenant.state(TENANTS, TENANT)
    assert paused.status is still_paused.status is Status.SUSPENDED
    assert (after.status, after.holds) == (Status.ACTIVE, ())
    assert world.billing.state(ENTITLEMENTS, TENANT).allows_access


@pytest.mark.parametrize("before_s", [5, 0, -2])
async def test_a_payment_while_its_sign_up_is_abandoned_is_an_incident(before_s: int) -> None:
    world = World("ids")
    await world.begin()
    world.network = Network.RELIABLE
    await request(world, "team")
    valid_until = world.tenant.state(TENANTS, TENANT).valid_until

    await world.run_for((valid_until - world.now).total_seconds() - 600)
    await open_checkout(world)
    await world.run_for(600 - before_s)
    session = world.stripe.all("checkout.session")[-1]["id"]
    world.network = Network.DOWN  # the webhooks arrive after the end of the sign-up
    await world.stripe.post(f"/fake/checkout/{session}/pay", outcome="succeed")
    await world.run_for(max(before_s, 0) + 1)
    await world.poll()
    faults = await faults_of(world)

    opened = [each.event for each in world.billing.facts if isinstance(each.event, BillingIncidentOpened)]
    assert faults == []
    assert world.tenant.state(TENANTS, TENANT).status is Status.CANCELLED
    assert [each.kind for each in opened] == ["payment_without_tenant"]
