"""Stripe adapter: changes are quoted exactly and applied once, also after a partial attempt."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.providers.port import ProviderRefusedError
from paybill_contracts.changes import ChangeKind
from paybill_contracts.money import Money
from stripe_purchase import MONTHLY_20, MONTHLY_50, YEARLY, action, buying, to


@pytest.fixture
async def bought(fake):
    async with buying(fake) as purchase:
        yield purchase


async def test_an_upgrade_in_mid_period_costs_the_quoted_amount(bought):
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=10))

    quote = await bought.quote(to(MONTHLY_50, quantity=3))
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(minutes=30))
    before = len(bought.invoices())
    await bought.change(to(MONTHLY_50, quantity=3), at=quote.effective_at)

    newest = bought.invoices()[0]
    assert len(bought.invoices()) == before + 1
    assert (newest.amount_paid, newest.status) == (quote.due_now.minor, "paid")
    assert sum(line.amount.minor for line in quote.lines) == newest.total > 0
    assert {line.amount.minor for line in quote.lines} == {line.amount for line in newest.lines.data}
    assert quote.next_amount == Money(minor=15_000, currency="EUR")
    assert (bought.item().price.unit_amount, bought.item().quantity) == (5000, 3)


def _discounted(bought):
    """Gives the subscription 10 % off and a tax of 10 %, and its item 5 % off and a tax of 19 %."""
    v1 = bought.fake.stripe
    coupons = [v1.coupons.create({"percent_off": off, "duration": "forever"}).id for off in (10, 5)]
    rates = [
        v1.tax_rates.create({"display_name": "VAT", "percentage": percentage, "inclusive": False}).id
        for percentage in (10, 19)
    ]
    v1.subscriptions.update(
        bought.id,
        {
            "discounts": [{"coupon": coupons[0]}],
            "default_tax_rates": [rates[0]],
            "items": [{"id": bought.item().id, "discounts": [{"coupon": coupons[1]}], "tax_rates": [rates[1]]}],
        },
    )


def _adjustments(bought):
    subscription, item = bought.subscription(), bought.item()
    rates = [[rate.id for rate in rates] for rates in (subscription.default_tax_rates, item.tax_rates)]
    return [subscription.discounts, item.discounts, *rates]


async def test_a_change_at_period_end_keeps_discounts_and_tax_rates(bought):
    await asyncio.to_thread(_discounted, bought)
    before = _adjustments(bought)
    desired = to(MONTHLY_50, later=True)

    quote = await bought.quote(desired)
    await bought.change(desired)
    scheduled = _adjustments(bought)
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=32))

    assert all(before)
    assert before == scheduled == _adjustments(bought)
    newest = bought.invoices()[0]
    # 50.00 less 5 % and 10 %, plus 19 %
    assert (bought.item().price.unit_amount, newest.total, quote.next_amount.minor) == (5000, 5087, 5087)


@pytest.mark.parametrize("later", [True, False], ids=["period end", "now"])
async def test_a_second_change_after_a_scheduled_one_keeps_discounts_and_tax_rates(bought, later):
    await asyncio.to_thread(_discounted, bought)
    before = _adjustments(bought)
    await bought.change(to(None, quantity=4, later=True), key="first")
    desired = to(None, quantity=6, later=later)

    quote = await bought.quote(desired)
    await bought.change(desired, at=quote.effective_at, key="second")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=32))

    assert all(before)
    assert _adjustments(bought) == before
    # 6 x 20.00 less 5 % and 10 %, plus 19 %
    assert (bought.item().quantity, bought.invoices()[0].total, quote.next_amount.minor) == (6, 12_209, 12_209)


async def test_a_change_while_the_invoice_is_unpaid_credits_nothing_and_keeps_the_debt(bought):
    await bought.change(to(MONTHLY_50), key="up")
    bought.fake.control.set_payment(bought.customer, "fail")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=32))
    snapshot = await bought.provider.fetch(bought.id)
    desired = replace(to(MONTHLY_20), without_proration=True)

    quote = await bought.quote(desired)
    before = len(bought.invoices())
    await bought.change(desired, at=quote.effective_at, key="down")

    assert (snapshot.status, snapshot.overdue) == ("past_due", Money(minor=5000, currency="EUR"))
    assert (quote.due_now.minor, quote.lines, quote.next_amount) == (0, (), Money(minor=2000, currency="EUR"))
    assert (len(bought.invoices()), bought.subscription().status) == (before, "past_due")
    assert bought.fake.stripe.customers.retrieve(bought.customer).balance == 0
    assert bought.item().price.unit_amount == 2000


async def test_a_downgrade_is_credited_and_collects_nothing_now(bought):
    await bought.change(to(MONTHLY_50), key="up")

    quote = await bought.quote(replace(to(MONTHLY_20), pinned=MONTHLY_50))

    assert quote.due_now.minor == 0
    assert sum(line.amount.minor for line in quote.lines) < 0
    assert quote.next_amount.minor == 2000


async def test_a_quote_changes_nothing(bought):
    await bought.quote(to(MONTHLY_50))
    before = bought.subscription().to_dict()
    bought.fake.control.reset_calls()

    for desired in (
        to(MONTHLY_50),
        to(MONTHLY_50, later=True),
        to(None, quantity=9),
        *(action(kind) for kind in ChangeKind),
    ):
        await bought.quote(desired)

    assert bought.changing_calls() == 0
    assert bought.subscription().to_dict() == before
    assert len(bought.invoices()) == 1


async def test_another_interval_starts_a_new_period_at_once_as_quoted(bought):
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=3))

    quote = await bought.quote(to(YEARLY))
    await bought.change(to(YEARLY), at=quote.effective_at)

    assert bought.invoices()[0].amount_paid == quote.due_now.minor > 30_000
    assert bought.item().current_period_end - bought.item().current_period_start >= 365 * 86_400


@pytest.mark.parametrize(
    "desired",
    [
        to(MONTHLY_50),
        to(None, quantity=4),
        action(ChangeKind.CANCEL, later=True),
        action(ChangeKind.CANCEL),
        action(ChangeKind.REACTIVATE),
        action(ChangeKind.PAUSE),
        action(ChangeKind.RESUME),
    ],
    ids=lambda desired: f"{desired.kind} {desired.at_period_end}",
)
async def test_a_completed_change_makes_no_further_calls(bought, desired):
    at = bought.now()
    if desired.kind is ChangeKind.RESUME:
        await bought.change(action(ChangeKind.PAUSE), key="before")
    if desired.kind is ChangeKind.REACTIVATE:
        await bought.change(action(ChangeKind.CANCEL, later=True), key="before")
    await bought.change(desired, at=at, key="first")
    bought.fake.control.reset_calls()

    await bought.change(desired, at=at, key="a key of another day")

    assert bought.changing_calls() == 0


async def test_a_change_is_idempotent_by_its_key(bought):
    at = bought.now()
    await bought.change(to(MONTHLY_50), at=at)

    await bought.change(to(MONTHLY_50), at=at)

    assert len(bought.invoices()) == 2


@pytest.mark.parametrize("key", ["the same key", "an expired key"])
async def test_a_change_at_the_period_end_takes_effect_then_and_not_before(bought, key):
    quote = await bought.quote(to(MONTHLY_50, later=True))
    for attempt_key in ("the same key", key):
        await bought.change(to(MONTHLY_50, later=True), key=attempt_key)

    assert (quote.lines, quote.due_now.minor, quote.next_amount.minor) == ((), 0, 5000)
    assert bought.item().price.unit_amount == 2000
    snapshot = await bought.provider.fetch(bought.id)
    assert snapshot.pending.at == quote.effective_at
    assert len(bought.fake.stripe.subscription_schedules.list().data) == 1
    ends = quote.effective_at - bought.now()
    await asyncio.to_thread(bought.fake.control.advance_clock, ends + timedelta(hours=2))
    assert bought.item().price.unit_amount == 5000
    assert bought.invoices()[0].amount_paid == quote.next_amount.minor


async def test_a_scheduled_cancellation_is_idempotent_and_can_be_reversed(bought):
    quote = await bought.quote(action(ChangeKind.CANCEL, later=True))
    for key in ("a", "b"):
        await bought.change(action(ChangeKind.CANCEL, later=True), key=key)
    assert bought.subscription().cancel_at_period_end
    assert quote.effective_at == datetime.fromtimestamp(bought.item().current_period_end, UTC)

    back = await bought.quote(action(ChangeKind.REACTIVATE))
    await bought.change(action(ChangeKind.REACTIVATE), key="c")

    assert not bought.subscription().cancel_at_period_end
    assert back.next_amount.minor == 2000


async def test_a_scheduled_cancellation_replaces_a_scheduled_plan(bought):
    await bought.change(to(MONTHLY_50, later=True), key="later")

    await bought.change(action(ChangeKind.CANCEL, later=True), key="cancel")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.subscription().status == "canceled"


async def test_a_cancellation_now_ends_the_subscription_without_a_refund(bought):
    quote = await bought.quote(action(ChangeKind.CANCEL))
    for key in ("a", "b"):
        await bought.change(action(ChangeKind.CANCEL), key=key)

    assert (quote.due_now.minor, quote.next_amount) == (0, None)
    assert bought.subscription().status == "canceled"
    with pytest.raises(ProviderRefusedError, match="has ended"):
        await bought.change(to(MONTHLY_50), key="c")


async def test_a_pause_stops_collection_until_the_resume(bought):
    for key in ("a", "b"):
        await bought.change(action(ChangeKind.PAUSE), key=key)
    assert bought.subscription().pause_collection.behavior == "void"

    back = await bought.quote(action(ChangeKind.RESUME))
    for key in ("c", "d"):
        await bought.change(action(ChangeKind.RESUME), key=key)

    assert bought.subscription().pause_collection is None
    assert back.next_amount.minor == 2000


async def test_an_upgrade_that_cannot_be_paid_is_refused_and_changes_nothing(bought):
    await asyncio.to_thread(bought.fake.control.set_payment, bought.customer, "fail")

    with pytest.raises(ProviderRefusedError):
        await bought.change(to(MONTHLY_50))

    assert (bought.subscription().status, bought.item().price.unit_amount) == ("active", 2000)


async def test_a_change_keeps_the_other_items_of_a_subscription(bought):
    addon = bought.fake.stripe.prices.create(
        {
            "product_data": {"name": "Support"},
            "currency": "eur",
            "unit_amount": 700,
            "recurring": {"interval": "month"},
        }
    )
    bought.fake.stripe.subscription_items.create({"subscription": bought.id, "price": addon.id, "quantity": 2})

    await bought.change(to(MONTHLY_50, later=True), key="later")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    items = {item.price.unit_amount: item.quantity for item in bought.subscription()["items"]["data"]}
    assert items == {5000: 1, 700: 2}


async def test_a_change_during_a_trial_costs_nothing_now(fake):
    async with buying(fake, MONTHLY_20.model_copy(update={"trial_days": 14})) as bought:
        quote = await bought.quote(to(MONTHLY_50))
        await bought.change(to(MONTHLY_50, later=True), key="later")
        await asyncio.to_thread(fake.control.advance_clock, timedelta(days=15))

        assert (quote.due_now.minor, quote.next_amount.minor) == (0, 5000)
        assert (bought.subscription().status, bought.item().price.unit_amount) == ("active", 5000)


async def test_a_pending_item_waits_for_the_end_of_the_trial_as_quoted(fake):
    async with buying(fake, MONTHLY_20.model_copy(update={"trial_days": 14})) as bought:
        fake.stripe.invoice_items.create({"customer": bought.customer, "amount": 700, "currency": "eur"})
        desired = to(None, quantity=3)

        quote = await bought.quote(desired)
        before = len(bought.invoices())
        await bought.change(replace(desired, confirmed=quote), at=quote.effective_at)
        after = len(bought.invoices())
        await asyncio.to_thread(fake.control.advance_clock, timedelta(days=15))

        assert (quote.lines, quote.due_now.minor, quote.next_amount.minor) == ((), 0, 6700)
        assert (after, bought.item().quantity) == (before, 3)
        assert bought.invoices()[0].amount_paid == quote.next_amount.minor


@pytest.fixture
async def on_trial(fake):
    """A subscription on a trial without a card, with 10 % off."""
    trial = MONTHLY_20.model_copy(update={"trial_days": 14, "trial_without_card": True})
    async with buying(fake, trial, "no_card") as purchase:
        coupon = fake.stripe.coupons.create({"percent_off": 10, "duration": "forever"}).id
        fake.stripe.subscriptions.update(purchase.id, {"discounts": [{"coupon": coupon}]})
        yield purchase


@pytest.mark.parametrize("later", [False, True], ids=["now", "at the end"])
async def test_the_quote_of_a_trial_without_a_card_has_the_price_of_later_periods(on_trial, later):
    cards = on_trial.fake.stripe.payment_methods.list({"customer": on_trial.customer}).data

    quote = await on_trial.quote(to(MONTHLY_50, later=later, quantity=3))

    assert (cards, on_trial.subscription().status) == ([], "trialing")
    assert (quote.lines, quote.due_now.minor, quote.next_amount.minor) == ((), 0, 13_500)
