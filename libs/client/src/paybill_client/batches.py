"""Batches of events of one context, in the order of the log, from a position that the caller stores."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from paybill_contracts.envelope import EVENTS_ROOT, Fact
from paybill_contracts.schemas import published_events

from paybill_client.connection import EVENTS, PAUSE_S, DeniedError, ErrorMonitor, connection
from paybill_client.credentials import Credentials
from paybill_client.errors import ConnectionLostError, SubscribeDeniedError, UnreadableEventError
from paybill_client.ordered_consumer import OrderedConsumer
from paybill_client.retries import OnDeadLetter, dead_letter, readable_fact_of, type_of

log = logging.getLogger(__name__)

FETCH_S = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts in the order of the log. `position`: the sequence to continue after, once all of them are handled."""

    facts: tuple[Fact, ...]
    position: int


async def read_batches(
    credentials: Credentials,
    context: str,
    position: int,
    types: Sequence[str],
    size: int,
    on_dead_letter: OnDeadLetter | None,
    renew_s: float,
) -> AsyncIterator[Batch]:
    """Yields the batches of `Subscriber.batches`."""
    published_events()  # registers every event class: the context may contain any of its types
    monitor = ErrorMonitor()
    subjects = f"{EVENTS_ROOT}.*.{context}.>"
    try:
        async with connection(credentials, monitor) as client:
            prefix = credentials.jetstream_prefix
            consumer = OrderedConsumer(client, prefix, EVENTS, subjects, position, size, renew_s=renew_s)
            while True:
                async for batch in _decoded(await _fetch(consumer, monitor), frozenset(types), on_dead_letter):
                    yield batch
    except DeniedError as error:
        raise SubscribeDeniedError(
            f"NATS at {', '.join(credentials.servers)} denies this to {credentials.name}: {error}",
            "check the credentials file, and that this subscriber may read in batches",
        ) from error


async def _fetch(consumer: OrderedConsumer, monitor: ErrorMonitor) -> Sequence[Msg]:
    """Returns the next messages, or none after a while. Raises DeniedError."""
    try:
        return await monitor.unless_denied(consumer.fetch(FETCH_S))
    except ConnectionClosedError as error:
        monitor.check()
        raise ConnectionLostError("the connection to NATS was closed", "start the program again") from error
    except (NatsError, OSError, TimeoutError) as error:
        log.warning("reading from NATS pauses: %s", str(error) or type(error).__name__)
        await asyncio.sleep(PAUSE_S)
        return ()


async def _decoded(
    messages: Sequence[Msg], types: frozenset[str], on_dead_letter: OnDeadLetter | None
) -> AsyncIterator[Batch]:
    """Yields the batch; an event that cannot be read comes to the callback, or ends the batch before it."""
    facts: list[Fact] = []
    position = 0
    for message in messages:
        sequence = message.metadata.sequence.stream
        if not types or type_of(message) in types:
            try:
                facts.append(readable_fact_of(message))
            except UnreadableEventError as error:
                if on_dead_letter is None:
                    if facts:
                        yield Batch(tuple(facts), position)
                    raise
                await on_dead_letter(dead_letter(message, error, 1))
        position = sequence
    if position:
        yield Batch(tuple(facts), position)
