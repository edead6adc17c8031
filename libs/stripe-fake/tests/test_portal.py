"""The customer portal: a link to a page on which a customer cancels and resumes."""

import httpx
import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def types(events):
    return [event.type for event in events]


def link(fake, subscription, **more):
    return fake.stripe.billing_portal.sessions.create({"customer": subscription.customer, **more})


def test_a_customer_cancels_and_resumes_by_buttons(fake):
    subscription = fake.subscribe()
    session = link(fake, subscription, return_url="https://example.com/back")
    page = httpx.get(session.url, headers=BROWSER)

    assert ("Team" in page.text, "Renews on" in page.text, "https://example.com/back" in page.text) == (True,) * 3
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    form = {"subscription": subscription.id, "action": "cancel"}
    clicked = httpx.post(session.url, data=form, headers=BROWSER)
    assert (clicked.status_code, clicked.headers["Location"]) == (303, httpx.URL(session.url).path)
    ending = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (ending.cancel_at_period_end, ending.cancel_at) == (True, subscription["items"].data[0].current_period_end)
    assert ending.cancellation_details.reason == "cancellation_requested"
    assert "Ends on" in httpx.get(session.url).text
    httpx.post(session.url, data={**form, "action": "resume"}, headers=BROWSER)
    going_on = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (going_on.cancel_at_period_end, going_on.cancel_at, going_on.canceled_at) == (False, None, None)
    assert types(fake.events(subscription.id))[-2:] == ["customer.subscription.updated"] * 2


def test_a_program_can_click(fake):
    subscription = fake.subscribe()
    clicked = fake.control.click_portal(link(fake, subscription).url, subscription.id, "cancel")

    assert clicked["cancel_at_period_end"]


def test_the_configuration_sets_the_mode_of_cancelling(fake):
    subscription = fake.subscribe()
    configurations = fake.stripe.billing_portal.configurations
    made = configurations.create({"features": {"subscription_cancel": {"enabled": True, "mode": "immediately"}}})
    clicked = fake.control.click_portal(link(fake, subscription, configuration=made.id).url, subscription.id, "cancel")

    assert clicked["status"] == "canceled"
    off = configurations.update(made.id, {"features": {"subscription_cancel": {"enabled": False}}})
    assert not off.features.subscription_cancel.enabled
    second = fake.subscribe()
    url = link(fake, second, configuration=made.id).url
    assert "Cancel</button>" not in httpx.get(url).text
    with pytest.raises(FakeControlError, match="does not let customers cancel"):
        fake.control.click_portal(url, second.id, "cancel")
    assert [one.id for one in configurations.list({"is_default": False})] == [made.id]


def test_a_link_shows_only_the_customers_own_subscriptions(fake):
    first, second = fake.subscribe(), fake.subscribe()
    url = link(fake, first).url

    assert second.id not in httpx.get(url).text
    with pytest.raises(FakeControlError, match="No such subscription"):
        fake.control.click_portal(url, second.id, "cancel")
    assert httpx.get(f"{fake.url}/fake/portal/test_nothing").status_code == 404
    assert httpx.post(url, json={"subscription": first.id, "action": "explode"}).status_code == 400


def test_a_link_can_lead_directly_to_one_cancellation(fake, refusal):
    first = fake.subscribe()
    items = [{"price": first["items"].data[0].price.id}]
    second = fake.stripe.subscriptions.create({"customer": first.customer, "items": items})
    flow = {"type": "subscription_cancel", "subscription_cancel": {"subscription": second.id}}
    session = link(fake, first, flow_data=flow)

    assert session.flow.subscription_cancel.subscription == second.id
    page = httpx.get(session.url).text
    assert (second.id in page, first.id in page) == (True, False)
    flow["subscription_cancel"]["subscription"] = fake.subscribe().id
    refused = refusal(stripe.InvalidRequestError, lambda: link(fake, first, flow_data=flow))
    assert refused.param == "flow_data[subscription_cancel][subscription]"
