"""Statements: money and usage on the invoices of the provider, and the invariants 4 and 5 that they prove."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import NOW, TENANT
from paybill_billing.app import INVARIANTS
from paybill_billing.providers.port.snapshots import InvoiceTotals
from paybill_billing.providers.stripe.invoice_totals import totals_of
from paybill_billing.statements import domain
from paybill_billing.statements.domain import Statement
from paybill_billing.subscriptions.domain.payments import Kind, Payment, is_returned
from paybill_billing.usage.domain.invoices import UsageComparison
from paybill_contracts.money import Money
from paybill_contracts.payments import DisputeOutcome
from paybill_contracts.usage import Usage
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

ID = "ten_" + "d" * 32
NOTHING = InvoiceTotals((), ())
CHECKS = {rule.number: rule.check for rule in domain.RULES}


def eur(minor):
    return Money(minor=minor, currency="EUR")


def usd(minor):
    return Money(minor=minor, currency="USD")


def compared(reported, invoiced, *, final=True, invoice="in_1"):
    return UsageComparison("api_calls", NOW, NOW + timedelta(days=1), reported, invoiced, invoice, final)


def after(statement, totals, returned=(), usage=()):
    for event in domain.on_fetched(statement, TENANT, "stripe", totals, returned, usage):
        statement = domain.evolve(statement, event)
    return statement


def difference(number, statement):
    return CHECKS[number]([statement], NOW)


def test_the_sums_of_each_currency_are_recorded_once() -> None:
    shown = InvoiceTotals((eur(2900), usd(500), eur(100), eur(0)), (eur(40),))
    statement = after(None, shown, [eur(10), eur(5)])

    assert statement == Statement(TENANT, (eur(3000), usd(500)), (eur(15),), (eur(40),))
    assert domain.on_fetched(statement, TENANT, "stripe", shown, [eur(15)], []) == []
    assert domain.on_fetched(None, TENANT, "stripe", NOTHING, [], [compared(7, 7)]) == []


def test_credit_beyond_the_money_received_is_a_violation() -> None:
    fair = after(None, InvoiceTotals((eur(100),), (eur(60),)), [eur(40)])
    given = after(None, InvoiceTotals((eur(100), usd(900)), (eur(61),)), [eur(40)])

    assert difference(4, None) is difference(4, fair) is None
    found = difference(4, given)
    assert (found.left, found.right) == (
        "received 1.00 EUR and 9.00 USD",
        "returned 0.40 EUR, and given as credit 0.61 EUR",
    )


def test_usage_that_differs_from_a_final_invoice_is_a_violation() -> None:
    draft = after(None, InvoiceTotals((eur(1),), ()), usage=[compared(42, 0, final=False), compared(7, 7)])
    wrong = after(draft, NOTHING, usage=[compared(42, 40)])
    missing = after(draft, NOTHING, usage=[compared(42, 0, invoice=None), compared(1, 0)])

    assert difference(5, draft) is None
    assert difference(5, wrong).left == "42 units of api_calls were reported for 2026-03-01 12:00 UTC"
    assert difference(5, wrong).right == "40 are on in_1"
    assert difference(5, missing).right == "no invoice has them"
    assert difference(5, missing).left.endswith(", and 1 more")
    assert difference(5, after(wrong, NOTHING)) is None


def test_the_service_checks_the_invariants_4_and_5() -> None:
    assert [rule.number for rule in INVARIANTS.rules] == [4, 5]
    assert INVARIANTS.journey.stored.kind == "account"


def invoice(status="paid", paid=0, before=0, after_=0):
    balances = {"starting_balance": before, "ending_balance": after_}
    shown = {"id": "in_1", "object": "invoice", "currency": "eur", "status": status, "amount_paid": paid}
    return shown | balances | {"lines": {"data": []}}


@pytest.mark.parametrize(
    ("invoices", "received", "credit"),
    [
        ([], 0, []),
        ([invoice(paid=2900), invoice(paid=100)], 3000, []),
        ([invoice(paid=2900), invoice(after_=-2000)], 2900, [2000]),
        ([invoice(paid=2900), invoice(after_=-2000), invoice(paid=1, before=-2000, after_=-500)], 2901, [500]),
        ([invoice(paid=2900, before=-5000, after_=-1000)], 2900, []),
        ([invoice("draft", 5, 0, -9), invoice("void", 7, 0, -9)], 0, []),
    ],
)
def test_credit_is_what_invoices_gave_and_later_ones_have_not_used_up(invoices, received, credit) -> None:
    found = totals_of(invoices)

    assert sum(amount.minor for amount in found.received) == received
    assert [amount.minor for amount in found.credit] == credit


MONTH = 30 * 86_400


def line(amount, start, end=MONTH, *, proration=False, item="si_1"):
    details = {"subscription_item": item, "proration": proration}
    return {"amount": amount, "period": {"start": start, "end": end}, "parent": {"subscription_item_details": details}}


def of_lines(status, *lines, created=0, **more):
    total = sum(each["amount"] for each in lines)
    shown = {"total": total, "created": created, "lines": {"data": list(lines)}}
    return invoice(status, total if status == "paid" else 0) | shown | more


PAID_BEFORE = of_lines("paid", line(19_900, -MONTH, 0), created=-MONTH)


def downgrade(at, unused, rest):
    return of_lines("paid", line(-unused, at, proration=True), line(rest, at, proration=True), created=at) | {
        "amount_paid": 0,
        "starting_balance": 0,
        "ending_balance": rest - unused,
    }


@pytest.mark.parametrize(
    ("status", "more", "unpaid"),
    [
        ("paid", {}, 0),
        ("open", {}, 0),
        ("draft", {"auto_advance": True}, 0),
        ("void", {}, 9950),
        ("uncollectible", {}, 9950),
        ("draft", {"auto_advance": False}, 9950),
    ],
)
def test_credit_for_a_period_that_nobody_pays_is_found_although_earlier_periods_were_paid(status, more, unpaid):
    period = of_lines(status, line(19_900, 0), **more)
    invoices = [PAID_BEFORE, PAID_BEFORE, period, downgrade(MONTH // 2, 9950, 1450)]

    found = totals_of(invoices)

    assert sum(amount.minor for amount in found.unpaid_credit) == unpaid
    assert difference(4, after(None, found)) is None if not unpaid else difference(4, after(None, found))


@pytest.mark.parametrize(("balance", "unpaid", "credit"), [(-8500, 9950, 8500), (-500, 1950, 500), (1450, 0, 0)])
def test_credit_that_a_person_took_back_counts_no_more(balance, unpaid, credit):
    invoices = [PAID_BEFORE, of_lines("void", line(19_900, 0)), downgrade(MONTH // 2, 9950, 1450)]

    found = totals_of(invoices, eur(balance))

    assert sum(amount.minor for amount in found.unpaid_credit) == unpaid
    assert sum(amount.minor for amount in found.credit) == credit


def test_the_second_change_in_a_period_credits_what_the_first_one_charged():
    changes = [downgrade(MONTH // 2, 9950, 1450), downgrade(MONTH * 3 // 4, 725, 100)]

    assert totals_of([of_lines("paid", line(19_900, 0)), *changes]).unpaid_credit == ()
    assert totals_of([of_lines("void", line(19_900, 0)), *changes]).unpaid_credit == (eur(9950 + 725),)


def test_an_old_credit_for_unpaid_time_counts_no_more():
    invoices = [of_lines("void", line(19_900, 0)), downgrade(MONTH // 2, 9950, 1450)]
    newer = of_lines("paid", line(2900, 4 * MONTH, 5 * MONTH), created=4 * MONTH)

    assert totals_of([*invoices, newer]).unpaid_credit == ()


@pytest.mark.parametrize(
    ("payment", "expected"),
    [
        ({"kind": Kind.REFUNDED, "invoice": "in_1"}, True),
        ({"kind": Kind.REFUNDED, "invoice": None}, False),
        ({"kind": Kind.DISPUTED, "invoice": "in_1"}, False),
        ({"kind": Kind.DISPUTED, "invoice": "in_1", "outcome": DisputeOutcome.LOST}, True),
        ({"kind": Kind.DISPUTED, "invoice": "in_1", "outcome": DisputeOutcome.WON}, False),
    ],
)
def test_refunds_and_lost_disputes_of_invoices_are_returned(payment, expected) -> None:
    assert is_returned(Payment("p", TENANT, None, amount=eur(1), **payment)) is expected


PLANS = """
product: shop
meters:
  - {meter: calls, window: month, lateness: 1d, provider_meters: {stripe: api_calls}}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - key: calls
        kind: metered
        meter: calls
        included: 0
        overage: [{minor: 7, currency: EUR, interval: month}]
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""


@pytest.fixture
def settings(settings):
    return settings | {"statement_delay_s": 0, "invariant_tolerance_s": 3}


async def test_a_payment_and_its_refund_are_on_the_statement(testbed) -> None:
    subscription = await testbed.subscribed(ID)
    paid = await until(lambda: _statement(testbed, received=2900))
    intents = testbed.fake.stripe.payment_intents.list({"customer": (await testbed.account(ID))["customer"]}).data

    await asyncio.to_thread(testbed.fake.stripe.refunds.create, {"payment_intent": intents[0].id, "amount": 900})
    refunded = await until(lambda: _statement(testbed, received=2900, returned=900))
    await testbed.settled()
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)

    assert subscription["price"]["minor"] == 2900
    assert (paid["returned"], paid["credit"], refunded["usage"]) == ([], [], [])
    assert (await testbed.get("/v1/violations"))["violations"] == []
    assert report.equal, report.as_dict()


async def test_credit_for_a_period_that_was_never_paid_violates_invariant_4(testbed) -> None:
    subscription = await testbed.subscribed(ID, "business")
    customer = (await testbed.account(ID))["customer"]
    await asyncio.to_thread(testbed.fake.control.set_payment, customer, "fail")
    # Somebody refunds the payment and changes the plan at Stripe, past the checks of a quote.
    await asyncio.to_thread(_downgrade_and_refund, testbed.fake, subscription["provider_subscription"], customer)

    (violated,) = await testbed.log.facts("billing.invariant_violated")
    assert (violated.event.number, violated.event.tenant_id) == (4, ID)
    assert violated.event.left == "received 990.00 EUR"


async def test_credit_that_stripe_gives_for_the_period_of_a_pause_violates_invariant_4_until_it_is_taken_back(
    testbed,
) -> None:
    subscription = await testbed.subscribed(ID, "business")
    customer = (await testbed.account(ID))["customer"]
    # A paid period hides the credit in the sums.
    await asyncio.to_thread(_pause_renew_resume_and_downgrade, testbed.fake, subscription["provider_subscription"])

    (violated,) = await testbed.log.facts("billing.invariant_violated")
    statement = await testbed.get(f"/v1/tenants/{ID}/statement")
    assert (violated.event.number, violated.event.left) == (4, "received 990.00 EUR")
    assert violated.event.right == "given as credit 990.00 EUR for time that was never paid"
    assert statement["unpaid_credit"][0]["minor"] == 99_000

    # The balance is -989.00: the rest of the period on the smaller plan is owed, too.
    await asyncio.to_thread(testbed.fake.stripe.customers.update, customer, {"balance": 100})
    await asyncio.to_thread(testbed.fake.control.renew, subscription["provider_subscription"])
    (restored,) = await testbed.log.facts("billing.invariant_restored")
    assert restored.event.number == 4


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_usage_that_is_missing_on_its_final_invoice_violates_invariant_5(testbed) -> None:
    subscription = await testbed.subscribed(ID)
    await testbed.log.facts("billing.billing_period_started", at_least=1)
    used = Usage(tenant_id=ID, meter="calls", quantity=42, occurred_at=datetime.now(UTC))
    await testbed.metering.submit(used)
    await testbed.log.facts("billing.usage_recorded", at_least=1)
    # Somebody removes the metered item, and what it would have charged: its usage is on no invoice.
    await asyncio.to_thread(_remove_metered_item, testbed.fake, subscription["provider_subscription"])
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    body = {"kind": "cancel", "reason": "asked for", "confirm": True}
    assert (await testbed.served.client.post(path, json=body)).status_code == 202

    (violated,) = await testbed.log.facts("billing.invariant_violated")
    assert (violated.event.number, violated.event.right) == (5, "no invoice has them")
    assert violated.event.left.startswith("42 units of api_calls were reported")


async def test_a_check_that_the_provider_refuses_ends_with_an_incident_that_a_retry_closes(testbed) -> None:
    await testbed.tenants.request_tenant(ID)
    checkout = (await testbed.opened(ID))["checkout_url"].rpartition("/")[2]
    await asyncio.to_thread(testbed.fake.control.fail_calls, 1_000_000, status=400, path="/v1/invoices")
    await asyncio.to_thread(testbed.fake.control.pay_checkout, checkout)
    opened, failed, closed = await testbed.given_up_and_retried("check_statement")
    await until(lambda: _statement(testbed, received=2900))

    assert (opened.event.kind, opened.event.tenant_id) == ("statement_unknown", ID)
    assert opened.event.command == f"paybill jobs retry {failed['id']}"
    assert closed.event.incident_id == opened.event.incident_id
    assert await testbed.jobs("check_statement", "failed") == []


def _downgrade_and_refund(fake, subscription, customer):
    product = fake.stripe.products.create({"name": "Small"})
    data = {"product": product.id, "currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
    price = fake.stripe.prices.create(data)
    item = fake.stripe.subscriptions.retrieve(subscription)["items"].data[0].id
    fake.stripe.subscriptions.update(
        subscription, {"items": [{"id": item, "price": price.id}], "proration_behavior": "always_invoice"}
    )
    intent = fake.stripe.payment_intents.list({"customer": customer}).data[-1]
    fake.stripe.refunds.create({"payment_intent": intent.id})


def _pause_renew_resume_and_downgrade(fake, subscription):
    product = fake.stripe.products.create({"name": "Small"})
    data = {"product": product.id, "currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
    price = fake.stripe.prices.create(data)
    fake.stripe.subscriptions.update(subscription, {"pause_collection": {"behavior": "void"}})
    fake.control.advance_clock(timedelta(days=31))
    fake.stripe.subscriptions.update(subscription, {"pause_collection": ""})
    [item] = fake.stripe.subscriptions.retrieve(subscription)["items"].data
    change = {"items": [{"id": item.id, "price": price.id}], "proration_behavior": "always_invoice"}
    fake.stripe.subscriptions.update(subscription, change | {"proration_date": item.current_period_start})


def _remove_metered_item(fake, subscription):
    items = fake.stripe.subscriptions.retrieve(subscription)["items"].data
    (metered,) = [item for item in items if item.price.recurring.usage_type == "metered"]
    fake.stripe.subscription_items.delete(metered.id, {"proration_behavior": "none"})
    customer = fake.stripe.subscriptions.retrieve(subscription).customer
    for used in fake.stripe.invoice_items.list({"customer": customer, "pending": True}).data:
        fake.stripe.invoice_items.delete(used.id)


async def _statement(testbed, received, returned=0):
    answer = await testbed.served.client.get(f"/v1/tenants/{ID}/statement")
    if answer.status_code != 200:
        return None
    found = answer.json()
    sums = [sum(amount["minor"] for amount in found[name]) for name in ("received", "returned")]
    return found if sums == [received, returned] else None
