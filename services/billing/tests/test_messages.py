"""Operators list messages and the sync queue without personal data, and retry a sync."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.app import service
from paybill_billing.settings import Settings
from paybill_billing.webhooks import domain
from paybill_contracts.billing import AccountAdopted
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.testing import until


def about(number, subscription="sub_1", **more):
    """Returns a message of Stripe about a subscription of an unknown customer."""
    item = {"id": subscription, "object": "subscription", "customer": "cus_none"}
    type_ = "customer.subscription.updated"
    return json.dumps({"id": f"evt_{number}", "type": type_, "created": 1, "data": {"object": item}, **more}).encode()


@pytest.fixture
def send(testbed, signed):
    async def post(*bodies):
        for body in bodies:
            answer = await testbed.served.client.post("/webhooks/stripe", content=body, headers=signed(body))
            assert answer.status_code == 200, answer.text

    return post


async def test_messages_are_listed_newest_first_in_pages_without_their_bodies(testbed, send):
    await send(*(about(number) for number in range(5)))

    first = await testbed.get("/v1/webhooks", limit=3)
    second = await testbed.get("/v1/webhooks", limit=3, after=first["next"])

    assert [message["id"] for message in first["messages"] + second["messages"]] == [
        f"evt_{n}" for n in (4, 3, 2, 1, 0)
    ]
    assert (first["next"], second["next"]) == ("stripe/evt_2", None)
    (message,) = (await testbed.get("/v1/webhooks", limit=1))["messages"]
    assert message["object"] == "sub_1"
    assert "body" not in message


async def test_messages_are_filtered_by_object_and_state(testbed, send):
    await send(about(1), about(2, "sub_2"), about(3, livemode=True))
    await send(json.dumps({"id": "evt_4", "type": "customer.created", "data": {"object": {}}}).encode())

    async def ids(**query):
        return [message["id"] for message in (await testbed.get("/v1/webhooks", **query))["messages"]]

    assert await ids(object="sub_2") == ["evt_2"]
    assert await ids(state="waiting") == ["evt_2", "evt_1"]
    assert await ids(state="done") == ["evt_4"]
    assert await ids(state="quarantined") == ["evt_3"]
    assert await ids(provider="manual") == []


@pytest.mark.parametrize(
    ("settings_of", "body", "why"),
    [
        ({}, about(1, livemode=True), "it is a live mode message, and this installation uses test mode"),
        (
            {"stripe_livemode": True},
            about(1, livemode=False),
            "it is a test mode message, and this installation uses live mode",
        ),
        (
            {"stripe_account": "acct_ours"},
            about(1, account="acct_theirs"),
            "it belongs to an account other than acct_ours",
        ),
        (
            {"stripe_account": "acct_ours"},
            json.dumps(
                {
                    "id": "evt_1",
                    "object": "v2.core.event",
                    "type": "v1.customer.subscription.updated",
                    "context": "acct_theirs",
                    "related_object": {"id": "sub_1", "type": "subscription"},
                }
            ).encode(),
            "it belongs to an account other than acct_ours",
        ),
    ],
)
async def test_a_message_of_another_mode_or_account_is_quarantined(start, settings, signed, settings_of, body, why):
    served = await start(service(), **settings, **settings_of)

    answer = await served.client.post("/webhooks/stripe", content=body, headers=signed(body))

    assert answer.status_code == 200
    (message,) = (await served.client.get("/v1/webhooks")).json()["messages"]
    assert (message["state"], message["quarantine"]) == ("quarantined", why)
    assert (await served.client.get("/v1/webhooks/waiting")).json() == []


async def test_messages_of_our_own_mode_and_account_are_not_quarantined(start, settings, signed):
    served = await start(service(), **settings, stripe_account="acct_ours")
    bodies = [about(1, livemode=False, account="acct_ours"), about(2), about(3, livemode=False, account=None)]

    for body in bodies:
        await served.client.post("/webhooks/stripe", content=body, headers=signed(body))

    page = (await served.client.get("/v1/webhooks")).json()
    assert [message["quarantine"] for message in page["messages"]] == [None] * 3


async def test_an_operator_retries_a_waiting_sync(testbed, send):
    await send(about(1))

    async def tried():
        return [each for each in await testbed.get("/v1/webhooks/waiting") if each["tries"] > 0]

    (waiting,) = await until(tried)
    answer = await testbed.served.client.post("/v1/webhooks/waiting/stripe/sub_1/retry")

    assert (answer.status_code, answer.json()["object"], answer.json()["tries"]) == (200, "sub_1", 0)
    assert answer.json()["due"] < waiting["due"]


async def test_objects_of_every_kind_are_retried_by_their_listed_name(testbed, send):
    refund = {"id": "re_1", "object": "refund", "amount": 1, "currency": "eur", "customer": "cus_none"}
    await send(json.dumps({"id": "evt_1", "type": "refund.created", "data": {"object": refund}}).encode())

    (waiting,) = await testbed.get("/v1/webhooks/waiting")
    answer = await testbed.served.client.post(f"/v1/webhooks/waiting/stripe/{waiting['object']}/retry")

    assert (waiting["object"], answer.status_code) == ("refund/re_1", 200)


async def test_an_object_outside_the_queue_cannot_be_retried(testbed):
    answer = await testbed.served.client.post("/v1/webhooks/waiting/stripe/sub_1/retry")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_waiting")


async def test_a_viewer_cannot_retry_a_sync(testbed):
    ring = testbed.served.running.settings.api_keys_file
    kept = json.loads(ring.read_text())
    viewer = make_key("viewer", "viewer", Role.VIEWER, ("billing:read",), datetime.now(UTC) + timedelta(days=1))
    ring.write_text(json.dumps({"keys": [*kept["keys"], viewer.stored]}))
    headers = {"Authorization": f"Bearer {viewer.raw}"}

    async def allowed():
        return (await testbed.served.client.get("/v1/webhooks", headers=headers)).status_code == 200

    await until(allowed)
    answer = await testbed.served.client.post("/v1/webhooks/waiting/stripe/sub_1/retry", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_scope")


@pytest.mark.parametrize(
    ("key", "set_to", "live"),
    [
        ("sk_live_1", None, True),
        ("rk_live_1", None, True),
        ("sk_test_1", None, False),
        ("whatever", None, None),
        ("sk_live_1", False, False),
    ],
)
def test_the_mode_is_the_setting_or_that_of_the_api_key(tmp_path, key, set_to, live):
    file = tmp_path / "key"
    file.write_text(key)
    settings = Settings.model_construct(stripe_api_key_file=file, stripe_livemode=set_to)

    assert settings.stripe_is_live() is live


async def test_objects_of_a_customer_that_is_not_ours_are_dismissed_counted_and_not_fetched(testbed, send):
    await send(about(1), about(2, "sub_2"))

    async def waiting():
        found = await testbed.get("/v1/webhooks/waiting")
        return found if found and all(each["reason"] for each in found) else None

    await until(waiting)
    testbed.fake.control.reset_calls()
    path, body = "/v1/webhooks/waiting/stripe", {"reason": "the shop's customer"}
    answer = await testbed.served.client.post(f"{path}/sub_1/dismiss", json=body)
    unknown = await testbed.served.client.post(f"{path}/sub_9/dismiss", json=body)
    await send(about(3, "sub_3"))

    async def dismissed():
        (found,) = await testbed.get("/v1/webhooks/dismissed")
        return found if found["count"] == 3 and await testbed.get("/v1/webhooks/waiting") == [] else None

    found = await until(dismissed)
    assert (answer.status_code, unknown.json()["code"]) == (200, "not_waiting")
    assert (found["provider"], found["customer"], found["reason"]) == ("stripe", "cus_none", body["reason"])
    assert testbed.fake.control.calls()["endpoints"] == []
    states = [message["state"] for message in (await testbed.get("/v1/webhooks"))["messages"]]
    assert states == ["done"] * 3


def test_a_dismissal_ends_when_the_customer_gets_an_account():
    (first,) = domain.dismiss(None, "stripe", "cus_1", "not ours")
    known = domain.evolve(None, first)
    adopted = AccountAdopted(tenant_id="ten_" + "1" * 32, provider="stripe", customer="cus_1")

    (ended,) = domain.on_account_opened(known, adopted)
    after = domain.evolve(known, ended)

    assert domain.dismiss(known, "stripe", "cus_1", "again") == []
    assert (known.active, after.active, domain.on_account_opened(after, adopted)) == (True, False, [])
    assert len(domain.dismiss(after, "stripe", "cus_1", "again")) == 1
