"""Tolerant decoding: an invalid message is quarantined with its reason and does not stop the consumer."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from nats.aio.client import Client
from paybill_billing.app import service
from paybill_client import Credentials, Publisher
from paybill_contracts.errors import DomainError
from paybill_contracts.tenant import HoldOrigin, TenantCancelled
from paybill_contracts.usage import Usage
from paybill_runtime import clock
from paybill_runtime.jobs.effects import JobRegistry
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.message import parse_message
from paybill_runtime.messaging.nats_patches import parse_headers
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until

TENANT = "ten_" + "b" * 32


def _stamped(time: bytes) -> bytes:
    """Returns usage that is valid except for its time."""
    lines = b"\r\nce-id: 0190a5b0-0000-7000-8000-000000000001\r\nce-time: 2026-11-22T12:00:00Z"
    head = b"NATS/1.0" + lines + b"\r\ntraceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\r\n\r\n"
    usage = {"tenant_id": TENANT, "meter": "calls", "quantity": 1, "occurred_at": time.decode()}
    body = json.dumps(usage).encode()
    return b"HPUB paybill.intake.metering.usage.recorded.v1 %d %d\r\n%s%s\r\n" % (
        len(head),
        len(head) + len(body),
        head,
        body,
    )


ODD = {
    "not UTF-8": b"PUB paybill.intake.metering.\xff\xfe.v1 2\r\n{}\r\n",
    "control characters": b"PUB paybill.intake.metering.a\x00\x01b.v1 2\r\n{}\r\n",
    "a status that is none": b"HPUB paybill.intake.metering.x.v1 17 19\r\nNATS/1.0 \xff\xff\r\n\r\n\r\n{}\r\n",
    "a header that is not UTF-8": b"HPUB paybill.intake.metering.x.v1 22 24\r\nNATS/1.0\r\nce-id: \xff\r\n\r\n{}\r\n",
    "a time before year 1": _stamped(b"0001-01-01T00:00:00+14:00"),
    "a header without a value": b"HPUB paybill.intake.metering.x.v1 19 21\r\nNATS/1.0\r\nce-id\r\n\r\n{}\r\n",
}
FINE = b"PUB paybill.intake.metering.fine.v1 2\r\n{}\r\n"


async def _send(nats, commands: bytes) -> None:
    """Sends raw commands as `metering`, without a library that would validate them."""
    host, _, port = nats.url.removeprefix("nats://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    options = {"user": "metering", "pass": nats.password("metering"), "verbose": False, "headers": True}
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n" + commands + b"PING\r\n")
    assert await reader.readline() == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()


@pytest.fixture(params=["a plain client", "the broker of a service"])
async def client(nats, request) -> AsyncIterator[Client]:
    if request.param == "a plain client":
        plain = await connect(nats.url, "billing", nats.password("billing"))
        yield plain
        await plain.close()
    else:
        broker = Broker(nats.url, "billing", nats.password("billing"))
        await broker.run()
        yield broker.client
        await broker.close()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
async def test_a_message_that_cannot_be_decoded_is_delivered_and_so_is_the_next(nats, client, odd) -> None:
    await _send(nats, odd + FINE)
    consumer = OrderedConsumer(client, INTAKE, ["paybill.intake.>"], 1)

    messages = []
    async with asyncio.timeout(60):
        while len(messages) < 2:
            messages += await consumer.fetch(1)
    await consumer.close()

    assert len(messages) == 2, [(message.subject, message.reply, message.data) for message in messages]
    first, second = (parse_message(Subscriptions(), "billing", message) for message in messages)
    assert first.error is not None
    assert first.publisher == "metering"
    assert second.subject == "paybill.intake.metering.fine.v1"


class _Owner:
    """Owner of usage that records handled meters and fails for one of them."""

    def __init__(self) -> None:
        self.handled: list[str] = []

    def subscriptions(self) -> Subscriptions:
        subscriptions = Subscriptions()

        @subscriptions.intake(Usage)
        def used(_unit, intake_event, _at) -> None:
            if intake_event.event.meter == "broken":
                raise RuntimeError("a bug in a handler")
            if intake_event.event.meter == "refused":
                raise DomainError("this meter is not sold")
            self.handled.append(intake_event.event.meter)

        @subscriptions.fact(TenantCancelled)
        def cancelled(_unit, fact, _at) -> None:
            self.handled.append(fact.reason)

        return subscriptions


@pytest.fixture
async def owner(start, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(retry_queue, "MAX_ATTEMPTS", 2)
    made = _Owner()
    (tmp_path / "stripe-key").write_text("sk_test_x")
    quiet = replace(service(), subscriptions=made.subscriptions(), jobs=JobRegistry(), timers=(), on_start=())
    made.served = await start(quiet, stripe_api_key_file=tmp_path / "stripe-key")
    return made


async def _was_handled(owner, what: str) -> bool:
    return what in owner.handled


async def test_every_invalid_message_is_quarantined_with_its_reason_and_the_next_is_handled(owner, nats, log) -> None:
    await _send(nats, b"".join(ODD.values()))
    async with Publisher(Credentials.of("metering", nats.url, nats.password("metering"))) as publisher:
        for meter in ("refused", "fine"):
            await publisher.publish(Usage(tenant_id=TENANT, meter=meter, quantity=1, occurred_at=datetime.now(UTC)))

    await until(lambda: _was_handled(owner, "fine"))
    facts = await log.facts("billing.intake_quarantined", at_least=len(ODD) + 1)
    rows = (await owner.served.client.get("/v1/operations/quarantine")).json()
    assert len(facts) == len(rows) == len(ODD) + 1
    assert {fact.event.publisher for fact in facts} == {"metering"}
    assert facts[-1].event.reason == "this meter is not sold"
    assert len({fact.origin.cause for fact in facts}) == len(facts)
    assert facts[-1].origin.actor == "service:metering"


async def test_an_intake_event_that_cannot_be_handled_blocks_only_its_tenant_s_intake_events(
    owner, nats, publish
) -> None:
    async with Publisher(Credentials.of("metering", nats.url, nats.password("metering"))) as publisher:
        for tenant, meter in ((TENANT, "broken"), (TENANT, "waiting"), ("ten_" + "c" * 32, "fine")):
            await publisher.publish(Usage(tenant_id=tenant, meter=meter, quantity=1, occurred_at=datetime.now(UTC)))
    await until(lambda: _was_handled(owner, "fine"))
    await publish(TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="the fact of this tenant"))

    async def queued() -> bool:
        rows = (await owner.served.client.get("/v1/operations/dead-letters")).json()
        return [row["stream"] for row in rows] == [INTAKE, INTAKE]

    await until(lambda: _was_handled(owner, "the fact of this tenant"))
    await until(queued)  # it is handled before it is committed
    assert owner.handled == ["fine", "the fact of this tenant"]

    async def dead() -> bool:
        return (await owner.served.client.get("/v1/operations/dead-letters", params={"only_dead": True})).json()

    id_ = (await until(dead))[0]["event_id"]
    await owner.served.client.post(f"/v1/operations/dead-letters/{id_}/skip", json={"reason": "known"})
    await until(lambda: _was_handled(owner, "waiting"))


def test_the_wrapped_private_method_still_exists() -> None:
    parameters = inspect.signature(Client._process_msg).parameters

    assert list(parameters) == ["self", "sid", "subject", "reply", "data", "headers"]
    assert inspect.iscoroutinefunction(Client._process_msg)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"ce-id: 1\r\nce-type:\ttwo \r\n\r\n",
        b"no colon\r\na: b: c\r\n",
        b": nameless\r\n  padded : x\r\n",
        b"in side: x\r\nin\x1cside: x\r\nin\x0bside: x\r\n",
        b"n\xc3\xa4me: x\r\nname: \xff\xc3\xa4\r\n",
        b"twice: 1\r\ntwice: 2\r\n" + b"l" * 70 + b": long\r\n" + b"l" * 69 + b" : longer\r\n",
    ],
    ids=["none", "white space", "colons", "no name", "space in a name", "other letters", "twice and long"],
)
def test_headers_are_parsed_as_the_client_parses_them(raw) -> None:
    for _ in range(2):
        assert parse_headers(raw) == Client._parse_header_lines(raw)
