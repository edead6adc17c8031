"""Stripe adapter: customers, checkouts, subscriptions, errors and the rate limit, with the Stripe fake."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
import stripe
from billing_samples import plan
from paybill_billing.providers.port import Order, ProviderRefusedError, ProviderUnavailableError
from paybill_billing.providers.stripe.client import MissingError, stripe_errors
from paybill_billing.providers.stripe.provider import Stripe
from paybill_contracts.money import Money
from paybill_embedded.ports import free_port

PERSON = "ada@acme.example"
ORDER = Order(tenant_id="ten_" + "1" * 32, name="Acme", email=PERSON, product="shop", plan=plan("pro", 1))


@pytest.fixture
async def at():
    """Factory of clients that are closed after the test."""
    async with AsyncExitStack() as stack:

        def made(url, key="sk_test_0123456789", per_s=1000):
            client = Stripe(key, url, "http://127.0.0.1/back", per_s)
            stack.push_async_callback(client.close)
            return client

        yield made


@pytest.fixture
def client(at, fake):
    return at(fake.url)


async def test_opening_an_account_is_idempotent_by_its_key(client, fake):
    first, second = [await client.open(ORDER, "key-1") for _ in range(2)]

    assert first == second
    assert len(fake.stripe.customers.list().data) == 1


async def test_an_existing_customer_is_found_after_the_key_has_expired(client):
    first = await client.open(ORDER, "key-1")
    second = await client.open(ORDER, "key-2")

    assert first.customer == second.customer
    assert first.checkout != second.checkout


async def test_two_tenants_with_one_email_address_are_two_customers(client):
    other = Order("ten_" + "2" * 32, "Other", PERSON, "shop", plan("pro", 1))

    first, second = await client.open(ORDER, "key-1"), await client.open(other, "key-2")

    assert first.customer != second.customer


async def test_a_price_with_our_lookup_key_and_another_amount_is_refused(client, fake):
    fake.stripe.prices.create(
        {
            "product_data": {"name": "Pro"},
            "currency": "eur",
            "unit_amount": 1,
            "recurring": {"interval": "month"},
            "lookup_key": "pro_v1_month_eur",
        }
    )

    with pytest.raises(ProviderRefusedError, match="an amount other than the plan's"):
        await client.open(ORDER, "key-1")


async def test_a_price_id_of_the_catalogue_is_used(client, fake):
    made = fake.stripe.prices.create(
        {
            "product_data": {"name": "Pro"},
            "currency": "eur",
            "unit_amount": 2000,
            "recurring": {"interval": "month"},
        }
    )
    order = Order(ORDER.tenant_id, "Acme", PERSON, "shop", plan("pro", 1, price_id=made.id))

    await client.open(order, "key-1")

    assert [price.id for price in fake.stripe.prices.list().data] == [made.id]


async def test_a_trial_without_a_card_ends_the_subscription(client, fake):
    trial = plan("pro", 1).model_copy(update={"trial_days": 14, "trial_without_card": True})
    opened = await client.open(Order(ORDER.tenant_id, "Acme", PERSON, "shop", trial), "key-1")
    session = fake.control.pay_checkout(opened.checkout, "no_card")
    begun = await client.fetch(session["subscription"])
    fake.control.advance_clock(timedelta(days=15))
    ended = await client.fetch(session["subscription"])

    assert (begun.status, ended.status) == ("trialing", "canceled")


async def test_a_subscription_is_fetched_as_a_snapshot(client, fake):
    opened = await client.open(ORDER, "key-1")
    session = fake.control.pay_checkout(opened.checkout)

    snapshot = await client.fetch(session["subscription"])

    assert (snapshot.status, snapshot.customer, snapshot.tenant) == ("active", opened.customer, ORDER.tenant_id)
    (item,) = snapshot.items
    assert (item.amount, item.price.plan, item.price.version) == (Money(minor=2000, currency="EUR"), "pro", 1)
    assert snapshot.period_start < snapshot.period_end == snapshot.paid_until


async def test_a_missing_subscription_is_none(client):
    assert await client.fetch("sub_none") is None


@pytest.mark.parametrize("id_", ["../customers/{}", "x/../../customers/{}", "x?expand[]=customer", ".."])
async def test_an_id_reaches_no_other_resource(client, id_):
    customer = (await client.open(ORDER, "key-1")).customer

    assert await client.fetch(id_.format(customer)) is None


async def test_cancelling_all_expires_checkouts_and_cancels_subscriptions_and_is_idempotent(client, fake):
    opened = await client.open(ORDER, "key-1")
    paid = fake.control.pay_checkout(opened.checkout)
    unpaid = await client.open(ORDER, "key-2")

    for _ in range(2):
        await client.cancel_all(opened.customer)

    assert fake.stripe.subscriptions.retrieve(paid["subscription"]).status == "canceled"
    assert fake.stripe.checkout.sessions.retrieve(unpaid.checkout).status == "expired"


async def test_cancelling_all_of_a_missing_customer_is_no_error(client):
    await client.cancel_all("cus_none")


async def test_a_wrong_api_key_is_retried_later(at, fake):
    with pytest.raises(ProviderUnavailableError, match="refuses our API key"):
        await at(fake.url, "sk_test_wrong").fetch("sub_1")


async def test_an_unreachable_provider_is_retried_later(at):
    with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
        await at(f"http://127.0.0.1:{free_port()}").fetch("sub_1")


async def test_requests_keep_the_rate_limit(at, fake):
    paced = at(fake.url, per_s=20)
    began = time.monotonic()

    await asyncio.gather(*(paced.fetch("sub_none") for _ in range(11)))

    assert time.monotonic() - began >= 10 / 20


@pytest.mark.parametrize(
    ("error", "becomes", "after_s"),
    [
        (stripe.RateLimitError(PERSON, http_status=429, headers={"Retry-After": "7"}), ProviderUnavailableError, 7),
        (stripe.RateLimitError(PERSON, http_status=429, headers={"Retry-After": "soon"}), ProviderUnavailableError, 2),
        (
            stripe.RateLimitError(PERSON, http_status=429, headers={"Retry-After": "999999"}),
            ProviderUnavailableError,
            600,
        ),
        (stripe.APIConnectionError(PERSON), ProviderUnavailableError, 5),
        (stripe.APIError(PERSON, http_status=500), ProviderUnavailableError, 2),
        (stripe.APIError(PERSON, http_status=409), ProviderUnavailableError, 2),
        (stripe.PermissionError(PERSON, http_status=403), ProviderUnavailableError, 30),
        (stripe.InvalidRequestError(PERSON, "email", http_status=400), ProviderRefusedError, None),
        (stripe.InvalidRequestError(PERSON, "id", code="resource_missing", http_status=404), MissingError, None),
        (
            stripe.InvalidRequestError(PERSON, "id", "resource_already_exists", http_status=400),
            ProviderUnavailableError,
            2,
        ),
    ],
)
def test_an_error_becomes_a_refusal_or_a_retry_and_never_quotes_the_request(error, becomes, after_s):
    with pytest.raises(becomes) as caught, stripe_errors():
        raise error

    assert PERSON not in str(caught.value)
    assert caught.value.__cause__ is None
    assert getattr(caught.value, "after_s", None) == after_s


async def test_the_library_leaves_nothing_in_the_home_directory(client, monkeypatch, tmp_path):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))

    await client.fetch("sub_nobody")

    assert not home.exists()
