"""Refused webhooks leave a trace: their number, reason, source and time, and nothing of their content."""

import json
from datetime import UTC, datetime

from paybill_billing.providers.stripe.inbound import delivery_of
from paybill_billing.webhooks.inbox import MAX_REASONS, InboxMessage, RefusalCounts, WebhookInbox
from paybill_runtime.http.middleware import MAX_BODY_BYTES
from paybill_runtime.testing import until

BODY = json.dumps(
    {"id": "evt_1", "type": "customer.created", "created": 1, "livemode": False, "data": {"object": {}}}
).encode()


async def counted(client) -> dict[str, int]:
    rows = (await client.get("/v1/webhooks/refused", params={"provider": "stripe"})).json()
    return {row["reason"]: row["count"] for row in rows}


async def until_equal(probe, expected) -> None:
    async def equal() -> bool:
        return await probe() == expected

    await until(equal)


async def test_refusals_are_counted_by_reason_with_source_and_time(testbed, outside, signed):
    client = testbed.served.client
    for _ in range(3):
        await outside.post("/webhooks/stripe", content=BODY, headers=signed(BODY, secret="whsec_other"))
    await outside.post("/webhooks/stripe", content=BODY, headers=signed(BODY, at=datetime.now(UTC).timestamp() - 330))
    await outside.post("/webhooks/stripe", content=b"x" * (MAX_BODY_BYTES + 1))
    live = BODY.replace(b"false", b"true")
    assert (await outside.post("/webhooks/stripe", content=live, headers=signed(live))).status_code == 200

    expected = {"bad_signature": 3, "stale": 1, "too_large": 1, "quarantined": 1}
    await until_equal(lambda: counted(client), expected)
    rows = (await client.get("/v1/webhooks/refused")).json()
    assert {row["source"] for row in rows} == {"127.0.0.1"}
    assert all(row["first_at"] <= row["last_at"] for row in rows)
    assert "evt_1" not in json.dumps(rows)


async def test_an_accepted_message_shows_that_the_secret_is_right(testbed, outside, signed):
    await outside.post("/webhooks/stripe", content=BODY, headers=signed(BODY, secret="whsec_other"))
    await until_equal(lambda: counted(testbed.served.client), {"bad_signature": 1})
    [before] = (await testbed.served.client.get("/v1/webhooks/refused")).json()
    await outside.post("/webhooks/stripe", content=BODY, headers=signed(BODY))

    [after] = (await testbed.served.client.get("/v1/webhooks/refused")).json()

    assert before["accepted_at"] is None
    assert after["accepted_at"] > after["last_at"]


async def test_a_message_that_the_provider_could_not_deliver_shows_that_it_is_refused(testbed, outside, signed):
    context, now = testbed.served.running.context, datetime.now(UTC)
    await outside.post("/webhooks/stripe", content=BODY, headers=signed(BODY, secret="whsec_other"))
    await until_equal(lambda: counted(testbed.served.client), {"bad_signature": 1})
    [before] = (await testbed.served.client.get("/v1/webhooks/refused")).json()

    delivery = delivery_of(json.loads(BODY), now)
    await WebhookInbox(context).store(InboxMessage(delivery, "stripe", "", context.seal_raw(BODY), datetime.now(UTC)))
    [fetched] = (await testbed.served.client.get("/v1/webhooks/refused")).json()
    other = BODY.replace(b"evt_1", b"evt_2")
    await outside.post("/webhooks/stripe", content=other, headers=signed(other))
    [after] = (await testbed.served.client.get("/v1/webhooks/refused")).json()

    assert (before["accepted_at"], before["undelivered_at"], fetched["accepted_at"]) == (None, None, None)
    assert [before["may_be_of_strangers"], fetched["may_be_of_strangers"]] == [True, False]
    assert fetched["undelivered_at"] > fetched["first_at"]
    assert (after["undelivered_at"], after["accepted_at"] > fetched["undelivered_at"]) == (None, True)


async def test_any_number_of_different_reasons_uses_bounded_storage(testbed):
    counts = RefusalCounts(testbed.served.running.context)
    for number in range(MAX_REASONS * 3):
        counts.add("stripe", f"reason_{number}", "x" * 10_000, None)

    async def rows():
        return await testbed.sql("SELECT count(*), sum(count), max(length(detail)) FROM refused_webhooks")

    await until_equal(rows, [(MAX_REASONS + 1, MAX_REASONS * 3, 500)])


async def test_counts_that_cannot_be_stored_leave_later_ones_alone(testbed, caplog):
    engine, counts = testbed.served.running.database.engine, RefusalCounts(testbed.served.running.context)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE refused_webhooks ADD CHECK (reason <> 'impossible')")

    async def writes():
        return await testbed.sql("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'refused_webhooks'::regclass")

    async with engine.begin() as connection:
        await connection.exec_driver_sql("LOCK TABLE refused_webhooks IN SHARE MODE")
        counts.add("stripe", "impossible", "", None)
        await until(writes)
        counts.add("stripe", "stale", "", None)

    await until_equal(lambda: counted(testbed.served.client), {"stale": 1})
    assert "the counts of 1 refused webhooks are lost" in caplog.text


async def test_tenants_of_stored_messages_that_cannot_be_read_leave_their_senders_an_answer(testbed, caplog):
    context, now = testbed.served.running.context, datetime.now(UTC)
    async with context.database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE accounts RENAME TO accounts_elsewhere")
    message = InboxMessage(delivery_of(json.loads(BODY), now), "stripe", "", context.seal_raw(BODY), now)

    owners = await WebhookInbox(context)._owners([message])

    assert owners == {}
    assert "the tenants of stored webhooks cannot be read" in caplog.text
