"""Rights of a subscriber on a real NATS: its own consumers on its contexts, and nothing else."""

import asyncio
import json

import pytest
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError
from paybill_client.credentials import read_credentials
from paybill_runtime.messaging.streams import EVENTS

JS = "$JS.API"
CONSUMER = ConsumerConfig(name="crm-1", ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1)


async def _refused(client, errors: list[str], kind: str, subjects: list[str]) -> set[str]:
    """Returns the subjects that the server refuses; a last one that is always refused shows that it answered all."""
    for subject in (*subjects, "sentinel"):
        await (client.publish(subject, b"{}") if kind == "publish" else client.subscribe(subject))
    async with asyncio.timeout(60):
        while not any("sentinel" in error for error in errors):  # noqa: ASYNC110  # errors come by callback
            await asyncio.sleep(0.01)
    return {subject for subject in subjects if any(f'"{subject}"'.lower() in error for error in errors)}


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
async def connected(create_subscriber, login, errors):
    """`await connected(batches=…)` returns a connection of the subscriber crm of the context tenant."""

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    async def connect(*, batches: bool):
        path = await create_subscriber(contexts=("tenant",), batches=batches)
        return await login(path, error_cb=note), read_credentials(path)

    return connect


@pytest.mark.parametrize("batches", [False, True], ids=["handlers", "batches"])
async def test_it_cannot_publish_or_change_anything(connected, errors, batches) -> None:
    client, credentials = await connected(batches=batches)
    forbidden = [
        "paybill.events.3.tenant.tenant_requested.v1",
        "paybill.events.3.billing.account_opened.v1",
        "paybill.intake.crm.usage.recorded.v1",
        "$KV.keys.tenant.a",
        "$KV.keys.crm.a",
        *(f"{JS}.STREAM.{verb}.EVENTS" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "SNAPSHOT")),
        f"{JS}.STREAM.MSG.GET.EVENTS",
        f"{JS}.STREAM.MSG.DELETE.EVENTS",
        f"{JS}.STREAM.LIST",
        f"{JS}.STREAM.NAMES",
        f"{JS}.DIRECT.GET.EVENTS",
        f"{JS}.DIRECT.GET.EVENTS.paybill.events.3.tenant.tenant_requested.v1",
        f"{JS}.DIRECT.GET.KV_keys.$KV.keys.tenant.a",
        f"{JS}.CONSUMER.LIST.EVENTS",
        f"{JS}.CONSUMER.NAMES.EVENTS",
        f"{JS}.CONSUMER.CREATE.EVENTS",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1",
        f"{JS}.CONSUMER.CREATE.EVENTS.{credentials.consumer}",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.events.*.billing.>",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.events.*.*.>",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.events.>",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.>",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.>",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-17.paybill.events.*.tenant.>",
        f"{JS}.CONSUMER.MSG.NEXT.EVENTS.tenant-1",
        f"{JS}.CONSUMER.CREATE.INTAKE.mine.paybill.events.*.tenant.>",
        f"{JS}.CONSUMER.DURABLE.CREATE.EVENTS.crm-1",
        f"{JS}.CONSUMER.DELETE.EVENTS.{credentials.consumer}",
        f"{JS}.CONSUMER.PAUSE.EVENTS.{credentials.consumer}",
        f"{JS}.CONSUMER.MSG.NEXT.INTAKE.mine",
        "$JS.ACK.EVENTS.another.1.1.1.1.0",
        "_INBOX_tenant.x",
        "$SYS.REQ.SERVER.PING",
    ]

    assert await _refused(client, errors, "publish", forbidden) == set(forbidden)


async def test_it_receives_only_its_own_inbox(connected, errors) -> None:
    client, _ = await connected(batches=True)
    forbidden = [">", "paybill.>", "paybill.events.3.tenant.>", "_INBOX.>", "_INBOX_tenant.>", "$JS.>"]

    assert await _refused(client, errors, "subscribe", ["_INBOX_crm.x", *forbidden]) == set(forbidden)


async def test_without_batches_it_may_use_only_its_durable_consumer(connected, errors) -> None:
    client, credentials = await connected(batches=False)
    durable = credentials.consumer
    allowed = [
        f"{JS}.CONSUMER.INFO.EVENTS.{durable}",
        f"{JS}.CONSUMER.MSG.NEXT.EVENTS.{durable}",
        f"$JS.ACK.EVENTS.{durable}.1.1.1.1.0",
    ]
    forbidden = [
        f"{JS}.CONSUMER.MSG.NEXT.EVENTS.another",
        f"{JS}.CONSUMER.INFO.EVENTS.another",
        f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.events.*.tenant.>",
    ]

    assert await _refused(client, errors, "publish", [*allowed, *forbidden]) == set(forbidden)


@pytest.mark.parametrize(
    "body",
    [
        {"filter_subject": "paybill.events.*.billing.>"},
        {"filter_subject": "paybill.events.>"},
        {},
        {"filter_subjects": ["paybill.events.*.billing.>"]},
        {"filter_subject": "paybill.events.*.tenant.>", "filter_subjects": ["paybill.events.*.billing.>"]},
    ],
    ids=["other context", "all", "none", "several", "both"],
)
async def test_a_request_whose_body_has_another_filter_than_its_subject_is_refused(connected, body) -> None:
    client, _ = await connected(batches=True)
    config = {"name": "crm-1", "ack_policy": "none", "deliver_policy": "all", "mem_storage": True, "num_replicas": 1}
    request = {"stream_name": EVENTS, "config": config | body}
    subject = f"{JS}.CONSUMER.CREATE.EVENTS.crm-1.paybill.events.*.tenant.>"

    answer = json.loads((await client.request(subject, json.dumps(request).encode(), timeout=5)).data)

    assert "error" in answer
    assert "config" not in answer


async def test_with_batches_it_may_create_consumers_of_its_contexts(
    connected, publish, cancelled, quota_warned
) -> None:
    client, _ = await connected(batches=True)
    await publish(quota_warned, cancelled(0))
    made = await client.jetstream(timeout=60).add_consumer(EVENTS, CONSUMER, filter_subject="paybill.events.*.tenant.>")

    assert made.num_pending == 1
    for subjects in ("paybill.events.*.billing.>", "paybill.events.>"):
        with pytest.raises((NatsError, APIError, TimeoutError)):
            await client.jetstream(timeout=0.3).add_consumer(EVENTS, CONSUMER, filter_subject=subjects)


async def test_the_durable_consumer_delivers_only_the_contexts_of_the_subscriber(
    connected, publish, cancelled, quota_warned
) -> None:
    client, credentials = await connected(batches=False)
    await publish(quota_warned, cancelled(0), quota_warned)
    inbox = f"{credentials.inbox_prefix}.".encode()
    pull = await client.jetstream().pull_subscribe_bind(
        consumer=credentials.consumer, stream=EVENTS, inbox_prefix=inbox
    )

    [message] = await pull.fetch(1, timeout=60)
    await message.ack_sync(60)

    assert message.subject.endswith(".tenant.tenant_cancelled.v1")
    with pytest.raises(TimeoutError):
        await pull.fetch(1, timeout=0.3)
