"""Audit of the log: compares the confirmed rows of the outbox with the messages of the stream, while the relay runs.

It finds facts that somebody else wrote and messages that the disk has damaged: the server leaves a damaged message out,
and still counts it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError
from sqlalchemy import text

from paybill_runtime.database.pool import Database
from paybill_runtime.errors import DatabaseUnavailableError, reason
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.foreign_facts import ForeignFacts, LogMessage, log_message, note_witness
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.relay import Relay
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.voided_facts import VoidedFacts

log = logging.getLogger(__name__)

WITNESS_S = 5.0
"""Interval at which the end of the stream is stored in the database."""
NEWEST_S = 60.0
"""Interval at which the newest facts are read back."""
ALL_S = 86_400.0
"""Time in which every fact is read back once."""
ANSWER_TIMEOUT_S = 10.0
MAX_SHOWN = 100

_CONFIRMED = text(
    "SELECT event_id::text AS id, sequence FROM chassis.publication JOIN chassis.outbox USING (position) "
    "WHERE sequence IS NOT NULL AND sequence BETWEEN :first AND :last ORDER BY sequence"
)
_HELD = text("SELECT event_id::text FROM chassis.outbox WHERE event_id = ANY(CAST(:ids AS text[])::uuid[])")


@dataclass(frozen=True, slots=True)
class Finding:
    """The differences of one audit. unreadable: sequences of confirmed rows that the stream does not give back."""

    messages: int
    unreadable: Sequence[int]
    foreign: Sequence[LogMessage]


class LogAudit:
    """Reads back what the relay has published, as long as this process is the one that publishes.

    unreadable: sequences that could not be read when they were last read back.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        broker: Broker,
        relay: Relay,
        foreign_facts: ForeignFacts,
        voided: VoidedFacts,
    ) -> None:
        self._service = service
        self._database = database
        self._broker = broker
        self._relay = relay
        self._foreign_facts = foreign_facts
        self._voided = voided
        self._witness = self._audited = -1
        self.unreadable: set[int] = set()

    async def run(self) -> None:
        """Audits until cancelled: what is new each minute, and all of it each day, beginning with the start."""
        now = asyncio.get_running_loop().time
        newest_at = all_at = now()
        while True:
            await asyncio.sleep(WITNESS_S)
            if not self._relay.is_aligned:
                self._witness = self._audited = -1
                continue
            try:
                end = await self._note_end()
                if now() >= all_at:
                    found = await self.audit(1, end)
                    await self._foreign_facts.close_readable(self._database, found.unreadable)
                    all_at, newest_at = now() + ALL_S, now() + NEWEST_S
                elif now() >= newest_at:
                    await self.audit(max(self._audited, self._relay.checked) + 1, end)
                    newest_at = now() + NEWEST_S
                self._audited = max(self._audited, end)
            except (DatabaseUnavailableError, NatsError, JetStreamError, OSError, TimeoutError) as error:
                log.warning("the log cannot be audited now: %s", reason(error))

    async def _note_end(self) -> int:
        """Stores the end of the stream as the witness of this database; returns it."""
        end = (await self._broker.client.jetstream().stream_info(EVENTS)).state.last_seq
        before = max(self._witness, self._relay.witness)
        if end > before:
            if not await note_witness(self._database, before, end):
                self._relay.realign()
                raise DatabaseUnavailableError("the database is another copy than before")
            self._witness = end
        return end

    async def audit(self, first: int, last: int) -> Finding:
        """Compares rows and messages in a range of sequences, reports foreign facts, and returns the differences."""
        if first > last:
            return Finding(0, (), ())
        consumer = OrderedConsumer(self._broker.client, EVENTS, [f"paybill.events.*.{self._service}.>"], first)
        count, foreign, unreadable, position = 0, [], [], first
        try:
            async for batch in consumer.existing(ANSWER_TIMEOUT_S):
                messages = [log_message(self._service, each, self._voided) for each in batch]
                messages = [message for message in messages if message.sequence <= last]
                if not messages:
                    break
                count += len(messages)
                foreign += await self._unknown(messages)
                end = messages[-1].sequence
                unreadable += await self._missing(position, end, {message.sequence for message in messages})
                position = end + 1
        finally:
            await consumer.close()
        unreadable += await self._missing(position, last, set())
        self.unreadable = {each for each in self.unreadable if not first <= each <= last} | set(unreadable)
        for sequence in unreadable[:MAX_SHOWN]:
            log.error(
                "sequence %d cannot be read; %s's outbox has it: stop the stack, then run: paybill restore stream "
                "--from-outboxes",
                sequence,
                self._service,
            )
        if self._relay.is_aligned:
            await self._foreign_facts.report(foreign)
            await self._foreign_facts.report_unreadable(unreadable)
        return Finding(count, unreadable, foreign)

    async def _unknown(self, messages: Sequence[LogMessage]) -> list[LogMessage]:
        async with self._database.reading() as connection:
            rows = await connection.execute(_HELD, {"ids": [message.id for message in messages]})
            held = set(rows.scalars())
        return [message for message in messages if message.id not in held]

    async def _missing(self, first: int, last: int, found: set[int]) -> list[int]:
        """Returns the sequences of confirmed rows that are not among `found` and cannot be read."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(_CONFIRMED, {"first": first, "last": last})).all()
        return [row.sequence for row in rows if row.sequence not in found and not await self._is_readable(row.sequence)]

    async def _is_readable(self, sequence: int) -> bool:
        try:
            await self._broker.client.jetstream().get_msg(EVENTS, sequence, direct=True)
        except NotFoundError:
            return False
        return True
