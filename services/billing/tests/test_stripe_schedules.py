"""Stripe adapter: schedules that a change makes, replaces or drops."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from paybill_contracts.changes import ChangeKind
from stripe_purchase import MONTHLY_50, YEARLY, action, buying, to


@pytest.fixture
async def bought(fake):
    async with buying(fake) as purchase:
        yield purchase


async def test_the_quote_lists_the_scheduled_phases_that_the_change_drops(bought):
    v1, price = bought.fake.stripe, bought.item().price.id
    schedule = await asyncio.to_thread(v1.subscription_schedules.create, {"from_subscription": bought.id})
    first = {"start_date": schedule.phases[0].start_date, "end_date": schedule.phases[0].end_date}
    phases = [first | {"items": [{"price": price, "quantity": 1}]}]
    phases += [{"items": [{"price": price, "quantity": quantity}]} for quantity in (2, 3)]
    await asyncio.to_thread(v1.subscription_schedules.update, schedule.id, {"phases": phases})

    now, later, cancel = [
        await bought.quote(desired)
        for desired in (to(None, quantity=2), to(MONTHLY_50, later=True), action(ChangeKind.CANCEL, later=True))
    ]

    assert [phase.text for phase in now.dropped] == [f"2 x {price}", f"3 x {price}"]
    assert now.dropped == later.dropped == cancel.dropped
    assert (await bought.quote(action(ChangeKind.CANCEL))).dropped == ()
    assert (now.next_amount.minor, later.next_amount.minor) == (4000, 5000)


@pytest.mark.parametrize(
    ("desired", "right"),
    [
        (to(None, quantity=2), 4000),
        (to(None, quantity=3, later=True), 6000),
        (to(MONTHLY_50, quantity=2), 10_000),
        (to(YEARLY), 40_000),
        (to(YEARLY, later=True), 40_000),
        (replace(to(None, quantity=2), without_proration=True), 4000),
        (action(ChangeKind.REACTIVATE), 2000),
    ],
    ids=["now", "period end", "plan", "interval", "interval at period end", "without proration", "reactivate"],
)
async def test_the_next_amount_is_without_the_schedule_that_the_change_drops(bought, desired, right):
    await bought.change(to(None, quantity=5, later=True), key="scheduled")
    before = bought.fake.stripe.subscription_schedules.list().data[0].to_dict()

    quote = await bought.quote(desired)

    assert (quote.next_amount.minor, [phase.text[:1] for phase in quote.dropped]) == (right, ["5"])
    assert bought.fake.stripe.subscription_schedules.list().data[0].to_dict() == before
    await bought.change(desired, at=quote.effective_at, key="change")
    ends = datetime.fromtimestamp(bought.item().current_period_end, UTC)
    await asyncio.to_thread(bought.fake.control.advance_clock, ends - bought.now() + timedelta(hours=2))
    assert bought.invoices()[0].total == right


async def test_a_change_at_period_end_replaces_a_schedule_that_began_in_an_earlier_period(bought):
    v1, price = bought.fake.stripe, bought.item().price.id
    schedule = await asyncio.to_thread(v1.subscription_schedules.create, {"from_subscription": bought.id})
    first = {"start_date": schedule.phases[0].start_date, "items": [{"price": price, "quantity": 1}]}
    first["duration"] = {"interval": "month", "interval_count": 3}
    later = {"items": [{"price": price, "quantity": 4}]}
    await asyncio.to_thread(v1.subscription_schedules.update, schedule.id, {"phases": [first, later]})
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))
    desired = to(None, quantity=2, later=True)

    quote = await bought.quote(desired)
    await bought.change(desired)
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=32))

    assert quote.next_amount.minor == bought.invoices()[0].total == 4000


async def test_a_subscription_renews_without_a_schedule_after_a_scheduled_change(bought):
    await bought.change(to(MONTHLY_50, later=True))

    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=100))

    assert bought.subscription().schedule is None
    assert (bought.subscription().status, bought.item().price.unit_amount) == ("active", 5000)


async def test_a_change_now_replaces_a_scheduled_one(bought):
    await bought.change(to(MONTHLY_50, later=True), key="later")

    await bought.change(to(None, quantity=4), key="now")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.subscription().schedule is None
    assert (bought.item().price.unit_amount, bought.item().quantity) == (2000, 4)


async def test_a_scheduled_change_replaces_an_earlier_one(bought):
    await bought.change(to(MONTHLY_50, later=True), key="first")

    await bought.change(to(None, later=True, quantity=7), key="second")
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert (bought.item().price.unit_amount, bought.item().quantity) == (2000, 7)


async def test_a_scheduled_change_can_be_reversed(bought):
    await bought.change(to(MONTHLY_50, later=True), key="later")

    for key in ("back", "again"):
        await bought.change(action(ChangeKind.REACTIVATE), key=key)
    await asyncio.to_thread(bought.fake.control.advance_clock, timedelta(days=40))

    assert bought.item().price.unit_amount == 2000
