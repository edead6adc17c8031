"""Checkouts, schedules and invoice items that can still charge the customer of a tenant that left."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from billing_samples import ACCOUNT, NOW, TENANT
from entitlement_samples import ACTIVE
from paybill_billing.app import service
from paybill_billing.providers.port.snapshots import OpenedCheckout, PendingCharge
from paybill_billing.providers.stripe.payment_mappers import charge_target
from paybill_billing.providers.stripe.provider import Stripe
from paybill_billing.subscriptions.domain import accounts, leftovers
from paybill_contracts.accounts import LeftoverAction, LeftoverEnded, LeftoverFound, LeftoverKind
from paybill_contracts.billing import AccessState
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

ID = "ten_" + "a" * 32
PRICE = {
    "currency": "eur",
    "unit_amount": 5000,
    "product_data": {"name": "Training"},
    "recurring": {"interval": "month"},
}
KINDS = [LeftoverKind.CHECKOUT, LeftoverKind.SCHEDULE, LeftoverKind.INVOICE_ITEM]
CHECKOUT, ITEM = PendingCharge(LeftoverKind.CHECKOUT, "cs_1"), PendingCharge(LeftoverKind.INVOICE_ITEM, "ii_1")
CLOSED, LEAVING = replace(ACCOUNT, closed=True), replace(ACCOUNT, leaving=True)


def left(origin=HoldOrigin.BILLING, tenant_id=TENANT):
    return OffboardingStarted(tenant_id=tenant_id, origin=origin, reason="bye", retain_until=NOW)


def fetched(account, *charges):
    return leftovers.on_charges_fetched(account, "cus_1", charges, LeftoverAction.CANCEL)


def after(account, events):
    for event in events:
        account = accounts.evolve(account, event)
    return account


@pytest.mark.parametrize("kind", KINDS)
def test_a_charge_of_a_tenant_that_left_is_found_and_ended_once(kind) -> None:
    charge = PendingCharge(kind, "x_1")
    for account in (CLOSED, LEAVING):
        (found,) = fetched(account, charge)
        held = after(account, [found])
        (ended,) = fetched(held)

        assert (found.kind, found.subscription, held.charges, held.leftovers) == (kind, "x_1", (charge,), ())
        assert fetched(held, charge) == []
        assert ended == LeftoverEnded(tenant_id=TENANT, provider="stripe", subscription="x_1", kind=kind)
        assert after(held, [ended]) == account
    assert fetched(ACCOUNT, charge) == []


def test_a_tenant_that_left_by_itself_may_return_at_the_checkout_that_was_opened_for_it() -> None:
    returning = after(CLOSED, accounts.checkout_opened(CLOSED, OpenedCheckout("cs_1", "https://pay.example/1"), []))
    before = after(ACCOUNT, accounts.checkout_opened(ACCOUNT, OpenedCheckout("cs_1", "https://pay.example/1"), []))

    assert fetched(returning, CHECKOUT) == []
    assert [event.subscription for event in fetched(returning, CHECKOUT, ITEM)] == ["ii_1"]
    assert len(fetched(replace(returning, leaving=True), CHECKOUT)) == 1
    assert len(fetched(replace(before, closed=True), CHECKOUT)) == 1


def test_a_checkout_that_is_opened_after_the_end_and_before_the_offboarding_is_no_leftover() -> None:
    ended = ACTIVE.model_copy(update={"access": AccessState.ENDED})
    opened = OpenedCheckout("cs_1", "https://pay.example/1")
    during_delay = after(ACCOUNT, accounts.checkout_opened(ACCOUNT, opened, [ended]))

    assert fetched(replace(during_delay, closed=True), CHECKOUT) == []
    assert accounts.checkout_opened(during_delay, opened, [ended]) == []


def test_a_leftover_ends_when_it_becomes_the_checkout_at_which_the_tenant_can_return() -> None:
    opened = OpenedCheckout("cs_1", "https://pay.example/1")
    left_over = replace(CLOSED, checkout="cs_1", checkout_url=opened.url, charges=(CHECKOUT,))

    returning = after(left_over, accounts.checkout_opened(left_over, opened, []))
    (ended,) = fetched(returning, CHECKOUT)
    assert isinstance(ended, LeftoverEnded)
    assert fetched(after(returning, [ended]), CHECKOUT) == []


def test_the_incident_names_the_kind_of_the_object_and_a_command() -> None:
    (found,) = fetched(CLOSED, ITEM)
    subscription = found.model_copy(update={"kind": LeftoverKind.SUBSCRIPTION})

    finding = leftovers.finding_of(found, "refused")
    assert finding.command == f"paybill tenant show {TENANT}"
    assert leftovers.finding_of(subscription).command == f"paybill tenant portal {TENANT}"
    assert finding.subject == "invoice_item/ii_1"
    assert [each.name for each in finding.evidence] == ["customer", "invoice_item", "provider", "reason"]


def test_events_about_invoice_items_and_schedules_name_the_customer_to_fetch() -> None:
    assert charge_target({"object": "invoiceitem", "id": "ii_1", "customer": "cus_1"}) == "customer/cus_1"
    assert charge_target({"object": "subscription_schedule", "customer": {"id": "cus_1"}}) == "customer/cus_1"
    assert charge_target({"object": "invoice", "customer": "cus_1"}) is None
    assert charge_target({"object": "invoiceitem", "id": "ii_1"}) is None


def create(fake, kind, customer):
    """Creates an object of this kind at the fake and returns its id."""
    stripe = fake.stripe
    if kind is LeftoverKind.INVOICE_ITEM:
        return stripe.invoice_items.create({"customer": customer, "amount": 5000, "currency": "eur"}).id
    items = [{"price": stripe.prices.create(PRICE).id, "quantity": 1}]
    if kind is LeftoverKind.CHECKOUT:
        params = {"mode": "subscription", "customer": customer, "success_url": "https://pay.example"}
        return stripe.checkout.sessions.create(params | {"line_items": items}).id
    start = fake.control.clock()["now"] + 86_400
    params = {"customer": customer, "start_date": start, "phases": [{"items": items}]}
    return stripe.subscription_schedules.create(params).id


@pytest.fixture
async def provider(fake):
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        yield provider


@pytest.mark.parametrize("kind", KINDS)
async def test_a_charge_is_listed_until_it_is_removed(fake, provider, kind) -> None:
    customer = (await asyncio.to_thread(fake.stripe.customers.create, {"email": "a@b.example"})).id
    charge = PendingCharge(kind, await asyncio.to_thread(create, fake, kind, customer))

    found = await provider.charges_of(customer)
    await provider.remove_charge(charge)
    await provider.remove_charge(charge)
    assert found == (charge,)
    assert await provider.charges_of(customer) == ()
    assert await provider.charges_of("cus_unknown") == ()


@pytest.mark.parametrize(
    ("kind", "named"), [(LeftoverKind.INVOICE_ITEM, "invoiceitem"), (LeftoverKind.SCHEDULE, "subscription_schedule")]
)
async def test_a_thin_event_about_a_charge_leads_to_its_customer(fake, provider, kind, named) -> None:
    customer = (await asyncio.to_thread(fake.stripe.customers.create, {"email": "a@b.example"})).id
    charge = await asyncio.to_thread(create, fake, kind, customer)

    found = await provider.resolve(named, charge)
    assert found.target == f"customer/{customer}"


async def test_an_invoice_item_that_was_invoiced_meanwhile_is_left_on_its_invoice(fake, provider) -> None:
    customer = (await asyncio.to_thread(fake.stripe.customers.create, {"email": "a@b.example"})).id
    item = await asyncio.to_thread(create, fake, LeftoverKind.INVOICE_ITEM, customer)
    params = {"customer": customer, "pending_invoice_items_behavior": "include"}
    await asyncio.to_thread(fake.stripe.invoices.create, params)

    await provider.remove_charge(PendingCharge(LeftoverKind.INVOICE_ITEM, item))
    assert (await asyncio.to_thread(fake.stripe.invoice_items.retrieve, item)).invoice is not None


@pytest.mark.parametrize("origin", list(HoldOrigin)[:2])
async def test_what_can_charge_a_customer_is_removed_when_its_tenant_leaves_and_later(
    testbed, provider, origin
) -> None:
    fake, subscription = testbed.fake, await testbed.subscribed(ID)
    customer = (await testbed.account(ID))["customer"]
    for kind in KINDS:
        await asyncio.to_thread(create, fake, kind, customer)
    if origin is HoldOrigin.BILLING:
        await asyncio.to_thread(fake.stripe.subscriptions.cancel, subscription["provider_subscription"])
        await testbed.log.facts("billing.subscription_ended")

    await testbed.tenants.publish(left(origin, ID))
    await until(lambda: _has_no_charge(provider, customer))
    await testbed.settled()
    for kind in (LeftoverKind.SCHEDULE, LeftoverKind.INVOICE_ITEM):
        later = await asyncio.to_thread(create, fake, kind, customer)
        await until(lambda later=later: _is_ended(testbed, later))
    await testbed.settled()

    assert await provider.charges_of(customer) == ()
    facts = await testbed.log.facts("billing.leftover_found", "billing.leftover_ended", at_least=4)
    found, ended = (
        {fact.event.subscription for fact in facts if isinstance(fact.event, type_)}
        for type_ in (LeftoverFound, LeftoverEnded)
    )
    assert found == ended
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


@pytest.mark.e2e
async def test_by_policy_a_pending_charge_is_reported_until_it_is_gone(testbed_of, settings) -> None:
    settings["leftovers"] = "report"
    testbed = await testbed_of(service())
    await testbed.subscribed(ID)
    customer = (await testbed.account(ID))["customer"]
    await testbed.tenants.publish(left(HoldOrigin.OPERATOR, ID))
    await testbed.subscription(ID, "ended")

    item = await asyncio.to_thread(create, testbed.fake, LeftoverKind.INVOICE_ITEM, customer)
    (opened,) = await testbed.log.facts("billing.incident_opened")
    pending = await asyncio.to_thread(testbed.fake.stripe.invoice_items.retrieve, item)
    await asyncio.to_thread(testbed.fake.stripe.invoice_items.delete, item)
    (closed,) = await testbed.log.facts("billing.incident_closed")

    assert (opened.event.kind, opened.event.subject) == ("charge_without_tenant", f"invoice_item/{item}")
    assert pending.invoice is None
    assert closed.event.incident_id == opened.event.incident_id


@pytest.mark.e2e
async def test_by_policy_a_checkout_at_which_the_tenant_can_return_is_not_reported(testbed_of, settings) -> None:
    settings["leftovers"] = "report"
    testbed = await testbed_of(service())
    stripe, subscription = testbed.fake.stripe, await testbed.subscribed(ID)
    customer = (await testbed.account(ID))["customer"]
    await asyncio.to_thread(stripe.subscriptions.cancel, subscription["provider_subscription"])
    await testbed.log.facts("billing.subscription_ended")
    opened = (await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")).json()["checkout"]
    other = await asyncio.to_thread(create, testbed.fake, LeftoverKind.CHECKOUT, customer)

    await testbed.tenants.publish(left(tenant_id=ID))
    found = await testbed.log.facts("billing.leftover_found")
    await testbed.log.facts("billing.incident_opened")
    await testbed.settled()

    assert [fact.event.subscription for fact in found] == [other]
    assert (await asyncio.to_thread(stripe.checkout.sessions.retrieve, opened)).status == "open"
    incidents = (await testbed.get("/v1/incidents"))["incidents"]
    assert [each["subject"] for each in incidents] == [f"checkout/{other}"]


async def test_what_is_gone_already_is_cancelled_without_an_error(fake, provider) -> None:
    customer = (await asyncio.to_thread(fake.stripe.customers.create, {"email": "a@b.example"})).id
    price = await asyncio.to_thread(fake.stripe.prices.create, PRICE)
    params = {"customer": customer, "items": [{"price": price.id}], "trial_period_days": 30}
    subscription = (await asyncio.to_thread(fake.stripe.subscriptions.create, params)).id

    await provider.cancel(subscription)
    await provider.cancel(subscription)
    await asyncio.to_thread(fake.stripe.customers.delete, customer)
    await provider.cancel_all(customer)
    assert (await asyncio.to_thread(fake.stripe.subscriptions.retrieve, subscription)).status == "canceled"


async def _has_no_charge(provider, customer):
    return await provider.charges_of(customer) == ()


async def _is_ended(testbed, id_):
    facts = await testbed.log.facts("billing.leftover_ended", at_least=1)
    return any(fact.event.subscription == id_ for fact in facts)
