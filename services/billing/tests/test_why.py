"""Billing's part of a diagnosis, with the Stripe fake over the network."""

import asyncio
from datetime import UTC, datetime

from paybill_runtime.testing import until

ID, OTHER = "ten_" + "a" * 32, "ten_" + "b" * 32


async def test_a_customer_that_was_deleted_at_the_provider_is_shown_and_gets_no_checkout(testbed) -> None:
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)
    customer = (await testbed.account(ID))["customer"]
    before = (await testbed.get(f"/v1/why/{ID}"))["account"]

    await asyncio.to_thread(testbed.fake.stripe.customers.delete, customer)
    after = (await testbed.get(f"/v1/why/{ID}"))["account"]
    refused = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")

    assert (before["is_customer_deleted"], before["sells_with_debt"], before["provider_problem"]) == (False, True, None)
    assert (after["is_customer_deleted"], after["customer"], after["provider_problem"]) == (True, customer, None)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_checkout")
    assert f"{customer} was deleted" in refused.json()["detail"]


async def test_a_customer_that_cannot_be_fetched_is_no_problem_of_the_tenant(testbed) -> None:
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)
    await asyncio.to_thread(testbed.fake.control.fail_calls, 2, path="/v1/customers")

    account = (await testbed.get(f"/v1/why/{ID}"))["account"]
    checkout = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")

    assert (account["is_customer_deleted"], account["provider_problem"]) == (False, None)
    assert checkout.status_code == 200


async def test_a_customer_of_another_tenant_is_refused_for_good(testbed) -> None:
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)
    customer = (await testbed.account(ID))["customer"]
    await testbed.tenants.request_tenant(OTHER, customer=customer)

    async def failed():
        account = (await testbed.get(f"/v1/why/{OTHER}"))["account"]
        return account if account is not None and account["status"] == "failed" else None

    account = await until(failed)

    assert "another tenant" in account["failure"]
    assert (account["is_customer_refused"], account["is_coupon_refused"]) == (True, False)


async def test_a_pause_at_the_provider_is_shown_while_grace_gives_access(testbed) -> None:
    theirs = (await testbed.subscribed(ID))["provider_subscription"]
    customer = (await testbed.account(ID))["customer"]
    await asyncio.to_thread(testbed.fake.control.set_payment, customer, "fail")
    await asyncio.to_thread(testbed.fake.control.renew, theirs)
    await testbed.subscription(ID, "grace")
    paused = {"pause_collection": {"behavior": "void"}}
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.update, theirs, paused)

    async def shown():
        found = (await testbed.get(f"/v1/why/{ID}"))["account"]["subscriptions"]
        return found if found[0]["pause"] else None

    [subscription] = await until(shown)

    assert (subscription["access"], subscription["pause"]) == ("grace", "void")


async def test_an_object_of_a_customer_without_a_tenant_is_shown_with_the_arrival_of_its_message(testbed) -> None:
    stripe = testbed.fake.stripe
    await testbed.tenants.request_tenant(ID)
    await testbed.opened(ID)
    began = datetime.now(UTC)
    price = (await asyncio.to_thread(stripe.prices.list, {"lookup_keys": ["starter_v1_month_eur"]})).data[0].id
    stranger = await asyncio.to_thread(stripe.customers.create, {"email": "else@where.example"})
    await asyncio.to_thread(testbed.fake.control.set_payment, stranger.id, "succeed")
    bought = {"customer": stranger.id, "items": [{"price": price}]}
    subscription = await asyncio.to_thread(stripe.subscriptions.create, bought)

    async def shown():
        found = (await testbed.get(f"/v1/why/{ID}"))["account"]["strangers"]
        return [each for each in found if each["object"] == subscription.id]

    [found] = await until(shown)

    assert found["customer"] == stranger.id
    assert began <= datetime.fromisoformat(found["since"]) <= datetime.now(UTC)
