"""Publisher of internal services: validates before it sends, returns once the event is stored, and is idempotent."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nats.errors import NoServersError
from paybill_client import (
    Credentials,
    NatsUnreachableError,
    PublishDeniedError,
    Publisher,
    PublishRefusedError,
    publish,
)
from paybill_client.tracing import new_id
from paybill_contracts.envelope import MalformedFactError, read_intake_event
from paybill_contracts.event import InvalidEventError
from paybill_contracts.usage import Usage
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import INTAKE, connect, ensure
from pydantic import ValidationError

TENANT = "ten_0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
USAGE = Usage(tenant_id=TENANT, meter="calls", quantity=3, occurred_at=NOON)


def metering(nats: NatsServer) -> Publisher:
    return Publisher(Credentials.of("metering", nats.url, nats.password("metering")))


async def stored(nats: NatsServer) -> int:
    """Returns the number of messages in the intake stream."""
    client = await connect(nats.url, "operator", nats.password("operator"))
    info = await client.jetstream().stream_info(INTAKE)
    await client.close()
    return info.state.messages


async def first(nats: NatsServer) -> tuple[str, dict[str, str], bytes]:
    """Returns the first message of the intake stream as its owner receives it."""
    client = await connect(nats.url, "billing", nats.password("billing"))
    [message] = await OrderedConsumer(client, INTAKE, ["paybill.intake.>"], 1).fetch(60)
    await client.close()
    return message.subject, message.headers or {}, message.data


async def test_the_owner_of_the_type_reads_the_published_event(nats: NatsServer) -> None:
    async with metering(nats) as publisher:
        receipt = await publisher.publish(USAGE, time=NOON)

    intake_event = read_intake_event(*await first(nats))

    assert (intake_event.event, intake_event.id, intake_event.publisher, intake_event.time) == (
        USAGE,
        receipt.id,
        "metering",
        NOON,
    )
    assert receipt.sequence == 1
    assert not receipt.duplicate


async def test_the_message_is_a_cloudevent_in_its_caller_s_trace(nats: NatsServer) -> None:
    async with metering(nats) as publisher:
        await publisher.publish(USAGE, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

    subject, headers, _ = await first(nats)

    assert subject == "paybill.intake.metering.usage.recorded.v1"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == "usage.recorded"
    assert headers["ce-source"] == "paybill/metering"
    assert headers["ce-subject"] == f"usage/{TENANT}"
    assert headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")


async def test_the_same_id_is_stored_once(nats: NatsServer) -> None:
    id_ = new_id()

    async with metering(nats) as publisher:
        receipts = [await publisher.publish(USAGE, id=id_) for _ in range(3)]

    assert [(receipt.id, receipt.sequence, receipt.duplicate) for receipt in receipts] == [
        (id_, 1, False),
        (id_, 1, True),
        (id_, 1, True),
    ]
    assert await stored(nats) == 1


def test_an_invalid_payload_cannot_be_created() -> None:
    with pytest.raises(ValidationError):
        Usage(tenant_id="acme", meter="calls", quantity=3, occurred_at=NOON)


async def test_a_payload_created_without_validation_is_refused_before_it_is_sent(nats: NatsServer) -> None:
    wrong = Usage.model_construct(tenant_id=TENANT, meter="calls", quantity=-3, occurred_at=NOON)

    async with metering(nats) as publisher:
        with pytest.raises(InvalidEventError, match="quantity"):
            await publisher.publish(wrong)

    assert await stored(nats) == 0


async def test_an_id_that_is_no_uuid_is_refused_before_it_is_sent(nats: NatsServer) -> None:
    async with metering(nats) as publisher:
        with pytest.raises(MalformedFactError, match="ce-id"):
            await publisher.publish(USAGE, id="measurement 7")

    assert await stored(nats) == 0


async def test_a_wrong_password_is_reported_at_once(nats: NatsServer) -> None:
    async with asyncio.timeout(3):
        with pytest.raises(PublishDeniedError, match="denies this to metering"):
            async with Publisher(Credentials.of("metering", nats.url, "wrong")):
                pass


async def test_publishing_under_another_name_is_reported_at_once(nats: NatsServer) -> None:
    publisher = metering(nats)
    publisher._name = "billing-probe"

    async with asyncio.timeout(3):
        with pytest.raises(PublishDeniedError):
            async with publisher:
                await publisher.publish(USAGE)


async def test_missing_permissions_are_reported_at_once(nats: NatsServer) -> None:
    async with asyncio.timeout(3), metering(nats) as publisher:
        publisher._name = "crm"
        with pytest.raises(PublishDeniedError):
            await publisher.publish(USAGE)


@pytest.mark.e2e
async def test_a_missing_broker_is_reported_as_unreachable() -> None:
    async with asyncio.timeout(8):
        with pytest.raises(NatsUnreachableError, match="publish again under the same id"):
            async with Publisher(Credentials.of("metering", "nats://127.0.0.1:9", "x")):
                pass


@pytest.mark.own_nats
async def test_publishing_waits_for_a_broker_that_restarts(nats: NatsServer) -> None:
    async with metering(nats) as publisher:
        await publisher.publish(USAGE)
        await asyncio.to_thread(nats.stop)
        again = asyncio.create_task(publisher.publish(USAGE, timeout_s=60))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(nats.start)
        receipt = await again

    assert receipt.sequence == 2
    assert await stored(nats) == 2


@pytest.mark.e2e
@pytest.mark.own_nats
async def test_a_broker_that_stays_unavailable_ends_the_wait_with_an_error(nats: NatsServer) -> None:
    async with metering(nats) as publisher:
        await asyncio.to_thread(nats.stop)
        with pytest.raises(NatsUnreachableError):
            await publisher.publish(USAGE, timeout_s=0.2)
    await asyncio.to_thread(nats.start)


async def test_a_missing_intake_stream_is_reported(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as bare:
        async with metering(bare) as publisher:
            with pytest.raises(PublishRefusedError, match="there is no intake"):
                await publisher.publish(USAGE)


async def test_a_full_intake_stream_refuses_the_event(nats: NatsServer) -> None:
    steward = await connect(nats.url, "steward", nats.password("steward"))
    jetstream = steward.jetstream()
    configuration = (await jetstream.stream_info(INTAKE)).config
    configuration.max_bytes = 1
    await jetstream.update_stream(configuration)
    await steward.close()

    async with metering(nats) as publisher:
        with pytest.raises(PublishRefusedError, match="the intake refused it"):
            await publisher.publish(USAGE)


def test_one_call_publishes_from_synchronous_code(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        asyncio.run(_make_streams(server))

        receipt = publish(USAGE, Credentials.of("metering", server.url, server.password("metering")))

    assert receipt.sequence == 1


async def _make_streams(server: NatsServer) -> None:
    client = await connect(server.url, "steward", server.password("steward"))
    await ensure(client)
    await client.close()


async def test_connecting_to_a_missing_broker_ends_in_time() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(NoServersError):
            await connect("nats://127.0.0.1:9", "operator", "x", wait_s=0.5)
