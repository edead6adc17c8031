"""Another's emulator of Stripe, in a process of its own: its old shapes, its webhooks, and what it never sends.

localstripe knows no prices and no checkout, only what came before them; so its customers are taken over.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import stripe
from billing_world import API_KEY, SECRETS, eventually
from paybill_embedded.ports import free_port

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
resources.Store.dump_to_disk = lambda store: None  # it would keep everything in a file that all of a machine share
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
    """Billing asks the emulator, and the emulator sends billing its webhooks."""
    localstripe.http.delete("/_config/data").raise_for_status()
    webhook = {"url": f"http://127.0.0.1:{fake.receiver_port}/webhooks/stripe", "secret": SECRETS[0]}
    localstripe.http.post("/_config/webhooks/billing", json=webhook).raise_for_status()
    return settings | {"stripe_api_base": localstripe.url}


def subscribe(at) -> tuple[str, str]:
    """What a customer had before Paybill came, made with the official library."""
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
async def adopted(world, localstripe):
    """A tenant that was a customer there before: the subscription's id at the emulator."""
    customer, subscription = await asyncio.to_thread(subscribe, localstripe.stripe)
    await world.tenants.request_tenant(TENANT, "team", customer=customer)
    await world.standing(TENANT, "active")
    return subscription


async def heard(world, type_):
    async def look():
        sent = (await world.get("/v1/webhooks", provider="stripe"))["messages"]
        return next((message for message in sent if message["type"] == type_), None)

    return await eventually(look)


async def test_its_webhooks_are_verified_and_wait_until_their_customer_is_a_tenant(world, localstripe) -> None:
    customer, subscription = await asyncio.to_thread(subscribe, localstripe.stripe)
    message = await heard(world, "customer.subscription.created")

    async def waits():
        return [one for one in await world.get("/v1/webhooks/waiting") if one["reason"]]

    (waiting,) = await eventually(waits)
    await world.tenants.request_tenant(TENANT, "team", customer=customer)
    standing = await world.standing(TENANT, "active")

    assert (message["object"], message["customer"], message["state"]) == (subscription, customer, "waiting")
    assert (waiting["object"], waiting["reason"]) == (subscription, "no account has this customer")
    assert (standing["plan"]["plan"], standing["plan"]["version"]) == ("team", 3)
    assert (standing["quantity"], standing["price"], standing["interval"]) == (
        2,
        {"minor": 1900, "currency": "EUR"},
        "month",
    )
    assert standing["paid_until"] == standing["period_end"] is not None
    found = await asyncio.to_thread(localstripe.stripe.customers.retrieve, customer)
    assert found.metadata["tenant_id"] == TENANT
    await eventually(lambda: nothing_waits(world))


async def nothing_waits(world) -> bool:
    return await world.get("/v1/webhooks/waiting") == []


async def test_what_it_never_tells_of_is_found_and_what_it_tells_of_is_heard(world, localstripe, adopted) -> None:
    await heard(world, "customer.subscription.created")
    await eventually(lambda: nothing_waits(world))
    item = (await asyncio.to_thread(localstripe.stripe.subscriptions.retrieve, adopted))["items"].data[0].id
    more = {"items": [{"id": item, "quantity": 5}]}
    await asyncio.to_thread(localstripe.stripe.subscriptions.update, adopted, more)

    run = await world.reconciled(repair=True)

    (drift,) = await world.drifts(run)
    assert {d["field"]: (d["here"], d["there"]) for d in drift["differences"]}["quantity"] == ("2", "5")

    async def repaired():
        return (await world.standing(TENANT, "active"))["quantity"] == 5

    await eventually(repaired)
    assert (await world.reconciled(repair=True))["drifted"] == 0
    await asyncio.to_thread(localstripe.stripe.subscriptions.cancel, adopted)
    await world.standing(TENANT, "ended")
    assert await heard(world, "customer.subscription.deleted")
