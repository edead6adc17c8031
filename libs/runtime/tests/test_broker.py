"""Contract with FastStream: what a broker and a subscriber do that are not started."""

import asyncio
import json
import os
import signal

import pytest
from faststream.specification import AsyncAPI
from nats.aio.msg import Msg
from paybill_contracts.tenant import TenantRequested
from paybill_contracts.usage import Usage
from paybill_runtime.messaging.broker import BatchSubscriber, Broker
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import stop_processes, until


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

    subscriber = BatchSubscriber(broker, "EVENTS", "paybill.events.>", lambda batch: [m.data for m in batch], handle)
    await broker.run()

    await subscriber.process([_message(b"one"), _message(b"two")])
    with pytest.raises(RuntimeError, match="not committed"):
        await subscriber.process([_message(b"bad")])
    await subscriber.process([_message(b"three")])

    assert handled == [b"one", b"two", b"bad", b"three"]


async def test_the_exception_of_the_decoder_propagates_and_nothing_is_handled(broker) -> None:
    handled = []

    async def handle(batch) -> None:
        handled.extend(batch)

    def decode(_) -> list[bytes]:
        raise ValueError("not decoded")

    subscriber = BatchSubscriber(broker, "EVENTS", "paybill.events.>", decode, handle)
    await broker.run()

    with pytest.raises(ValueError, match="not decoded"):
        await subscriber.process([_message(b"one")])
    assert handled == []


def _subscriptions() -> Subscriptions:
    subscriptions = Subscriptions()

    @subscriptions.fact(TenantRequested)
    def requested(_unit, _fact, _at) -> None:
        return

    @subscriptions.intake(Usage)
    def used(_unit, _event, _at) -> None:
        return

    subscriptions.publishes([TenantRequested])
    return subscriptions


async def test_neither_a_batch_subscriber_nor_a_declaration_creates_a_consumer(broker, nats) -> None:
    async def handle(_) -> None:
        return

    BatchSubscriber(broker, "EVENTS", "paybill.events.>", list, handle)
    broker.faststream.include_router(_subscriptions().router)
    await broker.run()

    for stream in ("EVENTS", "INTAKE"):
        info = await broker.client.jetstream().stream_info(stream)
        assert info.state.consumer_count == 0


async def test_a_batch_subscriber_is_not_in_the_asyncapi_document_and_a_declaration_is(broker) -> None:
    async def handle(_) -> None:
        return

    BatchSubscriber(broker, "EVENTS", "paybill.events.>", list, handle)
    broker.faststream.include_router(_subscriptions().router)

    document = json.loads(AsyncAPI(broker.faststream, title="tenant", version="1").to_specification().to_json())
    assert document["asyncapi"].startswith("3.")
    assert {key: operation["action"] for key, operation in document["operations"].items()} == {
        "receive.tenant.tenant_requested.v1": "receive",
        "receive.usage.recorded.v1": "receive",
        "send.tenant.tenant_requested.v1": "send",
    }


def test_a_service_publishes_each_type_once() -> None:
    subscriptions = _subscriptions()

    subscriptions.publishes([TenantRequested])

    assert len(subscriptions.router.publishers) == 1


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


@pytest.mark.own_nats
async def test_a_hung_nats_does_not_answer_although_it_is_connected(broker, nats) -> None:
    assert not await broker.answers(), "it is not connected yet"
    await broker.run()
    await until(broker.answers)

    stop_processes([nats.pid])
    try:
        answers, connected = await broker.answers(), broker.connected.is_set()
    finally:
        os.kill(nats.pid, signal.SIGCONT)

    assert (answers, connected) == (False, True)
