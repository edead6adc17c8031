"""Billing against localstripe, an independent emulator of Stripe with old API versions and few webhooks.

localstripe has neither prices nor checkouts, only older API objects; so the tests adopt its customers.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import stripe
from billing_testbed import API_KEY, SECRETS
from paybill_embedded.ports import free_port
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32
PLAN = "old-team-monthly"
CATALOGUE = f"""
product: shop
plans:
  - plan: team
    version: 3
    name: Team
    tier: team
    placement: bridge
    grace: 14d
    retention: 60d
    features: [{{key: projects, kind: limit, limit: 50}}]
    prices: [{{minor: 1900, currency: EUR, interval: month, provider_prices: {{stripe: {PLAN}}}}}]
"""
SERVE = """
import sys
from aiohttp import web
from localstripe import resources
from localstripe.server import app
resources.Store.dump_to_disk = lambda store: None  # it would store everything in a file
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
pytestmark = pytest.mark.parametrize("catalogue", [CATALOGUE], indirect=True)


@dataclass
class Emulator:
    url: str
    http: httpx.Client
    stripe: Any


@pytest.fixture(scope="module")
def localstripe():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    http_client = stripe.RequestsClient()
    with (
        subprocess.Popen([sys.executable, "-c", SERVE, str(port)]) as process,
        httpx.Client(base_url=url, trust_env=False, transport=httpx.HTTPTransport(retries=8)) as http,
    ):
        try:
            http.delete("/_config/data").raise_for_status()
            client = stripe.StripeClient(API_KEY, base_addresses={"api": url}, http_client=http_client).v1
            yield Emulator(url, http, client)
        finally:
            http_client.close()
            process.terminate()
            process.wait(10)


@pytest.fixture
def settings(settings, localstripe, fake):
    """Runs billing with the emulator, which sends it webhooks."""
    localstripe.http.delete("/_config/data").raise_for_status()
    webhook = {"url": f"http://127.0.0.1:{fake.receiver_port}/webhooks/stripe", "secret": SECRETS[0]}
    localstripe.http.post("/_config/webhooks/billing", json=webhook).raise_for_status()
    return settings | {"stripe_api_base": localstripe.url}


def subscribe(at) -> tuple[str, str]:
    """Creates a customer with a subscription, by the official library."""
    at.plans.create(
        {"id": PLAN, "amount": 1900, "currency": "eur", "interval": "month", "product": {"name": "Old team"}}
    )
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = at.payment_methods.create({"type": "card", "card": card})
    customer = at.customers.create({"name": "Old", "email": "old@acme.example"})
    at.payment_methods.attach(method.id, {"customer": customer.id})
    at.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    bought = at.subscriptions.create({"customer": customer.id, "items": [{"plan": PLAN, "quantity": 2}]})
    return customer.id, bought.id


@pytest.fixture
async def adopted(testbed, localstripe):
    """Adopts an existing customer as a tenant; returns the subscription's id at the emulator."""
    customer, subscription = await asyncio.to_thread(subscribe, localstripe.stripe)
    await testbed.tenants.request_tenant(TENANT, "team", customer=customer)
    await testbed.subscription(TENANT, "active")
    return subscription


async def received(testbed, type_):
    async def probe():
        sent = (await testbed.get("/v1/webhooks", provider="stripe"))["messages"]
        return next((message for message in sent if message["type"] == type_), None)

    return await until(probe)


async def test_webhooks_are_verified_and_wait_until_their_customer_has_an_account(testbed, localstripe) -> None:
    customer, subscription = await asyncio.to_thread(subscribe, localstripe.stripe)
    message = await received(testbed, "customer.subscription.created")

    async def waits():
        return [one for one in await testbed.get("/v1/webhooks/waiting") if one["reason"]]

    (waiting,) = await until(waits)
    await testbed.tenants.request_tenant(TENANT, "team", customer=customer)
    subscription_ = await testbed.subscription(TENANT, "active")

    assert (message["object"], message["customer"], message["state"]) == (subscription, customer, "waiting")
    assert (waiting["object"], waiting["reason"]) == (subscription, "no account has this customer")
    assert (subscription_["plan"]["plan"], subscription_["plan"]["version"]) == ("team", 3)
    assert (subscription_["quantity"], subscription_["price"], subscription_["interval"]) == (
        2,
        {"minor": 1900, "currency": "EUR"},
        "month",
    )
    assert subscription_["paid_until"] == subscription_["period_end"] is not None
    found = await asyncio.to_thread(localstripe.stripe.customers.retrieve, customer)
    assert found.metadata["tenant_id"] == TENANT
    await until(lambda: nothing_waits(testbed))


async def nothing_waits(testbed) -> bool:
    return await testbed.get("/v1/webhooks/waiting") == []


async def test_reconciliation_finds_unannounced_changes_and_webhooks_apply_the_others(
    testbed, localstripe, adopted
) -> None:
    await received(testbed, "customer.subscription.created")
    await until(lambda: nothing_waits(testbed))
    item = (await asyncio.to_thread(localstripe.stripe.subscriptions.retrieve, adopted))["items"].data[0].id
    more = {"items": [{"id": item, "quantity": 5}]}
    await asyncio.to_thread(localstripe.stripe.subscriptions.update, adopted, more)

    run = await testbed.reconciled(repair=True)

    (drift,) = await testbed.drifts(run)
    assert {d["field"]: (d["here"], d["there"]) for d in drift["differences"]}["quantity"] == ("2", "5")

    async def repaired():
        return (await testbed.subscription(TENANT, "active"))["quantity"] == 5

    await until(repaired)
    assert (await testbed.reconciled(repair=True))["drifted"] == 0
    await asyncio.to_thread(localstripe.stripe.subscriptions.cancel, adopted)
    await testbed.subscription(TENANT, "ended")
    assert await received(testbed, "customer.subscription.deleted")
