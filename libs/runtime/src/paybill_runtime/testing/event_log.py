"""Reads the event log of a test, and publishes events to it as the services that own them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from paybill_contracts.envelope import Fact, Origin, headers_of, read_fact
from paybill_contracts.event import Event
from paybill_contracts.signing_keys import SigningKeyPublished
from paybill_embedded.nats import NatsServer

from paybill_runtime.clock import new_id
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.telemetry import child
from paybill_runtime.testing.signing import publish_fact


class EventLog:
    """Event log of one NATS server, read as an operator."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    async def facts(self, *types: str, at_least: int = 1, timeout_s: float = 60) -> list[Fact]:
        """Returns the facts of these types, once there are `at_least` so many; by default of all but signing keys."""
        client = await connect(self._server.url, "operator", self._server.password("operator"))
        consumer = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
        found: list[Fact] = []
        try:
            async with asyncio.timeout(timeout_s):
                while len(found) < at_least or await consumer.pending():
                    for message in await consumer.fetch(0.2):
                        fact = read_fact(message.subject, message.headers, message.data, stream_sequence(message))
                        if fact.event.TYPE in types or not (types or isinstance(fact.event, SigningKeyPublished)):
                            found.append(fact)
        finally:
            await consumer.close()
            await client.close()
        return found


@pytest.fixture
def log(nats: NatsServer) -> EventLog:
    """Event log of this test."""
    return EventLog(nats)


Publish = Callable[..., Awaitable[None]]


@pytest.fixture
async def publish(nats: NatsServer) -> AsyncIterator[Publish]:
    """`await publish(event, …, copies=1)`: their owners publish these events, each `copies` times under one id."""
    clients: dict[str, Any] = {}

    async def publish_as_owner(*events: Event, copies: int = 1) -> None:
        for event in events:
            if event.OWNER not in clients or not clients[event.OWNER].is_connected:  # the server may be another by now
                clients[event.OWNER] = await connect(nats.url, event.OWNER, nats.password(event.OWNER))
            cause = new_id()
            fact = Fact(event, cause, datetime.now(UTC), 1, Origin(cause, cause, f"service:{event.OWNER}", child("")))
            for copy in range(copies):
                # Another message id for each: the stream's own window must not be what makes a copy harmless.
                headers = headers_of(fact) | {"Nats-Msg-Id": f"{fact.id}-{copy}"}
                await publish_fact(clients[event.OWNER], event, headers)

    yield publish_as_owner
    for client in clients.values():
        await client.close()
