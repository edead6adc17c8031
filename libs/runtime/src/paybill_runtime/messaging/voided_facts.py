"""Voided facts: each process follows in the log which messages an operator declared void."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.envelope import EVENTS_ROOT, read_fact
from paybill_contracts.errors import DomainError
from paybill_contracts.event import partition_of
from paybill_contracts.signing_keys import key_fact_kind
from paybill_contracts.voided_events import EventVoided, payload_digest

from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, reason
from paybill_runtime.messaging.known_keys import KEY_SUBJECTS, KeyDirectory
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS

if TYPE_CHECKING:  # so that a command loads no web framework
    from paybill_runtime.messaging.broker import Broker

log = logging.getLogger(__name__)

PAUSE_S = 0.5
ANSWER_TIMEOUT_S = 5.0
_FILTERS = [f"{EVENTS_ROOT}.{partition_of(None)}.{EventVoided.TYPE}.*"]

OnVoid = Callable[[EventVoided], Awaitable[None]]


class VoidedFacts:
    """The voided messages that are known here.

    known_keys: verify the facts that declare them void. own_key: the id of the key that this process signs with.
    """

    def __init__(self, known_keys: KeyDirectory, own_key: str = "") -> None:
        self.known_keys = known_keys
        self._own_key = own_key
        self._by_sequence: dict[int, EventVoided] = {}
        self._next = 1

    def covers(self, sequence: int, id_: str, payload: bytes) -> bool:
        """Returns whether the message with this id in our tables is void."""
        void = self._by_sequence.get(sequence)
        return void is not None and void.event_id == id_ and void.digest == payload_digest(payload)

    async def load(self, client: Client) -> None:
        """Reads what the log has now, keys first. Raises errors of NATS."""
        await self.known_keys.load(client)
        consumer = OrderedConsumer(client, EVENTS, _FILTERS, self._next)
        try:
            async for messages in consumer.existing(ANSWER_TIMEOUT_S):
                for message in messages:
                    self._add(message)
        finally:
            await consumer.close()

    async def follow(self, broker: "Broker", on_void: OnVoid) -> None:
        """Reads further ones until cancelled. on_void: called with each, also with those that `load` has read.

        Raises ConfigurationError when the own key is withdrawn.
        """
        announced: set[int] = set()
        consumer: OrderedConsumer | None = None
        while True:
            try:
                await broker.connected.wait()
                if consumer is None:
                    await self.known_keys.load(broker.client)
                    consumer = OrderedConsumer(broker.client, EVENTS, [*_FILTERS, *KEY_SUBJECTS], 1)
                for message in await broker.while_connected(consumer.fetch(1.0)):
                    self._add(message)
                if self.known_keys.is_withdrawn(self._own_key):
                    text = f"the signing key {self._own_key} is withdrawn: its facts are refused by all"
                    raise ConfigurationError(text)
                for sequence in sorted(self._by_sequence.keys() - announced):
                    await on_void(self._by_sequence[sequence])
                    announced.add(sequence)
            except (DatabaseUnavailableError, NatsError, JetStreamError, OSError, TimeoutError) as error:
                log.warning("voided events are not followed now: %s", reason(error))
                if consumer is not None:
                    await consumer.close()
                consumer = None
                await asyncio.sleep(PAUSE_S)

    def _add(self, message: Msg) -> None:
        sequence = stream_sequence(message)
        self._next = max(self._next, sequence + 1)
        refusal = self.known_keys.verify(message)
        if refusal is not None:
            log.warning("sequence %d voids nothing: %s", sequence, refusal.explanation)
            return
        if key_fact_kind(message.subject) is not None:
            return
        try:
            fact = read_fact(message.subject, message.headers, message.data, sequence)
        except DomainError as error:
            log.warning("sequence %d voids nothing: %s", sequence, error)
            return
        if isinstance(fact.event, EventVoided) and fact.event.sequence < sequence:
            self._by_sequence[fact.event.sequence] = fact.event
