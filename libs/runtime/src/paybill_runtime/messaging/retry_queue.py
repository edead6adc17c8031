"""Retry queue: a fact that failed blocks only its tenant's queue, is retried, and ends as a dead letter."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import Event
from paybill_contracts.operations import MessageDeadLettered, MessageRedriven, MessageSkipped, service_event
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.leases import fence
from paybill_runtime.database.pool import Database
from paybill_runtime.database.retry import retry_on_conflict
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.group_commit import OnCommit
from paybill_runtime.decisions.job_rows import JobRequest, request_job
from paybill_runtime.decisions.refused_messages import KEEP_REFUSED
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.errors import (
    is_infrastructure_error,
    is_transaction_conflict,
    reason,
    single_line,
)
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.messaging.message import (
    IncomingMessage,
    headers_json,
    lease_of,
    parse_stored,
)
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.telemetry import log_context

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
CONFLICT_PAUSE_S = 0.5
MAX_PER_TURN = 100
"""Facts of one queue that are retried before its job gives its slot to another."""
KIND = "retry"
"""Kind of the jobs: one for each queue, which is the tenant in its partition."""
BLOCKED = "an earlier fact of this tenant waits"

_ENQUEUE = text(
    "INSERT INTO chassis.parked "
    "(event_id, stream, sequence, partition, tenant, subject, headers, payload, attempts, next_at, reason) VALUES "
    "(:event_id, :stream, :sequence, :partition, :tenant, :subject, :headers, :payload, :attempts, :next_at, :reason) "
    "ON CONFLICT DO NOTHING"
)
_HEAD = text(
    "SELECT event_id, dead, next_at FROM chassis.parked WHERE partition = :partition AND tenant = :tenant "
    "ORDER BY sequence LIMIT 1"
)
_QUEUES = text("SELECT DISTINCT ON (partition, tenant) partition, tenant, stream FROM chassis.parked")
_ONE = text("SELECT * FROM chassis.parked WHERE event_id = :id FOR UPDATE")
_DELETE = text("DELETE FROM chassis.parked WHERE event_id = :id")
_LATER = text(
    "UPDATE chassis.parked SET attempts = :attempts, next_at = :next_at, reason = :reason, dead = :dead, "
    "revision = :revision WHERE event_id = :id"
)
_RETRY = text(
    "UPDATE chassis.parked SET dead = false, attempts = 0, next_at = now(), revision = :revision WHERE event_id = :id"
)


class DeadLetterNotFoundError(NotFoundError):
    """The retry queue has no fact with this id."""

    code = "dead_letter_not_found"


async def enqueue(
    connection: AsyncConnection,
    failed: Sequence[tuple[IncomingMessage, Exception]],
    waiting: Sequence[IncomingMessage],
    now: datetime,
) -> None:
    """Adds messages with the reason, in the transaction that records them in the inbox. Only `failed` were tried."""
    rows = [
        _row(item) | {"attempts": 1, "next_at": now + timedelta(seconds=clock.backoff_s(1)), "reason": reason(error)}
        for item, error in failed
    ]
    rows += [_row(item) | {"attempts": 0, "next_at": now, "reason": BLOCKED} for item in waiting]
    if rows:
        await connection.execute(_ENQUEUE, rows)
        await _request_jobs(connection, rows)


async def _request_jobs(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Requests the jobs of the queues of these rows; each finds out when its first fact is due."""
    statement, now = Statement(), clock.now()
    queues = {(row["partition"], row["tenant"]): lease_of(row["stream"], row["partition"]) for row in rows}
    for (partition, tenant), lease in sorted(queues.items()):
        request_job(statement, JobRequest(KIND, f"{partition}/{tenant}", lease, now))
    await statement.execute(connection)


def _row(item: IncomingMessage) -> dict[str, Any]:
    return {
        "event_id": item.id,
        "stream": item.stream,
        "sequence": item.sequence,
        "partition": item.partition,
        "tenant": item.tenant,
        "subject": item.subject.replace("\0", ""),
        "headers": headers_json(item.headers),
        "payload": item.payload,
    }


async def quarantine(connection: AsyncConnection, items: Sequence[IncomingMessage], now: datetime) -> None:
    """Stores intake events that the owner of their type refused, and refused facts, unchanged."""
    rows = [
        {
            "id": item.id,
            "publisher": item.publisher if item.refusal is None else item.writer,
            "subject": single_line(item.subject),
            "headers": headers_json(item.headers),
            "payload": item.payload,
            "reason": single_line(str(item.error)),
            "sequence": item.sequence,
            "now": now,
        }
        for item in items
    ]
    if rows:
        await connection.execute(KEEP_REFUSED, rows)


class Processor(Protocol):
    """Handles the messages of a service; `MessageProcessor` does."""

    @property
    def service(self) -> str:
        """The name of the service."""

    @property
    def subscriptions(self) -> Subscriptions:
        """The subscriptions of the service."""

    @property
    def database(self) -> Database:
        """The database of the service."""

    @property
    def restore_guard(self) -> RestoreGuard:
        """The restore guard of the process."""

    def classify(self, item: IncomingMessage, error: Exception) -> Exception | None:
        """Returns the failure of `item`, whose writes raised `error`; None for a refusal."""

    async def retry(self, connection: AsyncConnection, item: IncomingMessage) -> Exception | None:
        """Handles `item` again; returns its failure."""


class RetryQueue:
    """Retries failed facts, each tenant's in order, and redrives or skips dead letters for operators."""

    def __init__(self, processor: Processor, store: Store, on_commit: OnCommit) -> None:
        self._processor = processor
        self._store = store
        self._on_commit = on_commit

    def kind(self) -> Kind:
        """Returns the kind of jobs that retry."""
        return Kind(KIND, self._run, derived=True)

    async def request_all(self) -> None:
        """Requests the jobs of all queues, at the start: none can be lost while its facts wait."""
        async with self._processor.database.transaction() as connection:
            rows = (await connection.execute(_QUEUES)).mappings().all()
            await _request_jobs(connection, [dict(row) for row in rows])

    async def _run(self, job: ClaimedJob) -> float | None:
        """Retries a queue from its first fact until one has to wait or MAX_PER_TURN are done."""
        partition, _, tenant = job.key.partition("/")
        queue = {"partition": int(partition), "tenant": tenant}
        for _ in range(MAX_PER_TURN):
            self._processor.restore_guard.check()
            async with self._processor.database.reading() as connection:
                head = (await connection.execute(_HEAD, queue)).one_or_none()
            if head is None or head.dead:
                return None  # at a dead letter the queue waits for an operator
            now = clock.now()
            if head.next_at > now:
                return float((head.next_at - now).total_seconds())
            try:
                await self._try(head.event_id, job.leases)
            except Exception as error:
                if not is_transaction_conflict(error):
                    raise
                return CONFLICT_PAUSE_S
        return 0.0

    async def _try(self, id_: UUID, held: Mapping[str, int]) -> bool:
        """Handles one fact again; returns whether its queue advances."""
        try:
            return await retry_on_conflict(lambda: self._retry(id_, held))
        except Exception as error:
            if is_infrastructure_error(error):
                raise
            # A violated constraint aborts the transaction, so that the failure is recorded in another one.
            return await self._retry(id_, held, error)

    async def _retry(self, id_: UUID, held: Mapping[str, int], write_error: Exception | None = None) -> bool:
        async with self._processor.database.transaction() as connection:
            await fence(connection, held)
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
            if row is None or row.dead:
                return row is None
            item = self._read(row)
            failure = self._processor.classify(item, write_error) if write_error is not None else None
            failure = failure or await self._processor.retry(connection, item)
            if failure is None:
                await connection.execute(_DELETE, {"id": id_})
            else:
                await self._later(connection, row, failure)
        self._on_commit(requires_jobs=True)
        return failure is None

    def _read(self, row: Row[Any]) -> IncomingMessage:
        return parse_stored(
            self._processor.subscriptions,
            self._processor.service,
            row.stream,
            row.sequence,
            row.subject,
            json.loads(row.headers),
            bytes(row.payload),
        )

    async def _later(self, connection: AsyncConnection, row: Row[Any], failure: Exception) -> None:
        attempts, now = row.attempts + 1, clock.now()
        values = {
            "id": row.event_id,
            "attempts": attempts,
            "next_at": now + timedelta(seconds=clock.backoff_s(attempts)),
            "reason": reason(failure),
            "dead": attempts >= MAX_ATTEMPTS,
            "revision": row.revision,
        }
        if values["dead"]:
            values["revision"] += 1
            with log_context(row.tenant, json.loads(row.headers).get("traceparent", "")):
                log.error(
                    "%s %s is a dead letter after %d attempts: %s",
                    row.subject,
                    row.event_id,
                    attempts,
                    values["reason"],
                )
            unit = UnitOfWork(
                now, Origin(str(row.event_id), str(row.event_id), f"service:{self._processor.service}", "")
            )
            unit.emit(
                service_event(self._processor.service, MessageDeadLettered)(
                    message_key=str(row.event_id),
                    message_type=single_line(row.subject),
                    message_tenant=row.tenant or None,
                    attempts=attempts,
                    reason=values["reason"],
                ),
                values["revision"],
            )
            await self._store.write(connection, unit)
        await connection.execute(_LATER, values)

    async def redrive(self, id_: UUID, origin: Origin) -> None:
        """Makes a fact due now, with all attempts again. Raises DeadLetterNotFoundError."""
        event = service_event(self._processor.service, MessageRedriven)(message_key=str(id_), operator=origin.actor)
        await self._operate(id_, origin, event, _RETRY)

    async def skip(self, id_: UUID, origin: Origin, explanation: str) -> None:
        """Removes a fact, so that its tenant's queue continues. Raises DeadLetterNotFoundError."""
        event = service_event(self._processor.service, MessageSkipped)(
            message_key=str(id_), operator=origin.actor, reason=single_line(explanation)
        )
        await self._operate(id_, origin, event, _DELETE)

    async def _operate(self, id_: UUID, origin: Origin, event: Event, statement: TextClause) -> None:
        async with self._processor.database.transaction() as connection:
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
            if row is None:
                raise DeadLetterNotFoundError(f"no fact {id_} is in the retry queue; it may be handled by now")
            unit = UnitOfWork(clock.now(), origin)
            unit.emit(event, row.revision + 1)
            await self._store.write(connection, unit)
            await connection.execute(statement, {"id": id_, "revision": row.revision + 1})
            await _request_jobs(connection, [row._asdict()])
        self._on_commit(requires_jobs=True)
