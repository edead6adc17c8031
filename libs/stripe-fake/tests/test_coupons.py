"""Coupons, promotion codes and tax rates of new subscriptions, and trials without a card."""

from datetime import timedelta

import httpx
import pytest
import stripe


def paid_at_checkout(fake, paid):
    subscription = fake.stripe.subscriptions.retrieve(paid["subscription"], {"expand": ["latest_invoice"]})
    return subscription.latest_invoice.amount_paid


def test_the_coupon_of_a_checkout_is_on_its_first_invoice(fake):
    coupon = fake.stripe.coupons.create({"percent_off": 25, "duration": "forever"})
    session = fake.checkout(discounts=[{"coupon": coupon.id}])
    paid = fake.control.pay_checkout(session.id)

    assert (session.amount_subtotal, session.amount_total, session.total_details.amount_discount) == (2000, 1500, 500)
    assert paid_at_checkout(fake, paid) == 1500
    assert fake.stripe.coupons.retrieve(coupon.id).times_redeemed == 1


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ({"duration": "once"}, [1000, 2000, 2000]),
        ({"duration": "repeating", "duration_in_months": 2}, [1000, 1000, 2000]),
        ({"duration": "forever"}, [1000, 1000, 1000]),
    ],
)
def test_a_coupon_lasts_as_long_as_its_duration(fake, duration, expected):
    coupon = fake.stripe.coupons.create({"percent_off": 50, **duration})
    subscription = fake.subscribe(discounts=[{"coupon": coupon.id}])
    for _ in range(2):
        fake.control.advance_clock(timedelta(days=31))

    invoices = fake.stripe.invoices.list({"subscription": subscription.id}).data
    assert [invoice.amount_paid for invoice in reversed(invoices)] == expected


def test_a_trial_does_not_use_up_a_coupon_for_one_invoice(fake):
    coupon = fake.stripe.coupons.create({"percent_off": 50, "duration": "once"})
    subscription = fake.subscribe(discounts=[{"coupon": coupon.id}], trial_period_days=7)
    fake.control.advance_clock(timedelta(days=8))

    invoices = fake.stripe.invoices.list({"subscription": subscription.id}).data
    assert [invoice.amount_paid for invoice in reversed(invoices)] == [0, 1000]


def test_a_customer_enters_a_promotion_code_on_the_page(fake):
    coupon = fake.stripe.coupons.create({"amount_off": 300, "currency": "usd", "duration": "once"})
    promotion = {"type": "coupon", "coupon": coupon.id}
    fake.stripe.promotion_codes.create({"promotion": promotion, "code": "SPRING", "max_redemptions": 1})
    sessions = [fake.checkout(allow_promotion_codes=True) for _ in range(2)]
    paid = fake.control.pay_checkout(sessions[0].id, promotion_code="SPRING")
    late = httpx.post(f"{sessions[1].url}/pay", json={"outcome": "succeed", "promotion_code": "SPRING"})

    assert paid_at_checkout(fake, paid) == 1700
    assert (late.status_code, late.json()["error"]["message"]) == (400, "This code is invalid.")
    assert fake.stripe.promotion_codes.list({"code": "SPRING", "active": True}).data == []


def test_coupons_that_are_used_up_expired_or_in_another_currency_are_refused(fake):
    most = fake.stripe.coupons.create({"percent_off": 10, "max_redemptions": 1})
    fake.subscribe(discounts=[{"coupon": most.id}])
    soon = fake.stripe.coupons.create({"percent_off": 10, "redeem_by": fake.control.clock()["now"] + 60})
    euros = fake.stripe.coupons.create({"amount_off": 10, "currency": "eur"})
    fake.control.advance_clock(timedelta(minutes=2))

    for coupon in (most, soon, euros):
        with pytest.raises(stripe.InvalidRequestError):
            fake.checkout(discounts=[{"coupon": coupon.id}])
    assert [fake.stripe.coupons.retrieve(each.id).valid for each in (most, soon, euros)] == [False, False, True]


def test_a_new_subscription_has_the_discounts_and_tax_rates_of_its_items(fake):
    coupon = fake.stripe.coupons.create({"percent_off": 10})
    vat, reduced = [
        fake.stripe.tax_rates.create({"display_name": "VAT", "percentage": percentage}) for percentage in (20, 10)
    ]
    items = [
        {"price": fake.price().id, "discounts": [{"coupon": coupon.id}], "tax_rates": [reduced.id]},
        {"price": fake.price().id},
    ]
    subscription = fake.subscribe(items=items, default_tax_rates=[vat.id], expand=["latest_invoice"])

    assert subscription.latest_invoice.amount_paid == 1800 + 180 + 2000 + 400


def test_the_items_of_a_checkout_have_their_tax_rates(fake):
    vat = fake.stripe.tax_rates.create({"display_name": "VAT", "percentage": 20})
    session = fake.checkout(line_items=[{"price": fake.price().id, "quantity": 1, "tax_rates": [vat.id]}])

    assert paid_at_checkout(fake, fake.control.pay_checkout(session.id)) == 2400


def test_a_trial_begins_without_a_card_where_none_is_required(fake):
    trial = {"trial_period_days": 14, "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}}
    session = fake.checkout(subscription_data=trial, payment_method_collection="if_required")
    strict = fake.checkout(subscription_data=trial)
    page = httpx.get(session.url, headers={"Accept": "text/html"}).text
    paid = fake.control.pay_checkout(session.id, "no_card")
    begun = fake.stripe.subscriptions.retrieve(paid["subscription"])
    fake.control.advance_clock(timedelta(days=15))

    assert "Start without a card" in page
    assert (begun.status, begun.default_payment_method) == ("trialing", None)
    assert fake.stripe.subscriptions.retrieve(begun.id).status == "canceled"
    assert httpx.post(f"{strict.url}/pay", json={"outcome": "no_card"}).status_code == 400


@pytest.mark.parametrize(
    ("coupon", "credit"),
    [
        ({"percent_off": 100, "duration": "once"}, 0),
        ({"percent_off": 25, "duration": "once"}, -750),
        ({"amount_off": 500, "currency": "usd", "duration": "once"}, -750),
        ({"percent_off": 25, "duration": "forever"}, -750),
        ({"amount_off": 500, "currency": "usd", "duration": "forever"}, -750),
    ],
)
def test_a_credit_for_unused_time_is_of_what_was_charged_after_the_coupon(fake, coupon, credit):
    subscription = fake.subscribe(discounts=[{"coupon": fake.stripe.coupons.create(coupon).id}])
    at = fake.middle_of(subscription)
    [item] = subscription["items"].data
    change = {"items": [{"id": item.id, "price": fake.price(400).id}], "proration_date": at}
    details = change | {"proration_behavior": "always_invoice"}

    preview = fake.stripe.invoices.create_preview({"subscription": subscription.id, "subscription_details": details})
    fake.stripe.subscriptions.update(subscription.id, details)

    line = preview.lines.data[0]
    assert line.amount - sum(each.amount for each in line.discount_amounts) == credit
    changed = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert changed.latest_invoice.total == preview.total
