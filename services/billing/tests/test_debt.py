"""Debt of a customer: known after its subscription has ended, shown on account and quote, and cleared by payment."""

import asyncio
from dataclasses import replace

import pytest
from billing_samples import EMAIL, TENANT
from paybill_billing.app import service
from paybill_billing.providers.stripe.mappers import unpaid_amount
from paybill_billing.subscriptions.domain import accounts
from paybill_billing.subscriptions.domain.accounts import Account, DebtOpenError
from paybill_contracts.accounts import DebtChanged
from paybill_contracts.money import Money
from paybill_runtime.testing import until

ID = "ten_" + "a" * 32
OPEN = Account(
    id=TENANT, name="Acme", contact_email=EMAIL, plan="pro", plan_version=1, provider="stripe", retention_s=0
)
EUR, USD = Money(minor=2900, currency="EUR"), Money(minor=500, currency="USD")


def test_debt_is_the_sum_of_unpaid_invoices_by_currency() -> None:
    (event,) = accounts.debt_fetched(OPEN, [USD, EUR, EUR])
    after = accounts.evolve(OPEN, event)

    assert event == DebtChanged(tenant_id=TENANT, provider="stripe", debt=(EUR + EUR, USD))
    assert accounts.debt_fetched(after, [EUR, USD, EUR]) == []
    assert accounts.evolve(after, accounts.debt_fetched(after, [])[0]) == OPEN
    assert accounts.debt_fetched(OPEN, []) == []


def test_by_policy_nothing_more_is_sold_to_a_customer_that_owes() -> None:
    accounts.require_no_debt(OPEN)
    with pytest.raises(DebtOpenError, match=r"owes 29\.00 EUR and 5\.00 USD"):
        accounts.require_no_debt(replace(OPEN, debt=(EUR, USD)))


@pytest.mark.parametrize(
    ("invoice", "expected"),
    [
        ({"status": "open", "attempted": True}, EUR),
        ({"status": "open", "attempt_count": 2}, EUR),
        ({"status": "uncollectible", "attempted": False}, EUR),
        ({"status": "open", "attempted": False, "attempt_count": 0}, None),
        ({"status": "open", "attempted": True, "amount_remaining": 0}, None),
    ],
)
def test_an_invoice_counts_after_a_failed_attempt(invoice, expected) -> None:
    assert unpaid_amount({"id": "in_1", "amount_remaining": 2900, "currency": "eur"} | invoice) == expected


async def left_with_debt(testbed):
    """Signs a tenant up, lets its renewal fail, and cancels the subscription; returns the unpaid invoice."""
    control = testbed.fake.control
    theirs = (await testbed.subscribed(ID))["provider_subscription"]
    await asyncio.to_thread(control.set_payment, (await testbed.account(ID))["customer"], "fail")
    await asyncio.to_thread(control.renew, theirs)
    await testbed.subscription(ID, "grace")
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, theirs)
    await testbed.subscription(ID, "ended")
    return (await testbed.log.facts("billing.payment_failed"))[0].event.invoice


async def debt_is(testbed, *amounts):
    async def probe():
        return (await testbed.account(ID))["debt"] == list(amounts)

    await until(probe)


async def test_open_debt_stays_known_after_the_subscription_ended_until_it_is_paid(testbed) -> None:
    owed = {"minor": 2900, "currency": "EUR"}
    invoice = await left_with_debt(testbed)
    await debt_is(testbed, owed)
    link = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")

    await asyncio.to_thread(testbed.fake.control.pay_invoice, invoice)
    await debt_is(testbed)

    assert link.status_code == 200
    changed = await testbed.log.facts("billing.debt_changed", at_least=2)
    assert [len(fact.event.debt) for fact in changed] == [1, 0]


@pytest.mark.e2e
async def test_a_customer_that_owes_gets_no_checkout_by_policy(testbed_of, settings) -> None:
    settings["sales_with_debt"] = "refused"
    testbed = await testbed_of(service())
    await left_with_debt(testbed)
    await debt_is(testbed, {"minor": 2900, "currency": "EUR"})

    refused = await testbed.served.client.post(f"/v1/tenants/{ID}/checkout")

    assert (refused.status_code, refused.json()["code"]) == (409, "debt_open")
    assert "29.00 EUR" in refused.json()["detail"]
