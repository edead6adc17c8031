"""Time of a period that was not paid gives no credit, whatever the reason is: quotes at the fake of Stripe."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import stripe_purchase
from paybill_billing.providers.port.desired import DesiredSubscription
from paybill_contracts.changes import ChangeKind
from stripe_purchase import buying, priced

TEAM, STARTER, BUSINESS = priced(1, 19_900), priced(2, 2900), priced(3, 34_000)


def to(target=None, quantity=None):
    price = target.prices[0] if target else None
    return DesiredSubscription(
        ChangeKind.PLAN, at_period_end=False, product="shop", plan=target, price=price, quantity=quantity, pinned=TEAM
    )


class Bought(stripe_purchase.Bought):
    """A subscription at the fake whose periods stay unpaid."""

    async def advance(self, **duration):
        await asyncio.to_thread(self.fake.control.advance_clock, timedelta(**duration))

    def pause(self, behavior):
        self.fake.stripe.subscriptions.update(self.id, {"pause_collection": {"behavior": behavior}})

    def resume(self):
        self.fake.stripe.subscriptions.update(self.id, {"pause_collection": ""})

    def refund(self, **more):
        intent = self.fake.stripe.payment_intents.list({"customer": self.customer}).data[0]
        self.fake.stripe.refunds.create({"payment_intent": intent.id, **more})


@pytest.fixture
async def bought(fake):
    async with buying(fake, TEAM) as purchase:
        yield Bought(purchase.provider, fake, purchase.id, purchase.customer)


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")],
)
@pytest.mark.parametrize("desired", [to(STARTER), to(quantity=2)], ids=["cheaper", "dearer"])
async def test_a_period_of_a_pause_gives_no_credit_after_the_resume(bought, behavior, status, desired):
    await asyncio.to_thread(bought.pause, behavior)
    await bought.advance(days=31)
    await asyncio.to_thread(bought.resume)

    quote = await bought.quote(desired)
    without = await bought.quote(replace(desired, without_proration=True))

    newest = bought.invoices()[0]
    assert quote.unpaid.reason == f"the invoice {newest.id} of 199.00 EUR is {status}"
    assert quote.unpaid.amount.minor == -quote.lines[0].amount.minor > 19_000
    assert (without.unpaid, without.lines, without.due_now.minor) == (None, (), 0)


async def test_the_period_after_an_unpaid_one_gives_credit_again(bought):
    await asyncio.to_thread(bought.pause, "void")
    await bought.advance(days=31)
    await asyncio.to_thread(bought.resume)
    await bought.advance(days=31)

    assert bought.invoices()[0].status == "paid"
    assert (await bought.quote(to(STARTER))).unpaid is None


@pytest.mark.parametrize("action", ["void_invoice", "mark_uncollectible"])
async def test_an_invoice_that_is_written_off_gives_no_credit(bought, action):
    await asyncio.to_thread(bought.fake.control.set_payment, bought.customer, "fail")
    await bought.advance(days=32)
    await asyncio.to_thread(getattr(bought.fake.stripe.invoices, action), bought.invoices()[0].id)

    assert (await bought.quote(to(STARTER))).unpaid.amount.minor > 18_000


async def test_many_changes_in_a_paid_period_give_exactly_what_is_left(bought):
    for number, target in enumerate([BUSINESS, STARTER, TEAM, BUSINESS, TEAM, STARTER, TEAM]):
        for desired in (to(target), to(quantity=number + 2)):
            await bought.advance(days=2, seconds=7 * number)
            quote = await bought.quote(desired)
            assert quote.unpaid is None
            await bought.change(desired, key=f"{number}/{desired.quantity}")


async def test_an_upgrade_that_was_never_paid_gives_no_credit(bought):
    await bought.advance(days=10)
    await asyncio.to_thread(bought.fake.control.set_payment, bought.customer, "fail")
    [item] = bought.fake.stripe.subscriptions.retrieve(bought.id)["items"].data
    update = {"items": [{"id": item.id, "quantity": 3}], "proration_behavior": "always_invoice"}
    await asyncio.to_thread(bought.fake.stripe.subscriptions.update, bought.id, update)
    upgrade = bought.invoices()[0]
    await asyncio.to_thread(bought.fake.stripe.invoices.void_invoice, upgrade.id)

    quote = await bought.quote(to(quantity=1))

    # Of three seats, one is paid.
    assert abs(quote.unpaid.amount.minor + quote.lines[0].amount.minor * 2 // 3) <= 3
    assert f"{upgrade.id} of {upgrade.total / 100:.2f} EUR is void" in quote.unpaid.reason


@pytest.mark.parametrize(("amount", "part"), [({}, ""), ({"amount": 9950}, " in part")], ids=["full", "half"])
async def test_what_was_refunded_gives_no_credit(bought, amount, part):
    await asyncio.to_thread(lambda: bought.refund(**amount))

    quote = await bought.quote(to(STARTER))

    credited = -quote.lines[0].amount.minor
    assert abs(quote.unpaid.amount.minor - credited * (0.5 if part else 1)) <= 1
    assert quote.unpaid.reason.endswith(f"was given back{part}")


@pytest.mark.parametrize(("outcome", "credits_"), [(None, False), ("lost", False), ("won", True)])
async def test_a_disputed_payment_gives_credit_only_when_the_dispute_was_won(bought, outcome, credits_):
    intent = bought.fake.stripe.payment_intents.list({"customer": bought.customer}).data[0]
    dispute = await asyncio.to_thread(bought.fake.control.dispute, intent.latest_charge)
    if outcome is not None:
        await asyncio.to_thread(bought.fake.control.close_dispute, dispute["id"], outcome)

    assert ((await bought.quote(to(STARTER))).unpaid is None) is credits_


@pytest.mark.parametrize("percent", [100, 50])
async def test_a_coupon_for_the_first_invoice_lowers_the_credit(fake, percent):
    coupon = fake.stripe.coupons.create({"percent_off": percent, "duration": "once"}).id
    async with buying(fake, TEAM) as bought:
        terms = {
            "customer": bought.customer,
            "default_payment_method": bought.subscription().default_payment_method,
            "items": [{"price": bought.item().price.id}],
            "discounts": [{"coupon": coupon}],
        }
        bought.id = fake.stripe.subscriptions.create(terms).id

        quote = await bought.quote(to(STARTER))

    credited = [line.amount.minor for line in quote.lines if "Unused" in line.text]
    assert (quote.unpaid, credited) == (None, [-19_900 * (100 - percent) // 100])
    assert quote.due_now.minor == (2900 if percent == 100 else 0)


@pytest.fixture
async def with_amount_off(fake):
    """A subscription for 47.50 EUR with 7.00 EUR off for ever; its first invoice of 40.50 EUR is paid."""
    coupon = fake.stripe.coupons.create({"amount_off": 700, "currency": "eur", "duration": "forever"}).id
    async with buying(fake, TEAM) as bought:
        price = fake.stripe.prices.create(
            {
                "product": bought.item().price.product,
                "currency": "eur",
                "unit_amount": 4750,
                "recurring": {"interval": "month"},
                "metadata": {"paybill_plan": "pro", "paybill_version": "1"},
            }
        )
        terms = {
            "customer": bought.customer,
            "default_payment_method": bought.subscription().default_payment_method,
            "items": [{"price": price.id}],
            "discounts": [{"coupon": coupon}],
        }
        bought.id = fake.stripe.subscriptions.create(terms).id
        yield bought


@pytest.mark.parametrize(
    ("desired", "charged"), [(to(quantity=2), 9500 - 700), (to(STARTER), 2900 - 700)], ids=["seats", "plan"]
)
async def test_a_coupon_of_an_amount_leaves_the_credit_of_what_was_paid(with_amount_off, desired, charged):
    quote = await with_amount_off.quote(desired)

    assert (with_amount_off.invoices()[0].amount_paid, quote.unpaid) == (4050, None)
    assert [line.amount.minor for line in quote.lines if line.amount.minor < 0 and "Unused" in line.text] == [-4050]
    assert sum(line.amount.minor for line in quote.lines) == charged - 4050


async def test_seats_that_come_and_go_at_stripe_with_an_amount_off_credit_no_more_than_was_paid(with_amount_off):
    bought = with_amount_off
    for quantity in (2, 3, 1):
        bought.fake.stripe.subscription_items.update(
            bought.item().id, {"quantity": quantity, "proration_behavior": "always_invoice"}
        )

    totals = await bought.provider.invoice_totals(bought.customer)

    assert {invoice.status for invoice in bought.invoices()} == {"paid"}
    assert totals.unpaid_credit == ()
