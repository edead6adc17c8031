"""Contract with FastStream: the replaced private method exists, and the subscriber behaves as expected."""

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
async def broker(nats):
    made = Broker(nats.url, "tenant", nats.password("tenant"))
    yield made
    await made.close()


async def test_a_batch_is_decoded_and_handled_and_the_handler_s_exception_propagates(broker) -> None:
    handled = []

    async def handle(batch) -> None:
        handled.extend(batch)
        if b"bad" in batch:
            raise RuntimeError("not committed")

    subscription = BatchSubscriber(
        broker, "EVENTS", "paybill.events.>", [TenantRequested], lambda messages: [m.data for m in messages], handle
    )
    await broker.run()

    await subscription.process([_message(b"one"), _message(b"two")])
    with pytest.raises(RuntimeError, match="not committed"):
        await subscription.process([_message(b"bad")])

    assert handled == [b"one", b"two", b"bad"]


async def test_faststream_creates_no_consumer_of_its_own(broker, nats) -> None:
    async def handle(_) -> None:
        return

    BatchSubscriber(broker, "EVENTS", "paybill.events.>", [TenantRequested], list, handle)
    await broker.run()

    info = await broker.client.jetstream().stream_info("EVENTS")
    assert info.state.consumer_count == 0


def test_the_replaced_private_method_still_exists() -> None:
    assert inspect.iscoroutinefunction(BatchPullStreamSubscriber._create_subscription)
    assert inspect.iscoroutinefunction(BatchPullStreamSubscriber.process_message)


def test_subscriptions_are_documented_as_asyncapi() -> None:
    async def handle(_) -> None:
        return

    broker = Broker("nats://127.0.0.1:4222", "tenant", "x")
    BatchSubscriber(broker, "EVENTS", "paybill.events.>", [TenantRequested, TenantActivated], list, handle)

    document = json.loads(AsyncAPI(broker.faststream, title="tenant", version="1").to_specification().to_json())
    assert document["asyncapi"].startswith("3.")
    assert {"TenantRequested", "TenantActivated"} <= document["components"]["schemas"].keys()


@pytest.mark.own_nats
async def test_a_cancelled_shutdown_during_a_nats_outage_completes(broker, nats) -> None:
    """As at SIGTERM: the task that closes the broker was cancelled before."""
    finished = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await broker.close()
            finished.append("after the broker")

    await broker.run()
    working = asyncio.create_task(work())
    nats.kill()
    await until(lambda: asyncio.sleep(0, not broker.connected.is_set()))
    working.cancel()
    await asyncio.wait([working])

    assert working.cancelled()
    assert finished


@pytest.mark.own_nats
async def test_closing_during_a_nats_outage_is_no_error(broker, nats) -> None:
    await broker.run()
    nats.kill()

    await broker.close()

    assert not broker.connected.is_set()
