"""Messages are stored before the answer; invalid messages are refused with a code."""

import asyncio
import gc
import json
import sys
from datetime import UTC, datetime

import httpx
import pytest
from billing_testbed import SECRETS
from paybill_billing.app import service
from paybill_billing.providers.port import DeliveryRefusedError
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_billing.webhooks.inbox import MAX_WAITING, WebhookInbox
from paybill_billing.webhooks.jobs.sync import delete_old_bodies, delete_old_messages
from paybill_embedded import PostgresServer
from paybill_runtime.errors import OverloadedError
from paybill_runtime.serving import serving
from sqlalchemy import text

NOW = datetime.now(UTC).timestamp()


def event(**changes):
    made = {
        "id": "evt_1",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": int(NOW),
        "api_version": "2026-10-28.endive",
        "livemode": False,
        "data": {"object": {"id": "sub_1", "object": "subscription", "customer": "cus_none"}},
    }
    return json.dumps({**made, **changes}).encode()


async def test_copies_of_a_signed_message_are_stored_once(testbed, outside, signed):
    body = event()

    answers = [await outside.post("/webhooks/stripe", content=body, headers=signed(body)) for _ in range(3)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"received": True})] * 3
    kept = await testbed.sql("SELECT event_id, type, object_id, customer, target, api_version FROM webhooks")
    assert kept == [
        ("evt_1", "customer.subscription.updated", "sub_1", "cus_none", "sub_1", "2026-10-28.endive"),
    ]


async def test_every_active_secret_is_accepted_during_a_rotation(outside, signed):
    for number, secret in enumerate(SECRETS):
        body = event(id=f"evt_{number}")
        assert (await outside.post("/webhooks/stripe", content=body, headers=signed(body, secret=secret))).is_success


async def test_messages_without_a_target_are_stored_as_done(testbed, outside, signed):
    body = event(type="customer.created", data={"object": {"id": "cus_1", "object": "customer", "email": "x@y.z"}})
    odd = event(id="evt_2", type="something.new", data=None)

    for each in (body, odd):
        assert (await outside.post("/webhooks/stripe", content=each, headers=signed(each))).is_success

    assert await testbed.sql("SELECT target, done_at IS NOT NULL FROM webhooks") == [(None, True)] * 2


GOOD = event()


CASES = [
    (GOOD, None, "unsigned"),
    (GOOD, "nonsense", "bad_signature"),
    (GOOD, "t=1,v1=\xfc", "bad_signature"),
    (GOOD, {"secret": "whsec_other"}, "bad_signature"),
    (GOOD, {"body": event(id="evt_other")}, "bad_signature"),
    (GOOD, {"at": NOW - 330}, "stale"),
    (GOOD, {"at": NOW + 3600}, "future"),
    (b"\xff\xfe", {"body": b"{}"}, "not_utf8"),
    (b"{not json", {}, "not_json"),
    (b"[" * 100_000, {}, "not_json"),
    (b"", {}, "not_json"),
    (b"[]", {}, "not_an_object"),
    (b"7", {}, "not_an_object"),
    (event()[:-1] + b', "id": "evt_other"}', {}, "repeated_key"),
    (b'{"id": "evt_1", "data": {"object": {"id": "sub_1", "\\u0069d": "sub_2"}}}', {}, "repeated_key"),
    (event(id=None), {}, "missing_id"),
    (event(id="evt\u0000"), {}, "missing_id"),
    (event(type=7), {}, "missing_type"),
]


def headers_for(signed, body, signing):
    """signing: changes to a valid signature of `body`, a literal header, or None for no header."""
    match signing:
        case None:
            return {}
        case str():
            return {"stripe-signature": signing}
        case _:
            return signed(**{"body": body, **signing})


@pytest.mark.parametrize(("body", "signing", "code"), CASES)
def test_an_invalid_message_is_refused_with_a_code(signed, body, signing, code):
    with pytest.raises(DeliveryRefusedError) as caught:
        StripeInbound(SECRETS).receive(body, headers_for(signed, body, signing), datetime.now(UTC))

    assert caught.value.code == code


def test_a_deeply_nested_body_is_refused_far_from_the_recursion_limit(signed):
    """Parses a nested body far from the recursion limit, at which finalizers of the garbage collection would fail."""
    failed = []
    hook, sys.unraisablehook = sys.unraisablehook, failed.append
    body, threshold, callback = b"[" * 100_000, gc.get_threshold(), lambda _phase, _info: sorted([1], key=str)
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        with pytest.raises(DeliveryRefusedError):
            StripeInbound(SECRETS).receive(body, signed(body), datetime.now(UTC))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
        sys.unraisablehook = hook

    assert failed == []


async def test_every_refusal_is_a_problem_and_stores_nothing(testbed, outside, signed):
    for body, signing, code in CASES:
        headers = headers_for(signed, body, signing)
        given = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = await outside.post("/webhooks/stripe", content=body, headers=given)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert answer.headers["content-type"] == "application/problem+json"

    assert await testbed.sql("SELECT 1 FROM webhooks") == []


async def test_a_body_of_more_than_a_mebibyte_is_refused_before_it_is_read(outside, signed):
    body = b" " * (1024 * 1024 + 1)

    answer = await outside.post("/webhooks/stripe", content=body, headers=signed(body))

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_an_unknown_provider_and_another_method_are_refused(outside):
    unknown = await outside.post("/webhooks/paypal", content=b"{}")
    get = await outside.get("/webhooks/stripe")

    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_provider")
    assert (get.status_code, get.json()["code"]) == (405, "method_not_allowed")


async def test_the_webhook_route_does_not_exist_without_a_secret(start, settings, signed):
    served = await start(service(), **{**settings, "stripe_webhook_secrets_file": None})

    body = event()
    answer = await served.client.post("/webhooks/stripe", content=body, headers=signed(body, secret="whsec_first"))

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_provider")


async def test_personal_data_of_a_message_is_stored_nowhere_in_plaintext(testbed, outside, signed, caplog):
    person = "grace.hopper@navy.example"
    body = event(
        type="customer.updated", data={"object": {"id": "cus_1", "object": "customer", "email": person, "name": person}}
    )

    await outside.post("/webhooks/stripe", content=body, headers=signed(body))
    await outside.post("/webhooks/stripe", content=body, headers=signed(body, secret="whsec_other"))

    tables = await testbed.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'chassis')"
    )
    for (table,) in tables:
        rows = await testbed.sql(f"SELECT t::text FROM {table} AS t")  # PostgreSQL quoted the name
        hexed = person.encode().hex()
        assert not [row for (row,) in rows if person in row or hexed in row], table
    assert person not in caplog.text
    ((sealed,),) = await testbed.sql("SELECT body FROM webhooks")
    assert testbed.served.running.context.open_raw(bytes(sealed)) == body


async def test_bodies_are_deleted_after_thirty_days_and_copies_are_still_detected(testbed, outside, signed):
    for number in range(2):
        body = event(id=f"evt_{number}", type="customer.updated", data=None)
        await outside.post("/webhooks/stripe", content=body, headers=signed(body))
    context = testbed.served.running.context
    async with context.database.transaction() as connection:
        await connection.execute(
            text("UPDATE webhooks SET received_at = received_at - interval '31 days' WHERE event_id = 'evt_0'")
        )

    await delete_old_bodies(context)

    kept = await testbed.sql("SELECT event_id, body IS NULL FROM webhooks ORDER BY event_id")
    assert kept == [("evt_0", True), ("evt_1", False)]


async def test_only_processed_messages_are_deleted_after_the_retention(testbed):
    context = testbed.served.running.context
    async with context.database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO webhooks (provider, event_id, type, created, livemode, target, traceparent, received_at, "
                "done_at) SELECT 'other', 'evt_' || n, 't', now(), false, 'sub_1', '', "
                "now() - make_interval(days => n), CASE WHEN n <> 91 THEN now() END FROM generate_series(85, 95) AS n"
            )
        )

    await delete_old_messages(context)

    kept = await testbed.sql("SELECT event_id FROM webhooks WHERE provider = 'other' ORDER BY event_id")
    assert [each for (each,) in kept] == [f"evt_{day}" for day in (85, 86, 87, 88, 89, 91)]


@pytest.mark.e2e
async def test_without_postgresql_the_answer_is_503_and_the_retry_succeeds(start, settings, tmp_path, signed):
    with PostgresServer(tmp_path / "own") as server:
        server.ensure_databases()
        password_file = server.password_file("billing")
        served = await start(service(), server.url("billing"), database_password_file=password_file, **settings)
        async with serving(served.running) as port, httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/webhooks/stripe"
            body = event()
            server.stop()
            refused = await client.post(url, content=body, headers=signed(body), timeout=30)
            server.start()
            kept = await client.post(url, content=body, headers=signed(body), timeout=30)

        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert kept.status_code == 200


async def test_a_hundred_concurrent_messages_share_few_transactions(testbed, outside, signed):
    bodies = [event(id=f"evt_{number % 90}", type="customer.updated", data=None) for number in range(100)]

    answers = await asyncio.gather(
        *(outside.post("/webhooks/stripe", content=body, headers=signed(body)) for body in bodies)
    )

    assert {answer.status_code for answer in answers} == {200}
    ((messages, transactions),) = await testbed.sql("SELECT count(*), count(DISTINCT xmin::text) FROM webhooks")
    assert messages == 90
    assert transactions < 60


async def test_a_full_inbox_refuses_further_messages():
    inbox = WebhookInbox(None)
    inbox._waiting = [None] * MAX_WAITING

    with pytest.raises(OverloadedError):
        await inbox.store(None)


def test_the_timestamp_tolerance_is_two_sided(signed):
    body, now = event(), datetime.now(UTC)
    inbound = StripeInbound(SECRETS)

    for offset in (-299, 0, 299):
        headers = signed(body, at=now.timestamp() + offset)
        assert inbound.receive(body, headers, now).event_id == "evt_1"
