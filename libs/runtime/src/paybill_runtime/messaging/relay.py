"""Relay: publishes committed outbox rows to the stream, in order for each tenant, and stores their sequences."""

import asyncio
import json
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from nats.errors import Error as NatsError
from nats.js.errors import APIError
from paybill_contracts.signing_keys import PUBLISHED, WITHDRAWN

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY, Leases
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions import outbox
from paybill_runtime.decisions.outbox import UnpublishedFact
from paybill_runtime.decisions.restore_guard import OLDER_DATABASE, LogStateMismatchError, RestoreGuard
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, LeaseLostError, reason
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.foreign_facts import ForeignFacts, LogMessage, current_witness, lacking, log_message
from paybill_runtime.messaging.nats_patches import encode_headers, publish_batch
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.publication_spans import PublicationSpans
from paybill_runtime.messaging.stream_identity import check_stream_identity
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.security.identity import WrongRecipientError
from paybill_runtime.telemetry import exporting, meter

log = logging.getLogger(__name__)

_RELAYED = meter.create_counter("paybill.facts.relayed", "{fact}", "Facts that the stream confirmed.")
BATCH = 512
"""Facts read from the outbox at once."""
ATOMIC_FROM, ATOMIC_FROM_IN_CLUSTER = 32, 2
"""From this many on, one atomic batch is faster than single publishes (its staging has a fixed cost)."""
CHAIN = 8
"""Up to this many are sent as a chain of conditions; the more there are, the likelier the chain breaks.

Never in a cluster: on nats-server 2.14.0 to 2.15.1 one condition `Nats-Expected-Last-Msg-Id` that does not hold stops a
replicated stream for every publisher, also after a restart.
"""
CHECK_S = 1.0
"""Interval at which a relay without facts looks for a new connection, which costs no query."""
MIN_PAUSE_S = 0.2
POLL_S = 10.0
"""Longest time between two queries for facts: a backstop for a replica that died before its notice."""
MAX_PAUSE_S = 2.0
ACK_TIMEOUT_S = 5.0

_BATCH_ID, _BATCH_SEQUENCE = "Nats-Batch-Id", "Nats-Batch-Sequence"
_EXPECTED_LAST = "Nats-Expected-Last-Msg-Id"
_UNEXPECTED_LAST = 10070
"""The server's error code when the condition about the last message is not met."""

PublishKeys = Callable[[], Awaitable[None]]


class Relay:
    """Publishes the outbox while this process holds the relay's lease.

    problem: the reason why facts wait, for operators; empty when they do not. gather_s: seconds for which facts wait
    after a round, so that the next one publishes them together. checked, witness: the end of the stream and the stored
    witness when it last compared the stream with the outbox.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        broker: Broker,
        leases: Leases,
        publish_keys: PublishKeys,
        restore_guard: RestoreGuard,
        spans: PublicationSpans,
        foreign_facts: ForeignFacts,
        voided: VoidedFacts,
        sign: outbox.Sign,
        gather_s: float = 0,
    ) -> None:
        self._service = service
        self._database = database
        self._broker = broker
        self._leases = leases
        self._publish_keys = publish_keys
        self._wake = asyncio.Event()
        self._restore_guard = restore_guard
        self._spans = spans
        self._foreign_facts = foreign_facts
        self._voided = voided
        self._sign = sign
        self._gather_s = gather_s
        self._relaying: tuple[int, int, int] | None = None
        self._aligned = False
        self._in_cluster = True
        self._failures = 0
        self._found_nothing_at = -POLL_S
        self.problem = ""
        self.checked = self.witness = 0
        leases.on_change(self.wake)

    def wake(self) -> None:
        """Signals that facts were committed."""
        self._wake.set()

    @property
    def is_aligned(self) -> bool:
        """True while this process publishes, and stream and outbox belong together."""
        return self._aligned and RELAY in self._leases.held and self._broker.connected.is_set()

    def realign(self) -> None:
        """Makes the next round compare the stream with the outbox."""
        self._aligned = False
        self.wake()

    async def run(self) -> None:
        """Publishes until cancelled. While NATS or PostgreSQL is unavailable, facts stay in the outbox.

        After a fault it may be called again: it compares the stream with the outbox first.
        """
        self._aligned = False
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            try:
                more = await self._round(woken=woken)
                self.problem, self._failures = "", 0
            except (NatsError, APIError, OSError, TimeoutError) as error:
                more = await self._pause(f"NATS does not accept facts ({reason(error)}); they wait in the outbox")
            except (DatabaseUnavailableError, LeaseLostError) as error:
                more = await self._pause(str(error))
            except (ConfigurationError, WrongRecipientError) as error:
                more = await self._pause(f"keys of personal data cannot be published, and facts wait for them: {error}")
            if woken and not more and self._gather_s:
                await asyncio.sleep(self._gather_s)
            if not more:
                await clock.wait_for_event(self._wake, CHECK_S)

    async def _pause(self, problem: str) -> bool:
        """Logs a new problem, waits with backoff, and makes the next round compare the stream with the outbox again."""
        if problem != self.problem:
            log.error("the relay pauses: %s", problem)
        self.problem, self._aligned = problem, False
        self._failures += 1
        if self._broker.connected.is_set():
            await asyncio.sleep(min(MIN_PAUSE_S * 2.0 ** min(self._failures, 10), MAX_PAUSE_S))
        else:
            await self._broker.connected.wait()
        return False

    async def _round(self, *, woken: bool = True) -> bool:
        epoch = self._leases.held.get(RELAY)
        if epoch is None:
            self._restore_guard.clear(RELAY)
        if epoch is None or not self._broker.connected.is_set():
            self._aligned = False
            return False
        # After a reconnect it may be another server, with an older copy of the stream, or of the database.
        relaying = epoch, self._broker.reconnects, self._database.disconnects
        if relaying != self._relaying:
            self._relaying, self._aligned = relaying, False
        if not self._aligned:
            with self._restore_guard.checking(RELAY):
                foreign = await self._catch_up(epoch)
            await self._foreign_facts.report(foreign)
            self._aligned, woken = True, True
        self._restore_guard.check()
        now = asyncio.get_running_loop().time()
        if not woken and now < self._found_nothing_at + POLL_S:
            return False
        async with self._database.direct() as connection:
            facts, keys_pending = await outbox.read_unpublished(connection, BATCH)
        self._found_nothing_at = -POLL_S if facts else now
        if not facts:
            return False
        if keys_pending:
            await self._publish_keys()
        began = time.time_ns()
        stored, failure = await self._broker.while_connected(self._publish(facts))
        await self._mark(stored, epoch)
        if exporting():
            confirmed = {position for position, _ in stored}
            await self._spans.export([fact for fact in facts if fact.position in confirmed], began, time.time_ns())
        if failure is not None:
            raise failure
        return len(facts) == BATCH

    async def _publish(self, rows: Sequence[UnpublishedFact]) -> tuple[list[tuple[int, int]], Exception | None]:
        """Returns the sequences of confirmed facts, and the first failure.

        New signing keys are published first, and withdrawals last: no fact may stand outside the time of its key.
        """
        parts: dict[str | None, list[UnpublishedFact]] = {PUBLISHED: [], None: [], WITHDRAWN: []}
        for row in rows:
            parts[row.key_fact_kind].append(row)
        stored: list[tuple[int, int]] = []
        failure: Exception | None = None
        for part in parts.values():
            if part and failure is None:
                confirmed, failure = await self._publish_part(part)
                stored += confirmed
        return stored, failure

    async def _publish_part(self, rows: Sequence[UnpublishedFact]) -> tuple[list[tuple[int, int]], Exception | None]:
        if len(rows) >= (ATOMIC_FROM_IN_CLUSTER if self._in_cluster else ATOMIC_FROM):
            try:
                last = await self._publish_atomic(rows)
            except APIError as error:
                # One duplicate rejects the whole batch (10201), so does a timeout (10176): publish one by one.
                log.info("an atomic batch was refused (%s); publishing one by one", error.err_code)
            else:
                return [(row.position, last - len(rows) + 1 + n) for n, row in enumerate(rows)], None
        return await self._publish_window(rows)

    async def _publish_atomic(self, rows: Sequence[UnpublishedFact]) -> int:
        """Publishes atomically (ADR-50); returns the sequence of the last fact."""
        batch = secrets.token_hex(12)
        await publish_batch(
            self._broker.client,
            (
                (
                    row.subject,
                    encode_headers(row.headers | {_BATCH_ID: batch, _BATCH_SEQUENCE: str(place)}),
                    row.payload,
                )
                for place, row in enumerate(rows[:-1], start=1)
            ),
        )
        row = rows[-1]
        headers = row.headers | {_BATCH_ID: batch, _BATCH_SEQUENCE: str(len(rows)), "Nats-Batch-Commit": "1"}
        answer = await self._broker.client.request(row.subject, row.payload, timeout=ACK_TIMEOUT_S, headers=headers)
        result = json.loads(answer.data)
        if "error" in result:
            raise APIError.from_error(result["error"])
        if result.get("count") != len(rows):
            raise NatsError(f"a batch of {len(rows)} was confirmed as {result.get('count')}")
        return int(result["seq"])

    async def _publish_window(self, rows: Sequence[UnpublishedFact]) -> tuple[list[tuple[int, int]], Exception | None]:
        """Publishes one by one, many tenants at once; returns confirmed sequences, and the first failure."""
        queues: dict[str, list[UnpublishedFact]] = defaultdict(list)
        for row in rows:
            queues[row.queue].append(row)
        stored: list[tuple[int, int]] = []
        failure: Exception | None = None
        chained = not self._in_cluster and len(queues) < len(rows) <= CHAIN
        while queues:
            # Only a chain has two facts of one tenant in flight; facts that it did not publish are sent alone.
            sent = rows if chained else [queue[0] for queue in queues.values()]
            answers = await self._send_chained(rows) if chained else await self._send(sent)
            for row, answer in zip(sent, answers, strict=True):
                if isinstance(answer, int):
                    stored.append((row.position, answer))
                elif not (chained and isinstance(answer, APIError) and answer.err_code == _UNEXPECTED_LAST):
                    failure = failure or answer
                    queues.pop(row.queue, None)
            confirmed = {position for position, _ in stored}
            remaining = {
                name: [row for row in queue if row.position not in confirmed] for name, queue in queues.items()
            }
            queues = {name: queue for name, queue in remaining.items() if queue}
            chained = False
        return stored, failure

    async def _send_chained(self, rows: Sequence[UnpublishedFact]) -> list[int | Exception]:
        """Sends all at once, each on condition that the last message of the stream is the one before it.

        The server refuses the rest when one is lost, or when another publisher comes in between: order is kept.
        """
        before = [row.headers["Nats-Msg-Id"] for row in rows[:-1]]
        conditional = [
            row._replace(headers=row.headers | {_EXPECTED_LAST: id_}) for row, id_ in zip(rows[1:], before, strict=True)
        ]
        return await self._send([rows[0], *conditional])

    async def _send(self, rows: Sequence[UnpublishedFact]) -> list[int | Exception]:
        """Returns the sequence of each fact, or the error."""
        jetstream = self._broker.client.jetstream()
        answers = await asyncio.gather(
            *(
                jetstream.publish(row.subject, row.payload, timeout=ACK_TIMEOUT_S, stream=EVENTS, headers=row.headers)
                for row in rows
            ),
            return_exceptions=True,
        )
        results: list[int | Exception] = []
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            results.append(answer if isinstance(answer, Exception) else answer.seq)
        return results

    async def _mark(self, stored: Sequence[tuple[int, int]], epoch: int) -> None:
        if not stored:
            return
        statement = Statement()
        statement.fence([(RELAY, epoch)])
        outbox.mark_published(statement, stored)
        async with self._database.direct(committing=True) as connection:
            await statement.execute(connection)
        _RELAYED.add(len(stored))

    async def _catch_up(self, epoch: int) -> list[LogMessage]:
        """Finds facts that were published but not marked; the server forgets ids after its window.

        Returns the facts that somebody else wrote. Raises LogStateMismatchError when the log has facts of this service
        that an older copy of its database lacks.
        """
        # A server joins a cluster only by a restart, and after a reconnect this runs again. The number of replicas
        # would not do: an operator may raise it while this relay publishes.
        info = await self._broker.client.jetstream().stream_info(EVENTS)
        self._in_cluster = info.cluster is not None and bool(info.cluster.name)
        async with self._database.reading() as connection:
            start = await outbox.recent_sequence(connection, 2 * BATCH)
            last = await outbox.last_published(connection)
        if last is not None:
            await check_stream_identity(self._broker.client, EVENTS, last.sequence, str(last.event_id))
        await self._voided.load(self._broker.client)
        begins_to_sign = self._voided.known_keys.newest(self._service) is None
        consumer = OrderedConsumer(self._broker.client, EVENTS, [f"paybill.events.*.{self._service}.>"], start or 1)
        unknown: list[LogMessage] = []
        try:
            async for messages in consumer.existing(ACK_TIMEOUT_S):
                found = [log_message(self._service, each, self._voided) for each in messages]
                unknown += await self._mark_found(found, epoch)
        finally:
            await consumer.close()
        async with self._database.reading() as connection:
            self.witness = await current_witness(connection)
            lost = await lacking(connection, unknown) if unknown else []
        if lost:
            raise LogStateMismatchError(
                f"the stream has facts of {self._service} that this database does not have, from {lost[0].sequence} "
                f"on: {OLDER_DATABASE}"
            )
        self.checked = info.state.last_seq
        if begins_to_sign:
            await self._begin_signing(epoch)
        return unknown

    async def _begin_signing(self, epoch: int) -> None:
        """Signs the facts that an earlier version has not published, and publishes the first key before them."""
        async with self._database.direct(committing=True) as connection:
            count = await outbox.sign_unpublished(connection, self._sign)
            keys = await outbox.read_unpublished_keys(connection)
        if count:
            log.warning("signed %d facts that an earlier version recorded and did not publish", count)
        stored, failure = await self._publish_window(keys)
        await self._mark(stored, epoch)
        if failure is not None:
            raise failure

    async def _mark_found(self, found: Sequence[LogMessage], epoch: int) -> list[LogMessage]:
        """Stores the sequences of those that were not marked; returns those that the outbox does not hold."""
        sequences = {message.id: message.sequence for message in found}
        async with self._database.reading() as connection:
            rows = await outbox.rows_by_id(connection, list(map(UUID, sequences)))
        await self._mark([(row.position, sequences[str(row.event_id)]) for row in rows if row.sequence is None], epoch)
        known = {str(row.event_id) for row in rows}
        return [message for message in found if message.id not in known]
