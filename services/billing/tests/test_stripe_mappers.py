"""Stripe objects of all supported API versions are mapped or refused."""

from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.providers.port import MalformedObjectError
from paybill_billing.providers.stripe.mappers import attempt, customer_of, subscription_of, subscription_snapshot
from paybill_billing.providers.stripe.payment_mappers import dispute, refund, related, return_target
from paybill_contracts.catalogue import Interval
from paybill_contracts.money import Money

PRICE = {
    "id": "price_1",
    "object": "price",
    "currency": "eur",
    "unit_amount": 2900,
    "lookup_key": "pro_v1_month_eur",
    "metadata": {"paybill_plan": "pro", "paybill_version": "1"},
    "recurring": {"interval": "month", "interval_count": 1},
}
CURRENT = {
    "id": "sub_1",
    "object": "subscription",
    "status": "active",
    "customer": "cus_1",
    "currency": "eur",
    "metadata": {"tenant_id": "ten_1"},
    "cancel_at": None,
    "cancel_at_period_end": False,
    "pause_collection": None,
    "latest_invoice": "in_1",
    "items": {
        "object": "list",
        "data": [
            {
                "id": "si_1",
                "price": PRICE,
                "quantity": 3,
                "current_period_start": 1_700_000_000,
                "current_period_end": 1_702_592_000,
            }
        ],
    },
}


def older():
    """Returns the subscription in the API version of 2020."""
    shape = deepcopy(CURRENT)
    item = shape["items"]["data"][0]
    shape["current_period_start"] = item.pop("current_period_start")
    shape["current_period_end"] = item.pop("current_period_end")
    return shape


def oldest():
    """Returns the subscription in the API version of 2017: a plan instead of a price, and no items."""
    shape = older()
    plan = {**PRICE, "object": "plan", "amount": PRICE["unit_amount"]}
    del plan["unit_amount"]
    return {**shape, "plan": plan, "quantity": 3, "items": {"object": "list", "data": []}}


def test_a_subscription_is_mapped_to_a_snapshot():
    found = subscription_snapshot(CURRENT)

    assert (found.id, found.customer, found.tenant, found.status) == ("sub_1", "cus_1", "ten_1", "active")
    (item,) = found.items
    assert (item.quantity, item.amount, item.interval) == (3, Money(minor=2900, currency="EUR"), Interval.MONTH)
    assert (item.price.plan, item.price.version, item.price.lookup_key) == ("pro", 1, "pro_v1_month_eur")
    assert found.period_end == datetime(2023, 12, 14, 22, 13, 20, tzinfo=UTC)
    assert (found.invoice, found.cancel_at, found.collection_paused) == ("in_1", None, False)


@pytest.mark.parametrize("shape", [older(), oldest()], ids=["2020", "2017"])
def test_older_api_versions_map_to_the_same_snapshot(shape):
    assert subscription_snapshot(shape) == subscription_snapshot(CURRENT)


def test_references_may_be_expanded():
    expanded = {**CURRENT, "customer": {"id": "cus_1", "email": "x"}, "latest_invoice": {"id": "in_1"}}

    assert subscription_snapshot(expanded) == subscription_snapshot(CURRENT)


def test_a_cancellation_at_the_period_end_is_mapped_to_its_time():
    assert (
        subscription_snapshot({**CURRENT, "cancel_at_period_end": True}).cancel_at
        == subscription_snapshot(CURRENT).period_end
    )
    assert subscription_snapshot({**CURRENT, "cancel_at": 1_701_000_000}).cancel_at == datetime(
        2023, 11, 26, 12, 0, tzinfo=UTC
    )


START, END = 1_700_000_000, 1_702_592_000


def at(seconds):
    return datetime.fromtimestamp(seconds, UTC)


def with_invoice(status, **changes):
    """Returns a subscription with its newest invoice expanded."""
    invoice = {
        "id": "in_1",
        "object": "invoice",
        "status": changes.pop("invoice_status", "open"),
        "billing_reason": changes.pop("reason", "subscription_cycle"),
        "collection_method": changes.pop("method", "charge_automatically"),
        "created": changes.pop("created", START),
        "due_date": changes.pop("due_date", None),
        "status_transitions": {"finalized_at": START + 3600},
    }
    return {**CURRENT, "status": status, "latest_invoice": invoice, **changes}


@pytest.mark.parametrize(
    ("shape", "paid_until"),
    [
        (CURRENT, END),
        ({**CURRENT, "status": "past_due"}, START),
        ({**CURRENT, "status": "trialing"}, None),
        ({**CURRENT, "status": "incomplete"}, None),
        (with_invoice("active", invoice_status="paid"), END),
        (with_invoice("active", invoice_status="void"), END),
        (with_invoice("active", invoice_status="draft"), START),
        (with_invoice("past_due"), START),
        (with_invoice("unpaid", invoice_status="uncollectible"), START),
        (with_invoice("past_due", reason="subscription_create"), None),
        (with_invoice("past_due", trial_end=START), None),
        (with_invoice("past_due", reason="subscription_update", created=START + 86_400), END),
        (with_invoice("past_due", reason="subscription_update", created=START), START),
    ],
)
def test_the_paid_period_is_derived_from_the_newest_invoice_or_the_status(shape, paid_until):
    assert subscription_snapshot(shape).paid_until == (at(paid_until) if paid_until else None)


@pytest.mark.parametrize(
    ("shape", "failed_at"),
    [
        (with_invoice("past_due"), START + 3600),
        (with_invoice("past_due", method="send_invoice", due_date=START + 9), START + 9),
        (with_invoice("past_due", invoice_status="draft"), None),
        (with_invoice("active"), None),
        ({**CURRENT, "status": "past_due"}, None),
    ],
)
def test_the_first_failure_is_derived_from_an_open_invoice(shape, failed_at):
    assert subscription_snapshot(shape).failed_at == (at(failed_at) if failed_at else None)


@pytest.mark.parametrize(
    ("recurring", "interval"),
    [
        ({"interval": "month", "interval_count": 1}, Interval.MONTH),
        ({"interval": "year", "interval_count": 1}, Interval.YEAR),
        ({"interval": "month", "interval_count": 12}, Interval.YEAR),
        ({"interval": "month", "interval_count": 3}, None),
        ({"interval": "week"}, None),
        (None, None),
    ],
)
def test_an_unused_interval_is_none(recurring, interval):
    (item,) = subscription_snapshot(
        {**CURRENT, "items": {"data": [{"price": {**PRICE, "recurring": recurring}}]}}
    ).items

    assert item.interval is interval


def test_all_items_are_mapped_the_plan_first_and_malformed_ones_are_skipped():
    seats = {**PRICE, "id": "price_seats", "metadata": {}, "recurring": {"interval": "month", "usage_type": "licensed"}}
    metered = {
        **PRICE,
        "id": "price_calls",
        "metadata": {},
        "recurring": {"interval": "month", "usage_type": "metered"},
    }
    odd = {**PRICE, "id": None}

    def ids(*prices):
        return [
            item.price.id
            for item in subscription_snapshot({**CURRENT, "items": {"data": [{"price": p} for p in prices]}}).items
        ]

    assert ids(metered, seats, PRICE, odd) == ["price_1", "price_calls", "price_seats"]
    assert ids(metered, seats) == ["price_seats", "price_calls"]


def test_an_update_with_an_outstanding_payment_is_pending():
    update = {"expires_at": START + 9, "subscription_items": [{"price": {**PRICE, "id": "price_2"}, "quantity": 7}]}

    pending = subscription_snapshot({**CURRENT, "pending_update": update}).pending

    assert ([(item.price.id, item.quantity) for item in pending.items], pending.at) == ([("price_2", 7)], at(START + 9))


def test_the_next_phase_of_a_schedule_is_pending():
    phases = [
        {"start_date": START, "end_date": END, "items": [{"price": PRICE, "quantity": 3}]},
        {"start_date": END, "end_date": END + 9, "items": [{"price": {**PRICE, "id": "price_2"}, "quantity": 4}]},
    ]
    schedule = {"id": "sub_sched_1", "current_phase": {"start_date": START, "end_date": END}, "phases": phases}

    pending = subscription_snapshot({**CURRENT, "schedule": schedule}).pending

    assert ([(item.price.id, item.quantity) for item in pending.items], pending.at) == ([("price_2", 4)], at(END))
    assert subscription_snapshot({**CURRENT, "schedule": {**schedule, "phases": phases[:1]}}).pending is None
    assert subscription_snapshot({**CURRENT, "schedule": "sub_sched_1"}).pending is None


def test_a_paused_collection_is_mapped():
    for behavior in ("void", "keep_as_draft", "mark_uncollectible"):
        paused = subscription_snapshot({**CURRENT, "pause_collection": {"behavior": behavior}})
        assert (paused.collection_paused, paused.pause) == (True, behavior)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {**CURRENT, "id": None},
        {**CURRENT, "customer": None},
        {**CURRENT, "status": 7},
        {**CURRENT, "items": None},
        {**CURRENT, "items": {"data": [{"price": {**PRICE, "currency": "euros"}}]}},
        {**CURRENT, "items": {"data": [{"price": {**PRICE, "unit_amount": 10**40}}]}},
    ],
)
def test_a_missing_required_field_is_refused(broken):
    with pytest.raises(MalformedObjectError):
        subscription_snapshot(broken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*sorted(CURRENT), "pending_update", "schedule", "trial_end"]), JSON)
def test_a_field_of_any_type_is_mapped_or_refused(field, value):
    with suppress(MalformedObjectError):
        subscription_snapshot({**CURRENT, field: value})


@given(
    st.sampled_from(sorted(with_invoice("past_due")["latest_invoice"])), JSON, st.sampled_from(["active", "past_due"])
)
def test_a_malformed_invoice_does_not_fail_its_subscription(field, value, status):
    shape = with_invoice(status)

    subscription_snapshot({**shape, "latest_invoice": {**shape["latest_invoice"], field: value}})


@given(st.sampled_from(["id", "status", "amount", "currency", "reason", "evidence_details", "object", "charge"]), JSON)
def test_a_refund_or_dispute_of_any_shape_is_mapped_or_refused(field, value):
    shape = {"id": "re_1", "object": "refund", "amount": 1, "currency": "eur", field: value}
    for read in (refund, dispute):
        with suppress(MalformedObjectError):
            read(shape)
    return_target("charge.refunded", shape)
    related({"related_object": shape, "data": {"impact": {"related_object": value}}})
    customer_of(shape)
    subscription_of(shape)


@given(st.sampled_from(sorted(PRICE)), JSON)
def test_a_price_of_any_shape_is_mapped_or_refused(field, value):
    with suppress(MalformedObjectError):
        subscription_snapshot({**CURRENT, "items": {"data": [{"price": {**PRICE, field: value}}]}})


@pytest.mark.parametrize(
    ("item", "subscription"),
    [
        ({"object": "subscription", "id": "sub_1"}, "sub_1"),
        ({"object": "invoice", "id": "in_1", "subscription": "sub_1"}, "sub_1"),
        ({"object": "invoice", "subscription": {"id": "sub_1"}}, "sub_1"),
        ({"object": "invoice", "parent": {"subscription_details": {"subscription": "sub_1"}}}, "sub_1"),
        ({"object": "invoice", "parent": {"subscription_details": {"subscription": {"id": "sub_1"}}}}, "sub_1"),
        ({"object": "invoice", "subscription": None, "parent": None}, None),
        ({"object": "checkout.session", "subscription": "sub_1"}, "sub_1"),
        ({"object": "checkout.session", "subscription": None}, None),
        ({"object": "subscription_schedule", "id": "sub_sched_1", "subscription": "sub_1"}, "sub_1"),
        ({"object": "subscription_schedule", "subscription": None, "released_subscription": "sub_1"}, "sub_1"),
        ({"object": "charge", "subscription": "sub_1"}, None),
    ],
)
def test_an_event_is_resolved_to_its_subscription(item, subscription):
    assert subscription_of(item) == subscription


def test_a_customer_id_is_taken_from_the_customer_or_its_objects():
    assert customer_of({"object": "customer", "id": "cus_1"}) == "cus_1"
    assert customer_of({"object": "invoice", "id": "in_1", "customer": {"id": "cus_1"}}) == "cus_1"
    assert customer_of({"object": "product", "id": "prod_1"}) is None


def test_a_failed_attempt_is_mapped_with_its_invoice_and_number():
    found = attempt("evt_1", {"id": "in_1", "amount_due": 2000, "currency": "usd", "attempt_count": 2})

    assert (found.event, found.invoice, found.number) == ("evt_1", "in_1", 2)
    assert found.amount == Money(minor=2000, currency="USD")
