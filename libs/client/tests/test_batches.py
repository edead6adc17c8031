"""Batches from a stored position, on a real NATS: in order and without a gap, whatever is restarted or lost."""

import asyncio
from contextlib import aclosing, suppress

import pytest
from paybill_client import (
    CredentialsError,
    DeadLetter,
    OlderLogError,
    SubscribeDeniedError,
    Subscriber,
    UnreadableEventError,
)
from paybill_client.credentials import read_credentials
from paybill_client.ordered_consumer import EXPIRES_S, OrderedConsumer
from paybill_client.postgres import PostgresInbox
from paybill_contracts.tenant import TenantCancelled, TenantRequested
from paybill_embedded.subscribers import FILE
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.testing import until

SUBJECT = "paybill.events.0.tenant.tenant_cancelled.v1"


async def _read(batches, count: int, timeout_s: float = 60) -> list[int]:
    """Returns the sequences of the next facts, at least `count`."""
    sequences: list[int] = []
    async with asyncio.timeout(timeout_s), aclosing(batches):
        async for batch in batches:
            sequences += [fact.sequence for fact in batch.facts]
            assert batch.position >= sequences[-1]
            if len(sequences) >= count:
                return sequences
    return sequences


async def test_batches_contain_the_context_s_events_in_order_behind_the_position(
    create_subscriber, publish, cancelled, quota_warned
) -> None:
    subscriber = Subscriber(await create_subscriber())
    await publish(*(cancelled(number) for number in range(20)), quota_warned)

    assert await _read(subscriber.batches(context="tenant"), 20) == list(range(1, 21))
    assert await _read(subscriber.batches(12, context="tenant"), 8) == list(range(13, 21))
    assert await _read(subscriber.batches(context="billing"), 1) == [21]


async def test_a_batch_has_at_most_its_size(create_subscriber, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    await publish(*(cancelled(number) for number in range(10)))
    sizes = []

    async with aclosing(subscriber.batches(size=4)) as batches:
        async for batch in batches:
            sizes.append(len(batch.facts))
            if sum(sizes) == 10:
                break

    assert max(sizes) <= 4


async def test_a_single_event_arrives_at_once(create_subscriber, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    await publish(cancelled(0))

    async with aclosing(subscriber.batches()) as batches:
        first = await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.5)  # the consumer waits for the next event
        await publish(cancelled(1))
        async with asyncio.timeout(EXPIRES_S / 2):
            second = await waiting

    assert (first.position, second.position) == (1, 2)


async def test_chosen_types_are_decoded_and_the_position_passes_over_the_others(
    create_subscriber, publish, cancelled
) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    await publish(*(cancelled(number) for number in range(3)))

    async with aclosing(subscriber.batches(types=[TenantRequested])) as batches:
        batch = await anext(batches)
    assert (batch.facts, batch.position) == ((), 3)
    async with aclosing(subscriber.batches(types=[TenantCancelled])) as batches:
        assert len((await anext(batches)).facts) == 3


@pytest.mark.own_nats
async def test_a_crash_of_nats_loses_and_repeats_nothing(create_subscriber, publish, cancelled, nats) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    reading = asyncio.create_task(_read(subscriber.batches(size=8), 60))
    for part in range(3):
        await publish(*(cancelled(number) for number in range(part * 20, part * 20 + 20)))
        if part < 2:
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)

    assert await reading == list(range(1, 61))


async def test_a_lost_consumer_is_created_again(create_subscriber, publish, cancelled, nats, login) -> None:
    client = await login(await create_subscriber(contexts=("tenant",)))
    operator = await connect(nats.url, "operator", nats.password("operator"))
    consumer = OrderedConsumer(client, "$JS.API", EVENTS, "paybill.events.*.tenant.>", 0, 8)
    await publish(cancelled(0))
    [first] = await consumer.fetch(60)

    await operator.jetstream().delete_consumer(EVENTS, consumer._consumer)
    await operator.close()
    await publish(cancelled(1))
    [second] = await consumer.fetch(60)

    assert [each.metadata.sequence.stream for each in (first, second)] == [1, 2]


async def test_a_position_that_the_log_does_not_contain_is_an_error(
    create_subscriber, publish, cancelled, quota_warned, login
) -> None:
    client = await login(await create_subscriber(contexts=("tenant",)))
    await publish(cancelled(0), quota_warned, cancelled(1))

    for position in (40, 2):
        consumer = OrderedConsumer(client, "$JS.API", EVENTS, "paybill.events.*.tenant.>", position, 8, missing_s=0.1)
        with pytest.raises(OlderLogError, match=f"no event at {position}"):
            await _fetch_until_raises(consumer)


async def _fetch_until_raises(consumer: OrderedConsumer) -> None:
    for _ in range(600):
        await consumer.fetch(0.1)


async def test_an_event_that_cannot_be_read_ends_the_loop_behind_the_events_before_it(
    create_subscriber, publish, cancelled, nats
) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    await publish(cancelled(0))
    await _store_invalid(nats)
    await publish(cancelled(1))
    batches = subscriber.batches()

    assert (await anext(batches)).position == 1
    with pytest.raises(UnreadableEventError, match=r"event 2 .* cannot be read"):
        await anext(batches)


async def test_with_a_callback_for_dead_letters_the_loop_continues(create_subscriber, publish, cancelled, nats) -> None:
    letters: list[DeadLetter] = []

    async def keep(letter: DeadLetter) -> None:
        letters.append(letter)

    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)), on_dead_letter=keep)
    await publish(cancelled(0))
    await _store_invalid(nats)
    await publish(cancelled(1))

    assert await _read(subscriber.batches(), 2) == [1, 3]
    assert [letter.sequence for letter in letters] == [2]


async def _store_invalid(nats) -> None:
    tenant = await connect(nats.url, "tenant", nats.password("tenant"))
    await tenant.jetstream().publish(SUBJECT, b"not json")
    await tenant.close()


@pytest.mark.own_nats
async def test_a_revoked_login_ends_the_loop_with_an_error(create_subscriber, publish, cancelled, nats) -> None:
    batches = Subscriber(await create_subscriber(contexts=("tenant",))).batches()
    await publish(cancelled(0))
    assert (await anext(batches)).position == 1

    (nats.data_dir / FILE).unlink()
    nats.reload()

    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError):
            await anext(batches)


async def test_the_right_to_read_in_batches_is_needed(create_subscriber) -> None:
    without = Subscriber(await create_subscriber(batches=False))
    with pytest.raises(CredentialsError, match="may not read in batches"):
        without.batches()

    credentials = read_credentials(await create_subscriber("other", batches=False))
    forged = Subscriber(credentials.model_copy(update={"contexts": ("tenant",)}))
    async with asyncio.timeout(60):
        with pytest.raises(SubscribeDeniedError, match="denies this to other"):
            await anext(forged.batches())


async def test_one_of_several_contexts_must_be_named(create_subscriber) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("billing", "tenant")))

    with pytest.raises(ValueError, match="billing, tenant"):
        subscriber.batches()
    with pytest.raises(ValueError, match="billing, tenant"):
        subscriber.batches(context="provisioner")


async def test_the_position_is_stored_with_the_changes_of_the_batch(
    create_subscriber, publish, cancelled, pool
) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    inbox = PostgresInbox(pool, "warehouse")
    await inbox.create_tables()
    await publish(*(cancelled(number) for number in range(10)), copies=2)
    handled: list[str] = []

    async def project(until_position: int) -> None:
        async with aclosing(subscriber.batches(await inbox.position(), size=4)) as batches:
            async for batch in batches:
                with suppress(KeyError):
                    async with inbox.batch(batch) as (_, facts):
                        if batch.position == 8 and "failed" not in handled:
                            handled.append("failed")
                            raise KeyError
                        handled.extend(fact.event.reason for fact in facts)
                    if batch.position >= until_position:
                        return
                if handled[-1:] == ["failed"]:
                    return  # the program ends, and starts again

    await project(20)
    await project(20)

    assert await inbox.position() == 20
    assert [each for each in handled if each != "failed"] == [str(number) for number in range(10)]


async def test_the_end_of_the_loop_closes_the_connection(create_subscriber, publish, cancelled, nats) -> None:
    subscriber = Subscriber(await create_subscriber(contexts=("tenant",)))
    await publish(cancelled(0))

    assert await _read(subscriber.batches(), 1) == [1]

    async def tasks_ended() -> bool:
        return not [task for task in asyncio.all_tasks() if "nats" in repr(task.get_coro())]

    await until(tasks_ended)
