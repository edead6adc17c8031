"""Reading a stream: in order, without a gap, through whatever happens to the server or to the consumer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from paybill_runtime.messaging import ordered_consumer as feeds
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect

SUBJECT = "paybill.events.0.tenant.x.v1"


@pytest.fixture
async def reader(nats) -> AsyncIterator[Client]:
    """The connection of a service: it comes back by itself."""
    bus = Broker(nats.url, "tenant", nats.password("tenant"))
    await bus.run()
    yield bus.client
    await bus.close()


@pytest.fixture
async def put(nats):
    """`await put(n)` stores n messages."""

    async def store(count: int) -> None:
        client = await connect(nats.url, "tenant", nats.password("tenant"))
        for _ in range(count):
            await client.jetstream().publish(SUBJECT, b"{}")
        await client.close()

    return store


async def _read(feed: OrderedConsumer, count: int, timeout_s: float = 10) -> list[int]:
    sequences: list[int] = []
    async with asyncio.timeout(timeout_s):
        while len(sequences) < count:
            try:
                sequences += [stream_sequence(message) for message in await feed.fetch(0.5)]
            except (OSError, TimeoutError, NotFoundError):
                await asyncio.sleep(0.1)
    return sequences


async def test_what_is_there_comes_at_once_and_never_more_than_a_batch(reader, put) -> None:
    await put(10)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 3, batch=4)

    batches = []
    while not batches or batches[-1]:
        batches.append([stream_sequence(message) for message in await feed.fetch(0.3)])

    assert [place for batch in batches for place in batch] == list(range(3, 11))
    assert max(len(batch) for batch in batches) <= 4
    assert await feed.pending() == 0


async def test_whoever_asks_how_far_behind_it_is_counts_what_it_is_busy_with(reader, put) -> None:
    await put(3)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)

    left = 3
    while left:
        taken = await feed.fetch(0.5)
        assert await feed.lag() == left
        left -= len(taken)

    assert await feed.fetch(0.1) == []
    assert await feed.lag() == 0


async def test_a_message_that_comes_while_nothing_is_there_arrives_within_moments(reader, put) -> None:
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)
    assert await feed.fetch(0.2) == []
    waiting = asyncio.create_task(feed.fetch(5))

    await put(1)

    async with asyncio.timeout(0.5):
        assert [stream_sequence(message) for message in await waiting] == [1]


@pytest.mark.own_nats
async def test_a_server_that_was_killed_and_came_back_is_read_on(reader, put, nats) -> None:
    await put(3)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)
    before = await _read(feed, 3)

    nats.kill()
    nats.start()
    await put(3)

    assert before + await _read(feed, 3) == [1, 2, 3, 4, 5, 6]


async def test_a_consumer_that_was_deleted_is_made_anew(reader, put, nats) -> None:
    await put(2)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)
    before = await _read(feed, 2)

    await reader.jetstream().delete_consumer(EVENTS, feed._consumer)
    await put(2)

    assert before + await _read(feed, 2) == [1, 2, 3, 4]


async def test_a_request_that_was_forgotten_is_noticed_by_its_silence(reader, put, monkeypatch) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_TIMEOUT_S", 0.5)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)
    assert await feed.fetch(0.1) == []
    await reader._send_unsubscribe(feed._subscription._id)  # as if the server had lost it: nothing arrives any more

    await put(2)

    assert await _read(feed, 2, timeout_s=5) == [1, 2]


async def test_a_gap_is_read_again(reader, put) -> None:
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1)
    assert await feed.fetch(0.1) == []
    deliver = feed._subscription._cb
    lost = []

    async def lossy(message) -> None:
        if lost:
            await deliver(message)
        else:
            lost.append(stream_sequence(message))

    feed._subscription._cb = lossy

    await put(4)

    assert await _read(feed, 4) == [1, 2, 3, 4]
    assert lost == [1]


async def test_a_request_that_expires_is_renewed(reader, put, monkeypatch) -> None:
    monkeypatch.setattr(feeds, "EXPIRES_S", 0.3)
    monkeypatch.setattr(feeds, "HEARTBEAT_S", 0.1)
    feed = OrderedConsumer(reader, EVENTS, [SUBJECT], 1, batch=4)
    assert await feed.fetch(1.0) == []
    requests = feed._requests

    await put(10)

    assert requests >= 2
    assert await _read(feed, 10) == list(range(1, 11))
