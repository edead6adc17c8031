"""Failures of handlers, on a real NATS: no trap of FastStream loses, repeats or reorders an event."""

import asyncio
import time

import pytest
from paybill_client import (
    DeadLetter,
    Fact,
    Subscriber,
    UnreadableEventError,
)
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.tenant import TenantCancelled
from paybill_runtime.messaging.streams import connect
from paybill_stack.clients import ACK_WAIT_S


async def test_an_event_whose_handler_failed_is_retried_with_a_delay_and_in_order(
    record, create_subscriber, run, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber())
    handled = record(subscriber, n2=2)
    run(subscriber)

    began = time.monotonic()
    await publish(*(cancelled(number) for number in range(5)))
    await handled.all_of(5)

    assert handled.order == [0, 1, 2, 3, 4]
    assert handled.tries == [0, 1, 2, 2, 2, 3, 4]
    assert time.monotonic() - began > 0.4 + 0.8


async def test_an_event_that_always_fails_becomes_a_dead_letter_and_later_events_are_handled(
    record, create_subscriber, run, publish, cancelled, caplog
) -> None:
    letters: list[DeadLetter] = []

    async def keep(letter: DeadLetter) -> None:
        letters.append(letter)

    subscriber = Subscriber(await create_subscriber(), tries=2, on_dead_letter=keep)
    handled = record(subscriber, n1=99)
    run(subscriber)

    await publish(*(cancelled(number) for number in range(3)))
    await handled.all_of(2)

    assert handled.order == [0, 2]
    [letter] = letters
    assert (letter.sequence, letter.tries, str(letter.error)) == (2, 2, "this handler fails")
    assert "dead letter after 2 tries" in caplog.text


async def test_a_dead_letter_that_cannot_be_stored_is_not_passed_over(
    record, create_subscriber, run, publish, cancelled
) -> None:
    calls: list[int] = []

    async def store(letter: DeadLetter) -> None:
        calls.append(letter.sequence)
        if len(calls) == 1:
            raise OSError("the store of dead letters is not available")

    subscriber = Subscriber(await create_subscriber(), tries=1, on_dead_letter=store)
    handled = record(subscriber, n0=99)
    run(subscriber)

    await publish(cancelled(0), cancelled(1))
    await handled.all_of(1)

    assert calls == [1, 1]
    assert handled.order == [1]


async def test_without_a_limit_later_events_wait_for_the_failing_one(
    record, create_subscriber, run, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber(), tries=None)
    handled = record(subscriber, n0=2)
    run(subscriber)

    await publish(cancelled(0), cancelled(1))
    await handled.all_of(2)

    assert handled.tries == [0, 0, 0, 1]


async def test_an_outage_is_not_counted_as_a_failure_of_the_event(
    record, create_subscriber, run, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber(), tries=1)
    handled = record(subscriber, n0=2)
    handled.error = RetryLaterError("the database is away")
    run(subscriber)

    await publish(cancelled(0))
    await handled.all_of(1)

    assert handled.tries == [0, 0, 0]


async def test_an_invalid_event_is_a_dead_letter_and_not_lost(
    record, create_subscriber, run, publish, cancelled, nats
) -> None:
    letters: list[DeadLetter] = []

    async def keep(letter: DeadLetter) -> None:
        letters.append(letter)

    subscriber = Subscriber(await create_subscriber(), on_dead_letter=keep)
    handled = record(subscriber)
    tenant = await connect(nats.url, "tenant", nats.password("tenant"))
    await tenant.jetstream().publish("paybill.events.0.tenant.tenant_cancelled.v1", b"not json")
    await tenant.jetstream().publish("paybill.events.0.tenant.tenant_cancelled.v7", b"{}")
    await tenant.close()
    await publish(cancelled(0))
    run(subscriber)
    await handled.all_of(1)

    assert [(letter.sequence, type(letter.error).__name__) for letter in letters] == [
        (1, "InvalidEventError"),
        (2, "UnknownEventError"),
    ]
    assert letters[0].payload == b"not json"
    assert [letter.tries for letter in letters] == [1, 1]  # no retry can help


async def test_an_event_of_a_newer_version_ends_the_run_and_is_delivered_to_a_newer_program(
    record, create_subscriber, publish, cancelled, nats
) -> None:
    path = await create_subscriber()
    await publish(cancelled(0))
    tenant = await connect(nats.url, "tenant", nats.password("tenant"))
    await tenant.jetstream().publish("paybill.events.0.tenant.tenant_cancelled.v7", b"{}")
    await tenant.close()
    await publish(cancelled(2))
    subscriber = Subscriber(path)
    handled = record(subscriber)
    async with asyncio.timeout(60):
        with pytest.raises(UnreadableEventError, match=r"event 2 .* upgrade paybill-client"):
            await subscriber.run()
    assert handled.order == [0]

    letters: list[int] = []

    async def keep(letter: DeadLetter) -> None:
        letters.append(letter.sequence)
        newer.stop()

    newer = Subscriber(path, on_dead_letter=keep)
    record(newer)
    async with asyncio.timeout(60):
        await newer.run()
    assert letters == [2]


async def test_a_cancelled_task_of_a_handler_is_a_failure_of_the_event_and_does_not_end_the_run(
    create_subscriber, run, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber())
    tries: list[str] = []
    done = asyncio.Event()

    @subscriber.on(TenantCancelled)
    async def handle(event: TenantCancelled, _: Fact) -> None:
        tries.append(event.reason)
        if len(tries) == 1:
            task = asyncio.create_task(asyncio.sleep(5))
            task.cancel()
            await task
        if event.reason == "1":
            done.set()

    run(subscriber)
    await publish(cancelled(0), cancelled(1))
    async with asyncio.timeout(60):
        await done.wait()

    assert tries == ["0", "0", "1"]


@pytest.mark.e2e
async def test_a_slow_handler_s_event_is_not_delivered_a_second_time(
    create_subscriber, run, publish, cancelled
) -> None:
    path = await create_subscriber()
    started: list[int] = []
    finished = asyncio.Event()

    async def slow(event: TenantCancelled, _: Fact) -> None:
        started.append(int(event.reason))
        if len(started) == 1:
            await asyncio.sleep(1.5 * ACK_WAIT_S)
        else:
            finished.set()

    for subscriber in (Subscriber(path), Subscriber(path)):
        subscriber.on(TenantCancelled)(slow)
        run(subscriber)
    await publish(cancelled(0), cancelled(1))
    async with asyncio.timeout(60):
        await finished.wait()

    assert started == [0, 1]
