"""Alignment of log and outbox: reports what only one of them has, and folds what both have."""

from collections.abc import Mapping, Sequence

from nats.aio.msg import Msg
from paybill_contracts.envelope import Fact, read_fact
from paybill_contracts.errors import DomainError

from paybill_runtime.messaging.ordered_consumer import stream_sequence
from paybill_runtime.replay.histories import Histories
from paybill_runtime.replay.outbox_rows import OutboxRow, OutboxSnapshot
from paybill_runtime.replay.report import Report


class Alignment:
    """Compares the log, added in parts and in order, with the outbox; adds common facts to `histories`.

    elsewhere: ids that were found at another sequence than the confirmed one; absent: rows that were not at their
    sequence, by id.
    """

    def __init__(self, outbox: OutboxSnapshot, histories: Histories, report: Report) -> None:
        self._outbox = outbox
        self._histories = histories
        self._report = report
        self._elsewhere: set[str] = set()
        self._absent: dict[str, tuple[int, str, str, int]] = {}

    async def add(self, messages: Sequence[Msg]) -> None:
        """Adds the next messages of the log."""
        ids = {_id(message) for message in messages}
        last = stream_sequence(messages[-1])
        rows: dict[str, OutboxRow] = {}
        async for part in self._outbox.up_to(last):
            for row in part:
                if row.id in ids:
                    rows[row.id] = row
                else:
                    self._miss(row)
        due = rows.keys() - self._elsewhere
        rows |= await self._outbox.by_id(ids - rows.keys())
        for message in messages:
            self._add(message, rows, due, last)

    async def finish(self) -> None:
        """Handles the rows behind the end of the log: confirmed and lost, or not confirmed yet."""
        async for part in self._outbox.up_to(self._outbox.newest_sequence):
            for row in part:
                self._miss(row)
        for id_, (sequence, subject, aggregate, revision) in self._absent.items():
            self._report.add(
                "lost_fact",
                f"sequence {sequence}",
                f"{subject} {id_} ({aggregate} revision {revision}) was confirmed, but is not in the log",
            )
        async for row in self._outbox.unconfirmed():
            self._report.from_outbox += 1
            if row.id not in self._elsewhere:
                self._add_unconfirmed(row)

    def _add(self, message: Msg, rows: Mapping[str, OutboxRow], due: set[str], last: int) -> None:
        """Adds a message. due: ids that are confirmed among these messages; last: the sequence of the last one."""
        id_, sequence = _id(message), stream_sequence(message)
        row = rows.get(id_)
        if row is None:
            self._report_unknown(message.subject, sequence)
            return
        if id_ in due:
            due.discard(id_)
        elif id_ in self._elsewhere or not (row.sequence is None or row.sequence > last or id_ in self._absent):
            self._report.duplicates += 1
            return
        fact = self._read(message, row, sequence)
        if fact is None:
            if row.sequence is not None:
                self._miss(row)
            return
        self._absent.pop(id_, None)
        if sequence != row.sequence:
            self._elsewhere.add(id_)
            if row.sequence is not None:
                self._report.add(
                    "misplaced_fact", f"sequence {sequence}", f"{row.subject} {id_} was confirmed at {row.sequence}"
                )
        self._report.facts += 1
        self._histories.add(row.aggregate, fact)

    def _report_unknown(self, subject: str, sequence: int) -> None:
        if sequence > self._outbox.newest_sequence:
            self._report.after_snapshot += 1
        else:
            self._report.add(
                "unknown_fact", f"sequence {sequence}", f"{subject} is in the log, but this service never decided it"
            )

    def _read(self, message: Msg, row: OutboxRow, sequence: int) -> Fact | None:
        headers = message.headers or {}
        if row.matches(message.subject, headers, message.data):
            return self._valid(row, headers, f"sequence {sequence}", sequence)
        self._report.add(
            "altered_fact",
            f"sequence {sequence}",
            f"{message.subject} differs from the outbox ({row.aggregate} revision {row.revision})",
        )
        return None

    def _add_unconfirmed(self, row: OutboxRow) -> None:
        try:
            headers = row.parse_headers()
        except ValueError as error:
            self._report.add("unreadable_fact", f"outbox {row.id}", f"{row.subject}: {error}")
            return
        fact = self._valid(row, headers, f"outbox {row.id}")
        if fact is not None:
            self._report.facts += 1
            self._histories.add(row.aggregate, fact)

    def _valid(self, row: OutboxRow, headers: Mapping[str, str], where: str, sequence: int = 0) -> Fact | None:
        """Returns the fact of a row; None when it is malformed or contradicts its row."""
        try:
            fact = read_fact(row.subject, headers, row.payload, sequence)
        except DomainError as error:
            self._report.add("unreadable_fact", where, f"{row.subject}: {error}")
            return None
        if fact.revision != row.revision or fact.aggregate != row.aggregate:
            self._report.add(
                "altered_fact",
                where,
                f"{row.subject} has {fact.aggregate} revision {fact.revision}, "
                f"its row has {row.aggregate} revision {row.revision}",
            )
            return None
        return fact

    def _miss(self, row: OutboxRow) -> None:
        if row.id not in self._elsewhere:
            self._absent[row.id] = (row.sequence or 0, row.subject, row.aggregate, row.revision)


def _id(message: Msg) -> str:
    return (message.headers or {}).get("ce-id", "")
