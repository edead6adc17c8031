"""Answers to a provider during failures: no acknowledged message is lost."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

import httpx
import pytest
import stripe
from paybill_billing.app import service
from paybill_billing.settings import Settings
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.ports import require_free
from paybill_runtime.serving import serving
from paybill_runtime.testing import until
from sqlalchemy import text

TENANT = "ten_" + "f" * 32


def message(number, subscription="sub_1", customer="cus_none", type_="customer.subscription.updated"):
    item = {"id": subscription, "object": "subscription", "customer": customer}
    event = {"id": f"evt_{number}", "type": type_, "created": 1, "livemode": False, "data": {"object": item}}
    return json.dumps(event).encode()


@asynccontextmanager
async def held(running, table):
    """Blocks writes to the table during the block."""
    async with running.database.engine.connect() as connection, connection.begin():
        await connection.execute(text(f"LOCK TABLE {table} IN EXCLUSIVE MODE"))
        yield


async def waits_for_a_lock(running):
    async with running.database.engine.connect() as connection:
        return (await connection.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted"))).first()


async def is_closed(port):
    """Returns True when nothing listens on the port. It does not connect, which the shutdown would see."""
    with suppress(EmbeddedError):
        require_free(port, "the test")
        return True
    return False


@pytest.mark.parametrize("secrets", ["", " \n\t\n"])
async def test_an_empty_secret_disables_the_webhook_route(start, settings, tmp_path, secrets):
    file = tmp_path / "empty"
    file.write_text(secrets)
    served = await start(service(), **{**settings, "stripe_webhook_secrets_file": file})
    body = message(1)
    made = stripe.WebhookSignature.generate_signature_header(body.decode(), "")

    answer = await served.client.post("/webhooks/stripe", content=body, headers={"stripe-signature": made})

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_provider")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_the_webhook_route_accepts_only_post(outside, method):
    answer = await outside.request(method, "/webhooks/stripe")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_message_of_an_unknown_type_is_stored_and_acknowledged(testbed, outside, signed):
    body = message(1, type_="customer.subscription.something_of_tomorrow")

    answer = await outside.post("/webhooks/stripe", content=body, headers=signed(body))

    assert answer.status_code == 200
    assert await testbed.sql("SELECT target FROM webhooks") == [("sub_1",)]


@pytest.mark.e2e
async def test_overload_is_answered_with_503_and_every_message_is_stored_on_retry(testbed, signed):
    client = testbed.served.client
    bodies = [message(number, f"sub_{number}") for number in range(200)]

    async def send(body):
        return await client.post("/webhooks/stripe", content=body, headers=signed(body))

    async with held(testbed.served.running, "webhooks"):
        sending = [asyncio.create_task(send(body)) for body in bodies]
        done, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        refused = [task.result() for task in done]
    await asyncio.gather(*sending)

    assert {answer.status_code for answer in refused} == {503}
    assert all(answer.json()["code"] == "overloaded" and int(answer.headers["retry-after"]) > 0 for answer in refused)
    again = [body for body, task in zip(bodies, sending, strict=True) if task.result().status_code == 503]
    assert {(await send(body)).status_code for body in again} == {200}
    assert await testbed.sql("SELECT count(*) FROM webhooks") == [(200,)]


async def test_requests_before_a_shutdown_are_stored_and_acknowledged(start, settings, signed):
    served = await start(service(), **settings)
    body = message(1)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client, AsyncExitStack() as http:
        port = await http.enter_async_context(serving(served.running))
        url = f"http://127.0.0.1:{port}/webhooks/stripe"
        async with held(served.running, "webhooks"):
            sending = asyncio.create_task(client.post(url, content=body, headers=signed(body)))
            await until(lambda: waits_for_a_lock(served.running))
            stopping = asyncio.create_task(http.aclose())
            await until(lambda: is_closed(port))
            with pytest.raises(httpx.ConnectError):
                await client.post(url, content=body, headers=signed(body))
        await stopping
        answer = await sending

    assert answer.status_code == 200


@pytest.mark.own_nats
async def test_webhooks_are_processed_without_nats_and_events_are_published_later(testbed, nats):
    subscription = await testbed.subscribed(TENANT)
    await testbed.settled()

    await asyncio.to_thread(nats.stop)
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "ended")
    waiting = await testbed.sql("SELECT count(*) FROM chassis.publication WHERE sequence IS NULL")
    await asyncio.to_thread(nats.start)

    (ended,) = await testbed.log.facts("billing.subscription_ended")
    assert waiting[0][0] > 0
    assert ended.event.subscription.provider_subscription == subscription["provider_subscription"]


@pytest.mark.e2e
@pytest.mark.parametrize(("status", "retry_after_s"), [(429, 1), (500, None), (503, 1)])
async def test_an_unavailable_provider_is_retried_and_no_message_is_lost(
    testbed, outside, signed, status, retry_after_s
):
    subscription = await testbed.subscribed(TENANT)
    await testbed.settled()
    customer = (await testbed.account(TENANT))["customer"]
    body = message(1, subscription["provider_subscription"], customer)
    control = testbed.fake.control
    await asyncio.to_thread(
        lambda: control.fail_calls(2, status=status, path="/v1/subscriptions/", retry_after_s=retry_after_s)
    )

    began = datetime.now(UTC)
    await outside.post("/webhooks/stripe", content=body, headers=signed(body))
    await testbed.settled()

    assert (datetime.now(UTC) - began).total_seconds() >= 2 * (retry_after_s or 1)
    assert await testbed.sql("SELECT count(*) FROM webhooks WHERE done_at IS NULL") == [(0,)]
    assert await testbed.subscription(TENANT, "active") == subscription


async def test_a_malformed_object_delays_no_other_and_is_acknowledged(testbed):
    stripe_, control = testbed.fake.stripe, testbed.fake.control
    await testbed.tenants.request_tenant("ten_" + "0" * 32)
    customer = (await testbed.opened("ten_" + "0" * 32))["customer"]
    price = stripe_.prices.create(
        {"product_data": {"name": "x"}, "currency": "eur", "unit_amount": 1, "recurring": {"interval": "month"}}
    )
    stripe_.customers.update(customer, {"invoice_settings": {"default_payment_method": "pm_card_visa"}})
    odd = stripe_.subscriptions.create({"customer": customer, "items": [{"price": price.id}]})

    await testbed.subscribed(TENANT)

    async def waits():
        return [each for each in await testbed.get("/v1/webhooks/waiting") if each["reason"]]

    (waiting,) = await until(waits)
    assert waiting["object"] == odd.id
    assert waiting["reason"].startswith("UnknownPriceError: no price of")
    await asyncio.to_thread(control.wait_delivered)
    answered = [delivery["state"] for delivery in await asyncio.to_thread(control.deliveries)]
    assert set(answered) == {"delivered"}


async def test_a_stopping_service_answers_503_with_retry_after(testbed, outside, signed):
    body = message(1, "sub_1", "cus_1")
    testbed.served.running.request_limit.close()

    answer = await outside.post("/webhooks/stripe", content=body, headers=signed(body))

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert "stopping" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert await testbed.sql("SELECT count(*) FROM webhooks") == [(0,)]
    assert (await outside.get("/healthz")).status_code == 200


@pytest.mark.e2e
async def test_a_thousand_messages_about_one_subscription_cost_few_fetches(testbed, outside, signed):
    subscription = await testbed.subscribed(TENANT)
    await testbed.settled()
    customer = (await testbed.account(TENANT))["customer"]
    bodies = [message(n, subscription["provider_subscription"], customer) for n in range(1000)]
    await asyncio.to_thread(testbed.fake.control.reset_calls)

    async def send(some):
        for body in some:
            assert (await outside.post("/webhooks/stripe", content=body, headers=signed(body))).status_code == 200

    async with held(testbed.served.running, "chassis.job"):
        early = asyncio.create_task(send(bodies[:1]))
        await asyncio.sleep(0)
    await asyncio.gather(early, *(send(bodies[1 + n :: 20]) for n in range(20)))
    await testbed.settled()

    calls = await asyncio.to_thread(testbed.fake.control.calls)
    assert await testbed.sql("SELECT count(*) FROM webhooks WHERE done_at IS NULL") == [(0,)]
    assert calls["total"] <= 1000 // 10


async def test_requests_stay_within_the_rate_limit_of_the_provider(testbed, outside, signed):
    await testbed.tenants.request_tenant(TENANT)
    customer = (await testbed.opened(TENANT))["customer"]
    bodies = [message(n, f"sub_{n}", customer) for n in range(80)]
    await asyncio.to_thread(testbed.fake.control.reset_calls)

    for body in bodies:
        assert (await outside.post("/webhooks/stripe", content=body, headers=signed(body))).status_code == 200
    await testbed.settled()

    calls = await asyncio.to_thread(testbed.fake.control.calls)
    assert calls["total"] == 80
    assert calls["max_per_s"] <= Settings.model_fields["stripe_requests_per_s"].default
