"""Limits of publishers: what exceeds them in a minute is counted, and becomes one fact when the minute has ended.

The minute of a message is the one in which NATS stored it, so that a consumer that is behind refuses no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from paybill_contracts.envelope import Origin
from paybill_contracts.operations import IntakeQuarantined, service_event
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.leases import INTAKE
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.messaging.message import IncomingMessage
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import meter

REPORT_INTERVAL_S = 30.0
REPORTED_AFTER = timedelta(minutes=1)
"""Time after the end of a minute until its fact is recorded: messages of it may still be on their way."""
_LEFT_OUT = meter.create_counter("paybill.intake.left_out", "{message}", "Messages beyond the limits of a publisher.")
_ADD = text(
    "INSERT INTO chassis.left_out (publisher, minute, amount, first_sequence, last_sequence, subject, reason) "
    "VALUES (:publisher, :minute, :amount, :first, :last, :subject, :reason) "
    "ON CONFLICT (publisher, minute) DO UPDATE SET amount = left_out.amount + excluded.amount, "
    "last_sequence = greatest(left_out.last_sequence, excluded.last_sequence)"
)
_ENDED = text("SELECT * FROM chassis.left_out WHERE minute < :before ORDER BY minute, publisher LIMIT 100")


@dataclass(slots=True)
class Usage:
    """Amounts that a publisher has sent in a minute."""

    messages: int = 0
    size_bytes: int = 0
    refused: int = 0


@dataclass(slots=True)
class _LeftOut:
    amount: int
    first: int
    last: int
    subject: str
    reason: str


_Key = tuple[str, datetime]


@dataclass(slots=True)
class Admission:
    """The messages of one transaction, compared with the limits. ids: of those that were left out."""

    settings: ServiceSettings
    usage: dict[_Key, Usage]
    ids: set[str] = field(default_factory=set)
    _left_out: dict[_Key, _LeftOut] = field(default_factory=dict)

    def admits(self, item: IncomingMessage) -> bool:
        """Counts a message of a publisher; returns False, and leaves it out, when it exceeds a limit."""
        key = item.publisher, item.minute
        messages, size_bytes = self.settings.publisher_messages_per_minute, self.settings.publisher_bytes_per_minute
        usage = self.usage.setdefault(key, Usage())
        usage.messages += 1
        usage.size_bytes += len(item.payload)
        if usage.messages <= messages and usage.size_bytes <= size_bytes:
            return True
        self._leave_out(item, key, f"{messages} messages and {size_bytes} bytes in a minute are accepted")
        return False

    def admits_refused(self, item: IncomingMessage) -> bool:
        """Counts a message that was refused; returns False, and leaves it out, when it exceeds the limit of those."""
        key = item.publisher, item.minute
        usage = self.usage.setdefault(key, Usage())
        usage.refused += 1
        limit = self.settings.publisher_refused_per_minute
        if usage.refused <= limit:
            return True
        self._leave_out(item, key, f"{limit} refused messages in a minute are kept")
        return False

    def _leave_out(self, item: IncomingMessage, key: _Key, reason: str) -> None:
        self.ids.add(item.id)
        known = self._left_out.setdefault(key, _LeftOut(0, item.sequence, 0, single_line(item.subject), reason))
        known.amount += 1
        known.last = item.sequence

    async def store(self, connection: AsyncConnection) -> None:
        """Adds the messages that were left out to those of their minutes."""
        rows = [
            {
                "publisher": publisher,
                "minute": minute,
                "amount": each.amount,
                "first": each.first,
                "last": each.last,
                "subject": each.subject,
                "reason": each.reason,
            }
            for (publisher, minute), each in self._left_out.items()
        ]
        if rows:
            await connection.execute(_ADD, rows)


class PublisherUsage:
    """Usage of publishers in the newest minutes, of the process that consumes their messages.

    Its memory begins with the process: after a restart within a minute a publisher has the limits of that minute again.
    """

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        self._service = service
        self._settings = settings
        self._usage: dict[_Key, Usage] = {}

    def admission(self) -> Admission:
        """Returns the admission for one transaction."""
        return Admission(self._settings, {key: replace(usage) for key, usage in self._usage.items()})

    def committed(self, admission: Admission) -> None:
        """Keeps the usage of a transaction that was committed."""
        newest = max((minute for _, minute in admission.usage), default=datetime.min.replace(tzinfo=UTC))
        self._usage = {key: usage for key, usage in admission.usage.items() if key[1] >= newest - REPORTED_AFTER}
        _LEFT_OUT.add(len(admission.ids))

    def report(self, database: Database, group_commit: GroupCommit) -> Kind:
        """Returns the kind of the job that records a fact for each minute with messages that were left out."""

        async def run(_: ClaimedJob) -> float:
            for row in await self._ended(database):
                id_ = clock.new_id()
                origin = Origin(id_, id_, f"service:{self._service}", "")
                decide, extra = partial(self._record, row), [partial(_delete, row)]
                await group_commit.decide(Decision(origin, decide, extra_statements=extra))
            return REPORT_INTERVAL_S

        return Kind("report_left_out", run, INTAKE, Priority.BULK, recurring=True)

    async def _ended(self, database: Database) -> Sequence[Row[tuple[object, ...]]]:
        before = clock.now() - timedelta(minutes=1) - REPORTED_AFTER
        async with database.reading() as connection:
            return (await connection.execute(_ENDED, {"before": before})).all()

    def _record(self, row: Row[tuple[object, ...]], unit: UnitOfWork, _: DecisionContext) -> None:
        unit.emit(
            service_event(self._service, IntakeQuarantined)(
                quarantine_id=clock.new_id(),
                publisher=row.publisher,
                subject=row.subject,
                reason=f"{row.amount} more messages of {row.minute:%Y-%m-%d %H:%M} UTC (sequences {row.first_sequence} "
                f"to {row.last_sequence} of the intake) were neither recorded nor kept: {row.reason}",
                left_out=row.amount,
            )
        )


def _delete(row: Row[tuple[object, ...]], statement: Statement) -> None:
    """Deletes the row unless its amount has changed meanwhile, which makes the decision fail and run again."""
    publisher, minute, amount = map(statement.value, (row.publisher, row.minute, row.amount))
    deleted = statement.add(
        f"DELETE FROM chassis.left_out WHERE publisher = {publisher} AND minute = {minute}::timestamptz "  # noqa: S608
        f"AND amount = {amount}::bigint RETURNING 1"
    )
    statement.require(f"SELECT FROM {deleted}", 1, "40001")
