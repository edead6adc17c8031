"""Outages, and credentials or consumers that are gone, on a real NATS: waited for, or an error; never a loop."""

import asyncio
import time

import pytest
from paybill_client import (
    ConnectionLostError,
    NotSubscribedError,
    SubscribeDeniedError,
    Subscriber,
)
from paybill_client.credentials import read_credentials
from paybill_client.subscriber import FETCH_S
from paybill_embedded.nats import NatsServer
from paybill_embedded.subscribers import FILE
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.testing import until
from paybill_stack.clients import ACK_WAIT_S


async def _operator(nats: NatsServer):
    return await connect(nats.url, "operator", nats.password("operator"))


@pytest.mark.e2e
@pytest.mark.own_nats
async def test_after_a_crash_of_nats_events_arrive_again_within_seconds(
    record, create_subscriber, run, publish, cancelled, nats
) -> None:
    subscriber = Subscriber(await create_subscriber())
    handled = record(subscriber)
    run(subscriber)
    await publish(cancelled(0))
    await handled.all_of(1)

    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.start)
    began = time.monotonic()
    await publish(cancelled(1))

    async def arrived() -> bool:
        return 1 in handled.order

    await until(arrived)
    # The crash may lose an acknowledgement: its event is waited for, and delivered again.
    assert time.monotonic() - began < ACK_WAIT_S + 2 * FETCH_S
    assert handled.order in ([0, 1], [0, 0, 1])


@pytest.mark.own_nats
async def test_a_subscriber_that_starts_before_nats_waits_for_it(
    record, create_subscriber, run, publish, cancelled, nats
) -> None:
    path = await create_subscriber()
    await asyncio.to_thread(nats.stop)
    subscriber = Subscriber(path)
    handled = record(subscriber)
    running = run(subscriber)
    await asyncio.sleep(1)  # several attempts fail
    assert not running.done()

    await asyncio.to_thread(nats.start)
    await publish(cancelled(0))
    await handled.all_of(1)

    assert handled.order == [0]


async def test_a_wrong_password_ends_the_run_with_an_error(create_subscriber) -> None:
    credentials = read_credentials(await create_subscriber())
    wrong = credentials.model_copy(update={"password": type(credentials.password)("wrong")})

    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError, match="denies this to crm"):
            await Subscriber(wrong).run()


@pytest.mark.own_nats
async def test_a_revoked_login_ends_the_run_with_an_error_and_does_not_block_the_process(
    record, create_subscriber, run, nats
) -> None:
    subscriber = Subscriber(await create_subscriber())
    record(subscriber)
    running = run(subscriber)
    await asyncio.sleep(0.5)

    (nats.data_dir / FILE).unlink()
    nats.reload()

    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError):
            await running


async def test_a_connection_that_the_client_has_closed_ends_the_run_and_does_not_block_the_process(
    record, create_subscriber, run
) -> None:
    subscriber = Subscriber(await create_subscriber())
    record(subscriber)
    running = run(subscriber)

    async def connected() -> bool:
        return subscriber._client is not None

    await until(connected)
    await subscriber._client.close()

    async with asyncio.timeout(60):
        with pytest.raises(ConnectionLostError, match="start the program again"):
            await running


async def test_reduced_rights_end_a_running_subscriber_with_the_types_that_it_misses(
    record, create_subscriber, run, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber(), check_every_s=0.2)
    handled = record(subscriber)
    running = run(subscriber)
    await publish(cancelled(0))
    await handled.all_of(1)

    await create_subscriber(contexts=("billing",))

    async with asyncio.timeout(60):
        with pytest.raises(NotSubscribedError, match=r"does not receive tenant\.tenant_cancelled"):
            await running


async def test_reduced_rights_end_batches_that_are_being_read(create_subscriber, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber(), check_every_s=0.2)
    batches = subscriber.batches(context="tenant")
    await publish(cancelled(0))
    assert len((await anext(batches)).facts) == 1

    await create_subscriber(contexts=("billing",))

    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError, match="denies this to crm"):
            await anext(batches)


async def test_a_deleted_consumer_ends_the_run_with_an_error(record, create_subscriber, run, nats) -> None:
    path = await create_subscriber()
    subscriber = Subscriber(path)
    record(subscriber)
    running = run(subscriber)
    await asyncio.sleep(0.5)

    operator = await _operator(nats)
    await operator.jetstream().delete_consumer(EVENTS, read_credentials(path).consumer)
    await operator.close()

    async with asyncio.timeout(60):
        with pytest.raises(NotSubscribedError, match="does not exist; paybill subscriber create crm"):
            await running


async def test_a_handler_for_a_type_that_is_not_delivered_is_reported(record, create_subscriber) -> None:
    subscriber = Subscriber(await create_subscriber(types=("tenant.tenant_requested",)))
    record(subscriber)

    with pytest.raises(NotSubscribedError, match=r"does not receive tenant\.tenant_cancelled"):
        await subscriber.run()


async def test_a_consumer_with_another_configuration_is_reported(create_subscriber, nats) -> None:
    path = await create_subscriber()
    operator = await _operator(nats)
    name = read_credentials(path).consumer
    configuration = (await operator.jetstream().consumer_info(EVENTS, name)).config
    await operator.jetstream().add_consumer(EVENTS, configuration, max_ack_pending=64)
    await operator.close()

    with pytest.raises(NotSubscribedError, match="another configuration"):
        await Subscriber(path).run()


async def test_the_api_prefix_of_the_credentials_is_used(create_subscriber) -> None:
    credentials = read_credentials(await create_subscriber())
    other = credentials.model_copy(update={"jetstream_prefix": "core.JS"})
    subscriber = Subscriber(other)

    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError, match="denies this to crm"):
            await subscriber.run()
