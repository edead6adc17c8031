"""The contract with FastStream: the private method that we replace exists, and its subscriber does what we rely on."""

import asyncio
import inspect
import json

import pytest
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber
from faststream.specification import AsyncAPI
from nats.aio.msg import Msg
from paybill_contracts.tenant import TenantActivated, TenantRequested
from paybill_runtime.messaging.broker import BatchSubscriber, Broker
from paybill_runtime.testing import until


def _message(body: bytes) -> Msg:
    return Msg(_client=None, subject="paybill.events.0.tenant.x.v1", data=body, reply="$JS.ACK.EVENTS.c.1.1.1.1.0")


@pytest.fixture
async def bus(nats):
    made = Broker(nats.url, "tenant", nats.password("tenant"))
    yield made
    await made.close()


async def test_a_batch_is_read_and_heard_and_what_hearing_raises_is_raised(bus) -> None:
    heard = []

    async def hear(batch) -> None:
        heard.extend(batch)
        if b"bad" in batch:
            raise RuntimeError("not committed")

    subscription = BatchSubscriber(
        bus, "EVENTS", "paybill.events.>", [TenantRequested], lambda messages: [m.data for m in messages], hear
    )
    await bus.run()

    await subscription.process([_message(b"one"), _message(b"two")])
    with pytest.raises(RuntimeError, match="not committed"):
        await subscription.process([_message(b"bad")])

    assert heard == [b"one", b"two", b"bad"]


async def test_faststream_makes_no_consumer_of_its_own(bus, nats) -> None:
    async def hear(_) -> None:
        return

    BatchSubscriber(bus, "EVENTS", "paybill.events.>", [TenantRequested], list, hear)
    await bus.run()

    info = await bus.client.jetstream().stream_info("EVENTS")
    assert info.state.consumer_count == 0


def test_the_private_method_that_we_replace_is_still_there() -> None:
    assert inspect.iscoroutinefunction(BatchPullStreamSubscriber._create_subscription)
    assert inspect.iscoroutinefunction(BatchPullStreamSubscriber.process_message)


def test_what_is_heard_is_documented_as_asyncapi() -> None:
    async def hear(_) -> None:
        return

    bus = Broker("nats://127.0.0.1:4222", "tenant", "x")
    BatchSubscriber(bus, "EVENTS", "paybill.events.>", [TenantRequested, TenantActivated], list, hear)

    document = json.loads(AsyncAPI(bus.faststream, title="tenant", version="1").to_specification().to_json())
    assert document["asyncapi"].startswith("3.")
    assert {"TenantRequested", "TenantActivated"} <= document["components"]["schemas"].keys()


@pytest.mark.own_nats
async def test_who_is_told_to_leave_while_nats_is_away_leaves_in_good_order(bus, nats) -> None:
    """As at SIGTERM: who leaves was cancelled before, and that is not news."""
    left = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await bus.close()
            left.append("what comes behind the bus")

    await bus.run()
    working = asyncio.create_task(work())
    nats.kill()
    await until(lambda: asyncio.sleep(0, not bus.connected.is_set()))
    working.cancel()
    await asyncio.wait([working])

    assert working.cancelled()
    assert left


@pytest.mark.own_nats
async def test_leaving_while_nats_is_away_is_no_error(bus, nats) -> None:
    await bus.run()
    nats.kill()

    await bus.close()

    assert not bus.connected.is_set()
