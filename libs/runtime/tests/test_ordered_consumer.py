"""Ordered consumer: in order and without a gap when the server restarts or the consumer is lost."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from paybill_runtime.messaging import ordered_consumer
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect

SUBJECT = "paybill.events.0.tenant.x.v1"


@pytest.fixture
async def client(nats) -> AsyncIterator[Client]:
    """Connection of a service, which reconnects by itself."""
    broker = Broker(nats.url, "tenant", nats.password("tenant"))
    await broker.run()
    yield broker.client
    await broker.close()


@pytest.fixture
async def put(nats):
    """`await put(n)` publishes n messages."""

    async def store(count: int) -> None:
        client = await connect(nats.url, "tenant", nats.password("tenant"))
        for _ in range(count):
            await client.jetstream().publish(SUBJECT, b"{}")
        await client.close()

    return store


async def _read(consumer: OrderedConsumer, count: int, timeout_s: float = 60) -> list[int]:
    sequences: list[int] = []
    async with asyncio.timeout(timeout_s):
        while len(sequences) < count:
            try:
                sequences += [stream_sequence(message) for message in await consumer.fetch(0.5)]
            except (OSError, TimeoutError, NotFoundError):
                await asyncio.sleep(0.1)
    return sequences


async def test_stored_messages_arrive_at_once_and_at_most_one_batch_at_a_time(client, put) -> None:
    await put(10)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 3, batch=4)

    batches = []
    while not batches or batches[-1]:
        batches.append([stream_sequence(message) for message in await consumer.fetch(0.3)])

    assert [sequence for batch in batches for sequence in batch] == list(range(3, 11))
    assert max(len(batch) for batch in batches) <= 4
    assert await consumer.pending() == 0


async def test_the_lag_includes_messages_in_progress(client, put) -> None:
    await put(3)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)

    left = 3
    while left:
        batch = await consumer.fetch(0.5)
        assert await consumer.lag() == left
        left -= len(batch)

    assert await consumer.fetch(0.1) == []
    assert await consumer.lag() == 0


async def test_a_new_message_ends_the_wait_of_a_fetch(client, put) -> None:
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    assert await consumer.fetch(0.2) == []
    waiting = asyncio.create_task(consumer.fetch(60))

    await put(1)

    async with asyncio.timeout(ordered_consumer.EXPIRES_S / 2):
        assert [stream_sequence(message) for message in await waiting] == [1]


@pytest.mark.own_nats
async def test_reading_continues_after_the_server_was_killed_and_restarted(client, put, nats) -> None:
    await put(3)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    before = await _read(consumer, 3)

    nats.kill()
    nats.start()
    await put(3)

    assert before + await _read(consumer, 3) == [1, 2, 3, 4, 5, 6]


async def test_a_deleted_consumer_is_created_again(client, put, nats) -> None:
    await put(2)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    before = await _read(consumer, 2)

    operator = await connect(nats.url, "operator", nats.password("operator"))
    await operator.jetstream().delete_consumer(EVENTS, consumer._consumer)
    await operator.close()
    await put(2)

    assert before + await _read(consumer, 2) == [1, 2, 3, 4]


async def test_a_lost_request_is_detected_by_missing_heartbeats(client, put, monkeypatch) -> None:
    monkeypatch.setattr(ordered_consumer, "HEARTBEAT_TIMEOUT_S", 0.5)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    assert await consumer.fetch(0.1) == []
    await consumer._subscription.unsubscribe()  # nothing arrives any more, as if the server had lost the request

    await put(2)

    assert await _read(consumer, 2) == [1, 2]


async def test_a_gap_is_read_again(client, put) -> None:
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    assert await consumer.fetch(0.1) == []
    inbox = client.new_inbox()
    lost = await client.subscribe(inbox)
    request = json.dumps({"batch": 1, "expires": 10**10}).encode()
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.{consumer._consumer}", request, reply=inbox)

    await put(4)

    assert await _read(consumer, 4) == [1, 2, 3, 4]
    assert stream_sequence(await lost.next_msg(5)) in {1, 2}


async def test_an_empty_message_of_another_account_delays_no_later_one(client, put, nats) -> None:
    """It ends the standing request, as if it were the server's last answer; without a new one, silence would follow."""
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1)
    assert await consumer.fetch(0.1) == []
    publisher = await connect(nats.url, "tenant", nats.password("tenant"))
    await publisher.jetstream().publish(SUBJECT, b"")
    await publisher.close()
    await put(2)
    before = ordered_consumer.HEARTBEAT_TIMEOUT_S / 2

    assert await _read(consumer, 3, before) == [1, 2, 3]


async def test_a_request_that_expires_is_renewed(client, put, monkeypatch) -> None:
    monkeypatch.setattr(ordered_consumer, "EXPIRES_S", 0.3)
    monkeypatch.setattr(ordered_consumer, "HEARTBEAT_S", 0.1)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1, batch=4)
    assert await consumer.fetch(1.0) == []
    requests = consumer._requests

    await put(10)

    assert requests >= 2
    assert await _read(consumer, 10) == list(range(1, 11))


async def test_a_name_that_another_process_uses_after_a_pause_is_not_used_again(nats, client, put, monkeypatch) -> None:
    """The server deletes an unused consumer; a new one of its name may have delivered as many messages, but others."""
    monkeypatch.setattr(ordered_consumer, "OWNED_S", 0.5)
    await put(6)
    consumer = OrderedConsumer(client, EVENTS, [SUBJECT], 1, batch=2)
    first = await _read(consumer, 2)
    await asyncio.sleep(0.6)  # a batch that takes long to handle
    operator = await connect(nats.url, "operator", nats.password("operator"))
    jetstream, name = operator.jetstream(), consumer._consumer
    config = (await jetstream.consumer_info(EVENTS, name)).config
    await jetstream.delete_consumer(EVENTS, name)
    await jetstream.add_consumer(EVENTS, config.evolve(opt_start_seq=3))
    other = await (await jetstream.pull_subscribe_bind(name, EVENTS)).fetch(4)
    await operator.close()
    await put(2)

    assert (first, len(other)) == ([1, 2], 4)
    assert await _read(consumer, 6) == [3, 4, 5, 6, 7, 8]
