"""Changes at Stripe: quoted to the cent, made once, whatever was done already."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import plan
from paybill_billing.providers.port import Order, ProviderRefusedError
from paybill_billing.providers.port.desired import DesiredSubscription
from paybill_billing.providers.stripe.provider import Stripe
from paybill_contracts.catalogue import Interval, Price
from paybill_contracts.changes import ChangeKind
from paybill_contracts.money import Money

EMAIL = "ada@acme.example"


def priced(version, minor, interval=Interval.MONTH):
    price = Price(amount=Money(minor=minor, currency="EUR"), interval=interval, provider_prices={})
    return plan("pro", version).model_copy(update={"prices": (price,)})


ONE, TWO, YEARLY = priced(1, 2000), priced(2, 5000), priced(3, 40_000, Interval.YEAR)


def to(target, *, later=False, quantity=None):
    return DesiredSubscription(
        ChangeKind.PLAN, later, "shop", target, target.prices[0] if target else None, quantity, pinned=ONE
    )


def does(kind, *, later=False):
    return DesiredSubscription(kind, later, "shop", pinned=ONE)


class Bought:
    """A subscription at the stand-in, the provider that changes it, and the clock of the stand-in."""

    def __init__(self, provider, fake, subscription, customer):
        self.provider = provider
        self.fake = fake
        self.id = subscription
        self.customer = customer

    def now(self):
        return datetime.fromtimestamp(self.fake.control.clock()["now"], UTC)

    def shown(self):
        return self.fake.stripe.subscriptions.retrieve(self.id)

    def item(self):
        return self.shown()["items"]["data"][0]

    def invoices(self):
        return self.fake.stripe.invoices.list({"subscription": self.id}).data

    def changing_calls(self):
        """How often anything was asked for that changes something, since they were forgotten."""
        calls = self.fake.control.calls()["endpoints"]
        return sum(one["total"] for one in calls if one["method"] != "GET" and "preview" not in one["path"])

    async def quote(self, wanted):
        return await self.provider.quote(self.id, wanted, self.now())

    async def change(self, wanted, at=None, key="key"):
        await self.provider.change(self.id, wanted, at or self.now(), key)


@pytest.fixture
async def bought(fake):
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        order = Order(tenant_id="ten_" + "1" * 32, name="Acme", email=EMAIL, product="shop", plan=ONE)
        opened = await provider.open(order, "open")
        paid = await asyncio.to_thread(fake.control.pay_checkout, opened.checkout)
        yield Bought(provider, fake, paid["subscription"], opened.customer)


async def test_a_dearer_plan_in_mid_period_costs_what_was_quoted(bought):
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=10))

    quote = await bought.quote(to(TWO, quantity=3))
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(minutes=30))
    before = len(bought.invoices())
    await bought.change(to(TWO, quantity=3), at=quote.effective_at)

    newest = bought.invoices()[0]
    assert len(bought.invoices()) == before + 1
    assert (newest.amount_paid, newest.status) == (quote.due_now.minor, "paid")
    assert sum(line.amount.minor for line in quote.lines) == newest.total > 0
    assert {line.amount.minor for line in quote.lines} == {line.amount for line in newest.lines.data}
    assert quote.next_amount == Money(minor=15_000, currency="EUR")
    assert (bought.item().price.unit_amount, bought.item().quantity) == (5000, 3)


async def test_a_cheaper_plan_credits_and_collects_nothing_now(bought):
    await bought.change(to(TWO), key="up")

    quote = await bought.quote(replace(to(ONE), pinned=TWO))

    assert quote.due_now.minor == 0
    assert sum(line.amount.minor for line in quote.lines) < 0
    assert quote.next_amount.minor == 2000


async def test_a_quote_changes_nothing(bought):
    await bought.quote(to(TWO))
    before = bought.shown().to_dict()
    bought.fake.control.reset_calls()

    for wanted in (to(TWO), to(TWO, later=True), to(None, quantity=9), *(does(kind) for kind in ChangeKind)):
        await bought.quote(wanted)

    assert bought.changing_calls() == 0
    assert bought.shown().to_dict() == before
    assert len(bought.invoices()) == 1


async def test_another_interval_begins_a_new_period_at_once_as_quoted(bought):
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=3))

    quote = await bought.quote(to(YEARLY))
    await bought.change(to(YEARLY), at=quote.effective_at)

    assert bought.invoices()[0].amount_paid == quote.due_now.minor > 30_000
    assert bought.item().current_period_end - bought.item().current_period_start >= 365 * 86_400


@pytest.mark.parametrize(
    "wanted",
    [
        to(TWO),
        to(None, quantity=4),
        does(ChangeKind.CANCEL, later=True),
        does(ChangeKind.CANCEL),
        does(ChangeKind.REACTIVATE),
        does(ChangeKind.PAUSE),
        does(ChangeKind.RESUME),
    ],
    ids=lambda wanted: f"{wanted.kind} {wanted.at_period_end}",
)
async def test_what_is_so_already_is_not_asked_for_again(bought, wanted):
    at = bought.now()
    if wanted.kind is ChangeKind.RESUME:
        await bought.change(does(ChangeKind.PAUSE), key="before")
    if wanted.kind is ChangeKind.REACTIVATE:
        await bought.change(does(ChangeKind.CANCEL, later=True), key="before")
    await bought.change(wanted, at=at, key="first")
    bought.fake.control.reset_calls()

    await bought.change(wanted, at=at, key="a key of another day")

    assert bought.changing_calls() == 0


async def test_a_key_that_is_known_there_changes_nothing_more(bought):
    at = bought.now()
    await bought.change(to(TWO), at=at)

    await bought.change(to(TWO), at=at)

    assert len(bought.invoices()) == 2


@pytest.mark.parametrize("key", ["the same key", "a key that was forgotten"])
async def test_at_period_end_it_becomes_so_when_the_period_ends_and_not_before(bought, key):
    quote = await bought.quote(to(TWO, later=True))
    for again in ("the same key", key):
        await bought.change(to(TWO, later=True), key=again)

    assert (quote.lines, quote.due_now.minor, quote.next_amount.minor) == ((), 0, 5000)
    assert bought.item().price.unit_amount == 2000
    seen = await bought.provider.fetch(bought.id)
    assert seen.pending.at == quote.effective_at
    assert len(bought.fake.stripe.subscription_schedules.list().data) == 1
    ends = quote.effective_at - bought.now()
    await asyncio.to_thread(bought.fake.control.advance_clock, ends + timedelta(hours=2))
    assert bought.item().price.unit_amount == 5000
    assert bought.invoices()[0].amount_paid == quote.next_amount.minor


async def test_after_a_scheduled_change_the_subscription_goes_on_by_itself(bought):
    await bought.change(to(TWO, later=True))

    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=100))

    assert bought.shown().schedule is None
    assert (bought.shown().status, bought.item().price.unit_amount) == ("active", 5000)


async def test_a_change_now_replaces_the_one_that_waits(bought):
    await bought.change(to(TWO, later=True), key="later")

    await bought.change(to(None, quantity=4), key="now")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.shown().schedule is None
    assert (bought.item().price.unit_amount, bought.item().quantity) == (2000, 4)


async def test_another_change_at_period_end_replaces_the_one_that_waits(bought):
    await bought.change(to(TWO, later=True), key="first")

    await bought.change(to(None, later=True, quantity=7), key="second")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert (bought.item().price.unit_amount, bought.item().quantity) == (2000, 7)


async def test_a_scheduled_change_is_taken_back(bought):
    await bought.change(to(TWO, later=True), key="later")

    for key in ("back", "again"):
        await bought.change(does(ChangeKind.REACTIVATE), key=key)
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.item().price.unit_amount == 2000


async def test_a_cancellation_at_period_end_is_made_once_and_taken_back(bought):
    quote = await bought.quote(does(ChangeKind.CANCEL, later=True))
    for key in ("a", "b"):
        await bought.change(does(ChangeKind.CANCEL, later=True), key=key)
    assert bought.shown().cancel_at_period_end
    assert quote.effective_at == datetime.fromtimestamp(bought.item().current_period_end, UTC)

    back = await bought.quote(does(ChangeKind.REACTIVATE))
    await bought.change(does(ChangeKind.REACTIVATE), key="c")

    assert not bought.shown().cancel_at_period_end
    assert back.next_amount.minor == 2000


async def test_a_cancellation_at_period_end_drops_the_plan_that_waits(bought):
    await bought.change(to(TWO, later=True), key="later")

    await bought.change(does(ChangeKind.CANCEL, later=True), key="cancel")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.shown().status == "canceled"


async def test_a_cancellation_now_ends_it_and_gives_nothing_back(bought):
    quote = await bought.quote(does(ChangeKind.CANCEL))
    for key in ("a", "b"):
        await bought.change(does(ChangeKind.CANCEL), key=key)

    assert (quote.due_now.minor, quote.next_amount) == (0, None)
    assert bought.shown().status == "canceled"
    with pytest.raises(ProviderRefusedError, match="has ended"):
        await bought.change(to(TWO), key="c")


async def test_pausing_stops_collecting_until_it_is_resumed(bought):
    for key in ("a", "b"):
        await bought.change(does(ChangeKind.PAUSE), key=key)
    assert bought.shown().pause_collection.behavior == "void"

    back = await bought.quote(does(ChangeKind.RESUME))
    for key in ("c", "d"):
        await bought.change(does(ChangeKind.RESUME), key=key)

    assert bought.shown().pause_collection is None
    assert back.next_amount.minor == 2000


async def test_a_dearer_plan_that_cannot_be_paid_is_refused_and_stays_as_it_was(bought):
    await asyncio.to_thread(bought.fake.control.set_payment, bought.customer, "fail")

    with pytest.raises(ProviderRefusedError):
        await bought.change(to(TWO))

    assert (bought.shown().status, bought.item().price.unit_amount) == ("active", 2000)


async def test_the_other_items_of_a_subscription_are_left_alone(bought):
    addon = bought.fake.stripe.prices.create(
        {
            "product_data": {"name": "Support"},
            "currency": "eur",
            "unit_amount": 700,
            "recurring": {"interval": "month"},
        }
    )
    bought.fake.stripe.subscription_items.create({"subscription": bought.id, "price": addon.id, "quantity": 2})

    await bought.change(to(TWO, later=True), key="later")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    items = {item.price.unit_amount: item.quantity for item in bought.shown()["items"]["data"]}
    assert items == {5000: 1, 700: 2}


async def test_on_trial_a_change_costs_nothing_now(fake):
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        trial = ONE.model_copy(update={"trial_days": 14})
        opened = await provider.open(Order("ten_" + "1" * 32, "Acme", EMAIL, "shop", trial), "open")
        paid = await asyncio.to_thread(fake.control.pay_checkout, opened.checkout)
        bought = Bought(provider, fake, paid["subscription"], opened.customer)

        quote = await bought.quote(to(TWO))
        await bought.change(to(TWO, later=True), key="later")
        await asyncio.to_thread(fake.control.advance_clock, timedelta(days=15))

        assert (quote.due_now.minor, quote.next_amount.minor) == (0, 5000)
        assert (bought.shown().status, bought.item().price.unit_amount) == ("active", 5000)
