"""Another checkout after the last one expired: the rules, and the route with the Stripe fake over the network."""

import asyncio
from dataclasses import replace

import pytest
from billing_samples import ACCOUNT, NOW, TENANT
from entitlement_samples import ACTIVE
from paybill_billing.providers.port.snapshots import OpenedCheckout, PendingCharge
from paybill_billing.subscriptions.domain import accounts, leftovers
from paybill_billing.subscriptions.domain.accounts import NoCheckoutError
from paybill_contracts.accounts import CheckoutExpired, CheckoutOpened, LeftoverKind
from paybill_contracts.billing import AccessState, CancellationRequested
from paybill_contracts.catalogue import Interval
from paybill_contracts.purchases import PurchaseTerms
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted, TenantCancelled
from paybill_runtime.testing import until

ID = "ten_" + "a" * 32
OPEN = replace(
    ACCOUNT,
    checkout="cs_1",
    checkout_url="https://pay.example/cs_1",
)


def with_access(access):
    return ACTIVE.model_copy(update={"access": access})


def test_the_expiry_of_the_current_checkout_is_recorded_once() -> None:
    (expired,) = accounts.checkout_expired(OPEN, "cs_1")
    after = accounts.evolve(OPEN, expired)

    assert expired == CheckoutExpired(tenant_id=TENANT, provider="stripe", checkout="cs_1")
    assert (after.checkout, after.checkout_url) == ("cs_1", None)
    assert accounts.checkout_expired(after, "cs_1") == accounts.checkout_expired(OPEN, "cs_0") == []


def test_another_checkout_replaces_the_last_one() -> None:
    (opened,) = accounts.checkout_opened(OPEN, OpenedCheckout("cs_2", "https://pay.example/cs_2"), [])
    after = accounts.evolve(OPEN, opened)

    assert isinstance(opened, CheckoutOpened)
    assert (after.checkout, after.checkout_url) == ("cs_2", "https://pay.example/cs_2")
    assert accounts.checkout_opened(after, OpenedCheckout("cs_2", "https://pay.example/cs_2"), []) == []


@pytest.mark.parametrize(
    ("account", "held"),
    [
        (replace(OPEN, leaving=True), []),
        (replace(OPEN, customer=None), []),
        (OPEN, [with_access(AccessState.ACTIVE)]),
        (OPEN, [with_access(AccessState.SUSPENDED)]),
    ],
)
def test_a_tenant_that_leaves_or_has_a_subscription_gets_no_checkout(account, held) -> None:
    with pytest.raises(NoCheckoutError):
        accounts.require_checkout(account, held)


def test_a_customer_whose_subscription_ended_can_pay_at_a_checkout() -> None:
    assert accounts.require_checkout(OPEN, [with_access(AccessState.ENDED)]) == "cus_1"


def test_the_checkout_of_an_abandoned_sign_up_is_closed() -> None:
    abandoned = TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.BILLING, reason="nobody paid", is_abandoned=True)

    assert accounts.on_tenant_leaving(OPEN, abandoned) == [
        CancellationRequested(tenant_id=TENANT, provider="stripe", customer="cus_1", is_abandoned=True)
    ]


def test_the_checkout_of_a_return_is_unused_until_it_expires() -> None:
    ended = with_access(AccessState.ENDED)
    (opened,) = accounts.checkout_opened(OPEN, OpenedCheckout("cs_2", "https://pay.example/cs_2"), [ended])
    returning = accounts.evolve(OPEN, opened)
    expired = accounts.evolve(returning, accounts.checkout_expired(returning, "cs_2")[0])

    assert leftovers.unused_checkout(returning) == PendingCharge(LeftoverKind.CHECKOUT, "cs_2")
    assert leftovers.unused_checkout(expired) is leftovers.unused_checkout(OPEN) is None


async def test_an_expired_checkout_is_a_fact_and_the_next_one_can_be_paid(testbed) -> None:
    control, stripe = testbed.fake.control, testbed.fake.stripe
    await testbed.tenants.request_tenant(ID)
    first = (await testbed.opened(ID))["checkout_url"]
    same = (await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")).json()

    await asyncio.to_thread(stripe.checkout.sessions.expire, same["checkout"])
    (expired,) = await testbed.log.facts("billing.checkout_expired")
    dead = await testbed.account(ID)
    replies = await asyncio.gather(*(testbed.served.client.post(f"/v1/tenants/{ID}/checkout") for _ in range(2)))
    urls = {reply.json()["url"] for reply in replies}
    await asyncio.to_thread(control.pay_checkout, replies[0].json()["checkout"])
    await testbed.subscription(ID, "active")
    refused = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")

    assert same["url"] == first
    assert expired.event.checkout == same["checkout"]
    assert dead["checkout_url"] is None
    assert len(urls) == 1
    assert urls != {first}
    assert (refused.status_code, refused.json()["code"]) == (409, "no_checkout")


async def test_a_customer_whose_payment_no_webhook_has_brought_gets_no_second_checkout(testbed) -> None:
    control = testbed.fake.control
    await testbed.tenants.request_tenant(ID)
    session = (await testbed.opened(ID))["checkout_url"].rpartition("/")[2]

    await asyncio.to_thread(control.pause_delivery)
    await asyncio.to_thread(control.pay_checkout, session)
    refused = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")
    await testbed.subscription(ID, "active")

    assert (refused.status_code, refused.json()["code"]) == (409, "no_checkout")
    assert "has the subscription sub_" in refused.json()["detail"]


async def test_no_checkout_stays_open_that_was_opened_while_its_tenant_left(testbed) -> None:
    control, sessions = testbed.fake.control, testbed.fake.stripe.checkout.sessions
    await testbed.tenants.request_tenant(ID)
    first = (await testbed.opened(ID))["checkout_url"].rpartition("/")[2]
    await asyncio.to_thread(sessions.expire, first)
    await testbed.log.facts("billing.checkout_expired")
    left = OffboardingStarted(tenant_id=ID, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)

    await asyncio.to_thread(control.delay_calls, 3.0, path=f"/v1/checkout/sessions/{first}")
    asked = asyncio.create_task(testbed.served.client.post(f"/v1/tenants/{ID}/checkout"))
    await testbed.tenants.publish(left)
    await asked

    async def closed():
        return {each.status for each in (await asyncio.to_thread(sessions.list)).data} == {"expired"}

    assert await until(closed)


async def ended(testbed):
    """Ends the only subscription of a tenant; returns a function that makes another one at the fake."""
    stripe, first = testbed.fake.stripe, await testbed.subscribed(ID)
    account = await testbed.account(ID)
    await asyncio.to_thread(stripe.subscriptions.cancel, first["provider_subscription"])
    await testbed.log.facts("billing.subscription_ended")
    price = (await asyncio.to_thread(stripe.prices.list, {"lookup_keys": ["starter_v1_month_eur"]})).data[0].id
    items = {"customer": account["customer"], "items": [{"price": price}], "trial_period_days": 30}
    return lambda: asyncio.to_thread(stripe.subscriptions.create, items)


async def test_a_return_without_the_checkout_closes_it(testbed) -> None:
    subscribe = await ended(testbed)
    opened = (await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")).json()

    await subscribe()
    (expired,) = await testbed.log.facts("billing.checkout_expired")

    assert expired.event.checkout == opened["checkout"]
    session = await asyncio.to_thread(testbed.fake.stripe.checkout.sessions.retrieve, opened["checkout"])
    assert session.status == "expired"


async def test_no_checkout_stays_open_that_was_opened_while_its_tenant_returned(testbed) -> None:
    control, sessions, subscribe = testbed.fake.control, testbed.fake.stripe.checkout.sessions, await ended(testbed)

    await asyncio.to_thread(control.delay_calls, 4.0, path="/v1/checkout/sessions")
    asked = asyncio.create_task(testbed.served.client.post(f"/v1/tenants/{ID}/checkout"))

    async def is_asked():
        calls = (await asyncio.to_thread(control.calls))["endpoints"]
        return [each for each in calls if (each["method"], each["path"]) == ("POST", "/v1/checkout/sessions")]

    await until(is_asked)
    await subscribe()
    await testbed.subscription(ID, "trialing")
    refused = await asked

    async def closed():
        return "open" not in {each.status for each in (await asyncio.to_thread(sessions.list)).data}

    assert (refused.status_code, refused.json()["code"]) == (409, "no_checkout")
    assert await until(closed)


async def test_a_route_that_calls_the_provider_has_no_dry_run(testbed) -> None:
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)

    for route in ("checkout", "portal"):
        reply = await testbed.served.client.post(f"/v1/tenants/{ID}/{route}", headers={"Dry-Run": "true"})
        assert (reply.status_code, reply.json()["code"]) == (422, "no_dry_run")


async def test_the_expiry_of_a_strangers_checkout_waits_for_nothing(testbed) -> None:
    stripe = testbed.fake.stripe
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)
    price = stripe.prices.list({"lookup_keys": ["starter_v1_month_eur"]}).data[0].id
    items = [{"price": price, "quantity": 1}]
    params = {"mode": "subscription", "line_items": items, "success_url": "https://x.example"}

    session = await asyncio.to_thread(stripe.checkout.sessions.create, params)
    await asyncio.to_thread(stripe.checkout.sessions.expire, session.id)
    await testbed.settled()

    async def stored():
        messages = (await testbed.get("/v1/webhooks"))["messages"]
        return [each for each in messages if each["type"] == "checkout.session.expired"]

    assert await until(stored)
    assert await testbed.get("/v1/webhooks/waiting") == []


async def test_a_customer_buys_with_the_terms_of_its_sign_up(testbed) -> None:
    coupons, codes = testbed.fake.stripe.coupons, testbed.fake.stripe.promotion_codes
    coupon = await asyncio.to_thread(coupons.create, {"percent_off": 10, "duration": "once"})
    promotion = {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "SPRING"}
    await asyncio.to_thread(codes.create, promotion)
    terms = PurchaseTerms(interval=Interval.YEAR, currency="EUR", quantity=3, coupon="SPRING")
    await testbed.tenants.request_tenant(ID, terms=terms)
    opened = await testbed.opened(ID)
    session = opened["checkout_url"].rpartition("/")[2]
    paid = await asyncio.to_thread(testbed.fake.control.pay_checkout, session)
    subscription = await testbed.subscription(ID, "active")

    assert (opened["terms"], opened["price"]["amount"]["minor"]) == (terms.model_dump(mode="json"), 29_000)
    assert paid["amount_total"] == 3 * 29_000 * 9 // 10
    assert (subscription["quantity"], subscription["interval"], subscription["price"]["minor"]) == (3, "year", 29_000)


@pytest.mark.parametrize(
    ("payment", "reason"),
    [("stripe", "neither an active promotion code nor a coupon SPRING"), ("manual", "knows no coupons")],
)
async def test_a_coupon_that_the_provider_does_not_have_fails_the_account(testbed, payment, reason) -> None:
    await testbed.tenants.request_tenant(ID, payment=payment, terms=PurchaseTerms(coupon="SPRING"))

    async def failed():
        account = await testbed.account(ID)
        return account if account is not None and account["status"] == "failed" else None

    assert reason in (await until(failed))["failure"]
    assert (await testbed.get(f"/v1/why/{ID}"))["account"]["is_coupon_refused"] is (payment == "stripe")
