"""Outbox to stream: every fact, under its own id, in order for each tenant; its sequence is then put beside it."""

import asyncio
import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from nats.errors import Error as NatsError
from nats.js.errors import APIError
from sqlalchemy import text

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY, Leases
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.restore_guard import OLDER_DATABASE, LogStateMismatchError, RestoreGuard
from paybill_runtime.decisions.store import Statement
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, LeaseLostError, reason
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.nats_patches import encode_headers, publish_batch
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.stream_identity import check_stream_identity
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.subscriptions import UUID_TEXT
from paybill_runtime.security.identity import WrongRecipientError
from paybill_runtime.telemetry import meter

log = logging.getLogger(__name__)

_RELAYED = meter.create_counter("paybill.facts.relayed", "{fact}", "Facts that the stream has confirmed.")
ROUND = 512
"""Facts read from the outbox at once."""
ATOMIC_FROM = 32
"""From this many on, one atomic batch beats a window of single publishes (its staging costs a fixed price)."""
CHAIN = 8
"""Up to this many are sent as a chain: alone they arrive together, and the more there are, the likelier it breaks."""
POLL_S = 0.2
LONGEST_PAUSE_S = 2.0
ACK_TIMEOUT_S = 5.0

# A key is committed with the first fact that needs it: one look at both sees it, and most rounds have none to copy.
_WAITING = (
    "SELECT position, coalesce(tenant, aggregate) AS queue, subject, headers, payload, "
    "EXISTS (SELECT FROM chassis.data_key WHERE NOT copied) AS keys_wait FROM chassis.outbox "
    "WHERE sequence IS NULL ORDER BY position LIMIT $1"
)
_KNOWN_FROM = text(
    "SELECT min(sequence) FROM (SELECT sequence FROM chassis.outbox WHERE sequence IS NOT NULL "
    "ORDER BY sequence DESC LIMIT :margin) AS recent"
)
_LAST_KNOWN = text(
    "SELECT event_id, sequence FROM chassis.outbox WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1"
)
_BATCH, _PLACE = "Nats-Batch-Id", "Nats-Batch-Sequence"
_BEHIND = "Nats-Expected-Last-Msg-Id"
_NOT_BEHIND_IT = 10070
"""The server's code for a message whose condition about the last one is not met."""
_FOUND = text("SELECT position, event_id, sequence FROM chassis.outbox WHERE event_id = ANY(:ids)")


class _Waiting(NamedTuple):
    """A fact in the outbox. Those of one `queue` keep their order."""

    position: int
    queue: str
    subject: str
    headers: dict[str, str]
    payload: bytes


CopyKeys = Callable[[], Awaitable[None]]


class Relay:
    """Publishes what the outbox holds, while this process has the relay's lease.

    trouble: why facts wait now, for operators.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        broker: Broker,
        leases: Leases,
        copy_keys: CopyKeys,
        restore_guard: RestoreGuard,
    ) -> None:
        self._service = service
        self._database = database
        self._broker = broker
        self._leases = leases
        self._copy_keys = copy_keys
        self._wake = asyncio.Event()
        self._restore_guard = restore_guard
        self._relaying: tuple[int, int, int] | None = None
        self._aligned = False
        self._failures = 0
        self.problem = ""

    def wake(self) -> None:
        """Something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever. Nothing is lost while NATS or PostgreSQL is away: the facts stay where they are."""
        while True:
            self._wake.clear()
            try:
                more = await self._round()
                self.problem, self._failures = "", 0
            except (NatsError, APIError, OSError, TimeoutError) as error:
                more = await self._pause(f"the bus does not take facts ({reason(error)}); they wait in the outbox")
            except (DatabaseUnavailableError, LeaseLostError) as error:
                more = await self._pause(str(error))
            except (ConfigurationError, WrongRecipientError) as error:
                more = await self._pause(f"keys of personal data cannot be handed on, so no fact is: {error}")
            if not more:
                await clock.wait_for_event(self._wake, POLL_S)

    async def _pause(self, trouble: str) -> bool:
        """Say once what is wrong, wait longer each time, and look again at what the stream holds before going on."""
        if trouble != self.problem:
            log.error("the relay pauses: %s", trouble)
        self.problem, self._aligned = trouble, False
        self._failures += 1
        if self._broker.connected.is_set():
            await asyncio.sleep(min(POLL_S * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_S))
        else:
            await self._broker.connected.wait()
        return False

    async def _round(self) -> bool:
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
                await self._catch_up(epoch)
            self._aligned = True
        self._restore_guard.check()
        async with self._database.direct() as connection:
            rows = await connection.fetch(_WAITING, ROUND)
        if not rows:
            return False
        if rows[0]["keys_wait"]:
            await self._copy_keys()
        stored, failure = await self._broker.while_connected(self._publish([_waiting(row) for row in rows]))
        await self._mark(stored, epoch)
        if failure is not None:
            raise failure
        return len(rows) == ROUND

    async def _publish(self, rows: Sequence[_Waiting]) -> tuple[list[tuple[int, int]], Exception | None]:
        """The sequences of what was confirmed, and the first failure."""
        if len(rows) >= ATOMIC_FROM:
            try:
                last = await self._publish_atomic(rows)
            except APIError as error:
                # One member that is there already rejects the batch (10201), so does a dead one (10176): go one by one.
                log.info("an atomic batch was refused (%s); publishing one by one", error.err_code)
            else:
                return [(row.position, last - len(rows) + 1 + place) for place, row in enumerate(rows)], None
        return await self._publish_window(rows)

    async def _publish_atomic(self, rows: Sequence[_Waiting]) -> int:
        """All or nothing (ADR-50); the sequence of the last."""
        batch = secrets.token_hex(12)
        await publish_batch(
            self._broker.client,
            (
                (row.subject, encode_headers(row.headers | {_BATCH: batch, _PLACE: str(place)}), row.payload)
                for place, row in enumerate(rows[:-1], start=1)
            ),
        )
        row = rows[-1]
        headers = row.headers | {_BATCH: batch, _PLACE: str(len(rows)), "Nats-Batch-Commit": "1"}
        answer = await self._broker.client.request(row.subject, row.payload, timeout=ACK_TIMEOUT_S, headers=headers)
        said = json.loads(answer.data)
        if "error" in said:
            raise APIError.from_error(said["error"])
        if said.get("count") != len(rows):
            raise NatsError(f"a batch of {len(rows)} was confirmed as {said.get('count')}")
        return int(said["seq"])

    async def _publish_window(self, rows: Sequence[_Waiting]) -> tuple[list[tuple[int, int]], Exception | None]:
        """One by one, but many tenants at once; the sequences of what was confirmed, and the first failure."""
        queues: dict[str, list[_Waiting]] = defaultdict(list)
        for row in rows:
            queues[row.queue].append(row)
        stored: list[tuple[int, int]] = []
        failure: Exception | None = None
        chained = len(queues) < len(rows) <= CHAIN
        while queues:
            # Two facts of one tenant are in flight together only in a chain; what fell out of it goes alone.
            sent = rows if chained else [queue[0] for queue in queues.values()]
            answers = await self._send_chained(rows) if chained else await self._send(sent)
            for row, answer in zip(sent, answers, strict=True):
                if isinstance(answer, int):
                    stored.append((row.position, answer))
                elif not (chained and isinstance(answer, APIError) and answer.err_code == _NOT_BEHIND_IT):
                    failure = failure or answer
                    queues.pop(row.queue, None)
            confirmed = {position for position, _ in stored}
            left = {name: [row for row in queue if row.position not in confirmed] for name, queue in queues.items()}
            queues = {name: queue for name, queue in left.items() if queue}
            chained = False
        return stored, failure

    async def _send_chained(self, rows: Sequence[_Waiting]) -> list[int | Exception]:
        """All at once, each on condition that the last in the stream is the one before it, so that order is kept.

        The server refuses the rest when one is lost, or when somebody else comes in between.
        """
        before = [row.headers["Nats-Msg-Id"] for row in rows[:-1]]
        behind = [row._replace(headers=row.headers | {_BEHIND: id_}) for row, id_ in zip(rows[1:], before, strict=True)]
        return await self._send([rows[0], *behind])

    async def _send(self, rows: Sequence[_Waiting]) -> list[int | Exception]:
        """The sequence of each, or why it was not confirmed."""
        jetstream = self._broker.client.jetstream()
        answers = await asyncio.gather(
            *(
                jetstream.publish(row.subject, row.payload, timeout=ACK_TIMEOUT_S, stream=EVENTS, headers=row.headers)
                for row in rows
            ),
            return_exceptions=True,
        )
        told: list[int | Exception] = []
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            told.append(answer if isinstance(answer, Exception) else answer.seq)
        return told

    async def _mark(self, stored: Sequence[tuple[int, int]], epoch: int) -> None:
        if not stored:
            return
        positions, sequences = zip(*stored, strict=True)
        statement = Statement()
        statement.fence([(RELAY, epoch)])
        rows = statement.columns(position=("bigint", positions), sequence=("bigint", sequences))
        statement.add(
            f"UPDATE chassis.outbox AS o SET sequence = n.sequence FROM {rows} WHERE o.position = n.position"  # noqa: S608
        )
        async with self._database.direct(committing=True) as connection:
            await statement.execute(connection)
        _RELAYED.add(len(stored))

    async def _catch_up(self, epoch: int) -> None:
        """Find in the stream what was published but not marked: the server forgets ids after its window, we do not."""
        async with self._database.reading() as connection:
            start = (await connection.execute(_KNOWN_FROM, {"margin": 2 * ROUND})).scalar_one()
            last = (await connection.execute(_LAST_KNOWN)).one_or_none()
        last_known = 0
        if last is not None:
            last_known = last.sequence
            await check_stream_identity(self._broker.client, EVENTS, last_known, str(last.event_id))
        feed = OrderedConsumer(self._broker.client, EVENTS, [f"paybill.events.*.{self._service}.>"], start or 1)
        try:
            left = await feed.pending()
            while left > 0:
                messages = await feed.fetch(ACK_TIMEOUT_S)
                if not messages:
                    raise TimeoutError("the stream does not answer")
                left -= len(messages)
                await self._recognise(
                    {(m.headers or {}).get("ce-id", ""): stream_sequence(m) for m in messages}, last_known, epoch
                )
        finally:
            await feed.close()

    async def _recognise(self, found: dict[str, int], last_known: int, epoch: int) -> None:
        ours = [UUID(id_) for id_ in found if UUID_TEXT.fullmatch(id_)]
        async with self._database.reading() as connection:
            rows = (await connection.execute(_FOUND, {"ids": ours})).all()
        await self._mark([(row.position, found[str(row.event_id)]) for row in rows if row.sequence is None], epoch)
        known = {str(row.event_id) for row in rows}
        strange = [sequence for id_, sequence in found.items() if id_ not in known and sequence > last_known]
        if strange:
            raise LogStateMismatchError(
                f"the stream holds facts of {self._service} that this database never decided, from {min(strange)} on: "
                f"{OLDER_DATABASE}"
            )


def _waiting(row: Any) -> _Waiting:
    position, queue, subject, headers, payload, _ = row
    return _Waiting(position, queue, subject, orjson.loads(headers), payload)
