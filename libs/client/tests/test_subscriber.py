"""Subscriber with handlers, on a real NATS: events in order, as typed objects, in their newest version."""

import asyncio
import time
from pathlib import Path

import pytest
from opentelemetry import trace
from paybill_client import (
    CredentialsError,
    Fact,
    Subscriber,
)
from paybill_client.credentials import read_credentials
from paybill_client.subscriber import FETCH_S
from paybill_contracts.event import Event, Payload, upcaster
from paybill_contracts.metering import QuotaWarned
from paybill_contracts.tenant import TenantCancelled, TenantRequested
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.testing import until


async def _operator(nats: NatsServer):
    return await connect(nats.url, "operator", nats.password("operator"))


async def test_events_arrive_in_order_as_typed_objects(record, create_subscriber, run, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber())
    handled = record(subscriber)
    run(subscriber)

    await publish(*(cancelled(number) for number in range(300)))
    await handled.all_of(300)

    assert handled.order == list(range(300))
    assert [fact.sequence for fact in handled.facts] == list(range(1, 301))
    assert all(isinstance(fact.event, TenantCancelled) for fact in handled.facts)


async def test_a_single_event_arrives_at_once(record, create_subscriber, run, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber())
    handled = record(subscriber)
    run(subscriber)
    await publish(cancelled(0))
    await handled.all_of(1)

    began = time.monotonic()
    await publish(cancelled(1))
    await handled.all_of(2)

    assert time.monotonic() - began < FETCH_S


async def test_events_without_a_handler_are_skipped(
    record, create_subscriber, run, publish, cancelled, quota_warned
) -> None:
    subscriber = Subscriber(await create_subscriber())
    handled = record(subscriber)
    run(subscriber)

    await publish(quota_warned, cancelled(0), quota_warned, cancelled(1))
    await handled.all_of(2)

    assert [fact.sequence for fact in handled.facts] == [2, 4]


async def test_a_program_continues_behind_the_last_event_that_it_acknowledged(
    create_subscriber, publish, cancelled
) -> None:
    path = await create_subscriber()
    await publish(*(cancelled(number) for number in range(4)))
    order: list[int] = []

    for last in (1, 3):
        subscriber = Subscriber(path)

        @subscriber.on(TenantCancelled)
        async def handle(event: TenantCancelled, _: Fact, subscriber=subscriber, last=last) -> None:
            order.append(int(event.reason))
            if order[-1] == last:
                subscriber.stop()

        async with asyncio.timeout(60):
            await subscriber.run()

    assert order == [0, 1, 2, 3]


async def test_two_processes_of_a_subscriber_handle_each_event_in_one_of_them(
    create_subscriber, run, publish, cancelled
) -> None:
    path = await create_subscriber()
    subscribers = [Subscriber(path), Subscriber(path)]
    both: list[int] = []

    async def handle(event: TenantCancelled, _: Fact) -> None:
        both.append(int(event.reason))

    for subscriber in subscribers:
        subscriber.on(TenantCancelled)(handle)
        run(subscriber)
    await publish(*(cancelled(number) for number in range(50)))

    async def done() -> bool:
        return len(both) >= 50

    await until(done)
    assert both == list(range(50))


async def test_creating_a_subscriber_again_changes_its_events_and_keeps_its_position(
    record, create_subscriber, run, publish, cancelled, quota_warned
) -> None:
    path = await create_subscriber(contexts=("tenant",))
    subscriber = Subscriber(path)
    handled = record(subscriber)
    running = run(subscriber)
    await publish(quota_warned, cancelled(0))
    await handled.all_of(1)
    subscriber.stop()
    await running

    await create_subscriber(contexts=("billing", "tenant"))
    warned: list[int] = []

    async def warn(_: QuotaWarned, fact: Fact) -> None:
        warned.append(fact.sequence)

    second = Subscriber(path)
    second.on(QuotaWarned)(warn)
    run(second)
    await publish(quota_warned)

    async def done() -> bool:
        return bool(warned)

    await until(done)
    assert warned == [3]


async def test_a_subscriber_for_new_events_does_not_get_old_ones(
    record, create_subscriber, run, publish, cancelled
) -> None:
    await publish(cancelled(0))
    subscriber = Subscriber(await create_subscriber(new_only=True))
    handled = record(subscriber)
    run(subscriber)

    await publish(cancelled(1))
    await handled.all_of(1)

    assert handled.order == [1]


class NoteTaken(Event, type="tenant.client_note_taken", version=2, aggregate="note", key="note_id"):
    """Event of this test in its second version."""

    note_id: str
    words: tuple[str, ...]


@upcaster("tenant.client_note_taken", 1)
def _split_into_words(payload: Payload) -> Payload:
    return {"note_id": payload["note_id"], "words": payload["text"].split()}


async def test_events_of_an_older_version_are_converted(create_subscriber, run, publish, nats) -> None:
    subscriber = Subscriber(await create_subscriber())
    notes: list[NoteTaken] = []

    @subscriber.on(NoteTaken)
    async def taken(event: NoteTaken, _: Fact) -> None:
        notes.append(event)

    await publish(NoteTaken(note_id="n", words=("in", "two")))
    operator = await _operator(nats)
    stored = await operator.jetstream().get_msg(EVENTS, 1, direct=True)
    await operator.close()
    tenant = await connect(nats.url, "tenant", nats.password("tenant"))
    headers = dict(stored.headers) | {"Nats-Msg-Id": "another"}
    subject = "paybill.events.0.tenant.client_note_taken.v1"
    await tenant.jetstream().publish(subject, b'{"note_id":"n","text":"in one"}', headers=headers)
    await tenant.close()
    run(subscriber)

    async def both() -> bool:
        return len(notes) == 2

    await until(both)
    assert [note.words for note in notes] == [("in", "two"), ("in", "one")]


async def test_a_handler_runs_in_the_trace_of_the_event(create_subscriber, run, publish, cancelled) -> None:
    subscriber = Subscriber(await create_subscriber())
    pairs: list[tuple[str, str]] = []

    @subscriber.on(TenantCancelled)
    async def handle(_: TenantCancelled, fact: Fact) -> None:
        current = trace.get_current_span().get_span_context().trace_id
        pairs.append((f"{current:032x}", fact.origin.traceparent[3:35]))

    run(subscriber)
    await publish(cancelled(0))

    async def done() -> bool:
        return bool(pairs)

    await until(done)
    [(current, of_the_event)] = pairs
    assert current == of_the_event


async def test_personal_data_stays_sealed(create_subscriber, run, publish) -> None:
    sample = Path(__file__).parents[2] / "contracts/samples/tenant.tenant_requested.v1.json"
    subscriber = Subscriber(await create_subscriber())
    requested: list[TenantRequested] = []

    @subscriber.on(TenantRequested)
    async def handle(event: TenantRequested, _: Fact) -> None:
        requested.append(event)

    run(subscriber)
    await publish(TenantRequested.model_validate_json(sample.read_bytes()))

    async def done() -> bool:
        return bool(requested)

    await until(done)
    assert requested[0].contact_email.sealed == "A" * 60


async def test_only_a_subscriber_may_subscribe_and_each_type_has_one_handler(record, create_subscriber, nats) -> None:
    path = await create_subscriber()
    publisher = read_credentials(path).model_copy(update={"consumer": None})
    subscriber = Subscriber(path)
    record(subscriber)

    with pytest.raises(CredentialsError, match="crm is no subscriber"):
        Subscriber(publisher)
    with pytest.raises(ValueError, match="has a handler already"):
        record(subscriber)


def test_a_file_that_is_no_credentials_file_is_reported_without_its_content(tmp_path) -> None:
    path = tmp_path / "crm.json"
    path.write_text('{"version": 1, "name": "crm", "servers": [], "password": "secret"}')

    with pytest.raises(CredentialsError, match="servers") as caught:
        read_credentials(path)

    assert "secret" not in str(caught.value)
    with pytest.raises(CredentialsError, match="cannot be read"):
        read_credentials(tmp_path / "missing.json")
    assert "secret" not in repr(read_credentials(_written(tmp_path)))


def _written(folder: Path) -> Path:
    path = folder / "valid.json"
    path.write_text('{"version": 1, "name": "crm", "servers": ["nats://x"], "password": "secret"}')
    return path
