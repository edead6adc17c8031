"""Limits of publishers: what exceeds them in a minute is counted, and becomes one fact when the minute has ended.

The minute of a message is the one in which NATS stored it, so that a consumer that is behind refuses no more; of one
in the retry queue it is that of the attempt. Counts are stored with what the messages cause: no restart resets them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from paybill_contracts.envelope import Origin
from paybill_contracts.operations import IntakeQuarantined, service_event
from sqlalchemy import Row, text

from paybill_runtime import clock
from paybill_runtime.database.arrays import texts
from paybill_runtime.database.leases import INTAKE as LEASE
from paybill_runtime.database.pool import Connection, Database, fetch_rows
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.messaging.message import EARLIEST, IncomingMessage
from paybill_runtime.messaging.streams import INTAKE
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import meter

REPORT_INTERVAL_S = 30.0
REPORTED_AFTER = timedelta(minutes=1)
"""Time without another message of a minute that has ended, after which its fact is recorded."""
_LEFT_OUT = meter.create_counter("paybill.intake.left_out", "{message}", "Messages beyond the limits of a publisher.")
_USAGE = (
    "SELECT u.publisher, u.minute, messages, size_bytes, refused FROM chassis.publisher_minute AS u "
    "JOIN unnest($1::text[], $2::text[]::timestamptz[]) AS n (publisher, minute) "
    "ON u.publisher = n.publisher AND u.minute = n.minute"
)
_ENDED = text(
    "SELECT * FROM chassis.publisher_minute WHERE left_out > 0 AND minute < :before AND updated_at < :before "
    "ORDER BY minute, publisher LIMIT 100"
)
_DELETE_WHOLE = text(
    "DELETE FROM chassis.publisher_minute WHERE left_out = 0 AND minute < :before AND updated_at < :before"
)


@dataclass(slots=True)
class Usage:
    """Amounts that a publisher has sent in a minute; of what was left out the sequences and the first reason."""

    messages: int = 0
    size_bytes: int = 0
    refused: int = 0
    left_out: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    subject: str = ""
    reason: str = ""


_Key = tuple[str, datetime]


@dataclass(slots=True)
class Admission:
    """The messages of one transaction, compared with the limits.

    stored: usage before the transaction. ids: of the messages that were left out.
    """

    settings: ServiceSettings
    now: datetime
    stored: Mapping[_Key, Usage] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    _added: dict[_Key, Usage] = field(default_factory=dict)

    def admits(self, item: IncomingMessage) -> bool:
        """Counts a message of a publisher; returns False, and leaves it out, when it exceeds a limit."""
        before, added = self._usage(item)
        added.messages += 1
        added.size_bytes += len(item.payload) + sum(len(name) + len(value) for name, value in item.headers.items())
        messages, size_bytes = self.settings.publisher_messages_per_minute, self.settings.publisher_bytes_per_minute
        if before.messages + added.messages <= messages and before.size_bytes + added.size_bytes <= size_bytes:
            return True
        self._leave_out(item, added, f"{messages} messages and {size_bytes} bytes in a minute are accepted")
        return False

    def admits_refused(self, item: IncomingMessage) -> bool:
        """Counts a message that was refused; returns False, and leaves it out, when it exceeds the limit of those."""
        before, added = self._usage(item)
        added.refused += 1
        limit = self.settings.publisher_refused_per_minute
        if before.refused + added.refused <= limit:
            return True
        self._leave_out(item, added, f"{limit} refused messages in a minute are kept")
        return False

    def _usage(self, item: IncomingMessage) -> tuple[Usage, Usage]:
        key = _key(item, self.now)
        return self.stored.get(key) or Usage(), self._added.setdefault(key, Usage())

    def _leave_out(self, item: IncomingMessage, added: Usage, reason: str) -> None:
        self.ids.add(item.id)
        added.left_out += 1
        added.last_sequence = item.sequence
        if added.left_out == 1:
            added.first_sequence, added.subject, added.reason = item.sequence, single_line(item.subject), reason

    def record(self, statement: Statement) -> None:
        """Adds the usage of the transaction to that of the minutes."""
        if not self._added:
            return
        _LEFT_OUT.add(len(self.ids))
        usage = list(self._added.values())
        rows = statement.columns(
            publisher=("text", [publisher for publisher, _ in self._added]),
            minute=("timestamptz", [minute for _, minute in self._added]),
            messages=("bigint", [each.messages for each in usage]),
            size_bytes=("bigint", [each.size_bytes for each in usage]),
            refused=("bigint", [each.refused for each in usage]),
            left_out=("bigint", [each.left_out for each in usage]),
            first_sequence=("bigint", [each.first_sequence for each in usage]),
            last_sequence=("bigint", [each.last_sequence for each in usage]),
            subject=("text", [each.subject for each in usage]),
            reason=("text", [each.reason for each in usage]),
        )
        amounts = ", ".join(f"{name} = u.{name} + excluded.{name}" for name in _AMOUNTS)
        firsts = ", ".join(
            f"{name} = CASE WHEN u.left_out = 0 THEN excluded.{name} ELSE u.{name} END" for name in _FIRSTS
        )
        statement.add(
            f"INSERT INTO chassis.publisher_minute AS u ({_COLUMNS}, updated_at) "  # noqa: S608  # names are our own
            f"SELECT {_COLUMNS}, {statement.value(self.now.isoformat())}::text::timestamptz FROM {rows} "
            f"ON CONFLICT (publisher, minute) DO UPDATE SET {amounts}, {firsts}, "
            "last_sequence = greatest(u.last_sequence, excluded.last_sequence), updated_at = excluded.updated_at"
        )


_AMOUNTS = ("messages", "size_bytes", "refused", "left_out")
_FIRSTS = ("first_sequence", "subject", "reason")
_COLUMNS = ", ".join(("publisher", "minute", *_AMOUNTS, *_FIRSTS, "last_sequence"))


async def admission_of(
    connection: Connection, settings: ServiceSettings, items: Iterable[IncomingMessage], now: datetime
) -> Admission:
    """Returns the admission for one transaction, with the stored usage of the publishers of its messages."""
    keys = {_key(item, now) for item in items if item.stream == INTAKE}
    if not keys:
        return Admission(settings, now)
    publishers, minutes = zip(*sorted(keys), strict=True)
    rows = await fetch_rows(connection, _USAGE, texts(publishers), texts(minutes))
    return Admission(settings, now, {(row[0], row[1]): Usage(*row[2:]) for row in map(tuple, rows)})


def _key(item: IncomingMessage, now: datetime) -> _Key:
    minute = now.replace(second=0, microsecond=0) if item.minute == EARLIEST else item.minute
    return item.publisher, minute


def report(service: str, database: Database, group_commit: GroupCommit) -> Kind:
    """Returns the kind of the job that records a fact for each minute with messages that were left out."""

    async def run(_: ClaimedJob) -> float:
        before = {"before": clock.now() - timedelta(minutes=1) - REPORTED_AFTER}
        async with database.transaction() as connection:
            await connection.execute(_DELETE_WHOLE, before)
        async with database.reading() as connection:
            rows: Sequence[Row[tuple[object, ...]]] = (await connection.execute(_ENDED, before)).all()
        for row in rows:
            id_ = clock.new_id()
            origin = Origin(id_, id_, f"service:{service}", "")
            decide, extra = partial(_emit, service, row), [partial(_delete, row)]
            await group_commit.decide(Decision(origin, decide, extra_statements=extra))
        return REPORT_INTERVAL_S

    return Kind("report_left_out", run, LEASE, Priority.BULK, recurring=True)


def _emit(service: str, row: Row[tuple[object, ...]], unit: UnitOfWork, _: DecisionContext) -> None:
    unit.emit(
        service_event(service, IntakeQuarantined)(
            quarantine_id=clock.new_id(),
            publisher=row.publisher,
            subject=row.subject,
            reason=f"{row.left_out} more messages of {row.minute:%Y-%m-%d %H:%M} UTC (sequences {row.first_sequence} "
            f"to {row.last_sequence} of the intake) were neither recorded nor kept: {row.reason}",
            left_out=row.left_out,
        )
    )


def _delete(row: Row[tuple[object, ...]], statement: Statement) -> None:
    """Deletes the row unless its amount has changed meanwhile, which makes the decision fail and run again."""
    publisher, minute = statement.value(row.publisher), statement.value(row.minute.isoformat())
    deleted = statement.add(
        f"DELETE FROM chassis.publisher_minute WHERE publisher = {publisher} "  # noqa: S608  # placeholders
        f"AND minute = {minute}::text::timestamptz AND left_out = {statement.value(row.left_out)}::bigint RETURNING 1"
    )
    statement.require(f"SELECT FROM {deleted}", 1, "40001")
