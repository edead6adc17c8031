"""The log beside the outbox: what one has and the other has not, and what both have."""

from collections.abc import Mapping, Sequence

from nats.aio.msg import Msg
from paybill_contracts.envelope import Fact, read_fact
from paybill_contracts.errors import DomainError

from paybill_runtime.messaging.ordered_consumer import stream_sequence
from paybill_runtime.replay.histories import Histories
from paybill_runtime.replay.outbox_rows import Decided, Outbox
from paybill_runtime.replay.report import Report


class Alignment:
    """Takes the log in parts, in its order, and hands what it shares with the outbox on to `histories`.

    elsewhere: ids that were taken at another place than the one confirmed; absent: rows whose place was passed without
    them, by id, with that place.
    """

    def __init__(self, outbox: Outbox, histories: Histories, report: Report) -> None:
        self._outbox = outbox
        self._histories = histories
        self._report = report
        self._elsewhere: set[str] = set()
        self._absent: dict[str, tuple[int, str, str, int]] = {}

    async def take(self, messages: Sequence[Msg]) -> None:
        """The next messages of the log."""
        here = {_id(message) for message in messages}
        last = stream_sequence(messages[-1])
        rows: dict[str, Decided] = {}
        async for part in self._outbox.upto(last):
            for row in part:
                if row.id in here:
                    rows[row.id] = row
                else:
                    self._pass(row)
        due = rows.keys() - self._elsewhere
        rows |= await self._outbox.named(here - rows.keys())
        for message in messages:
            self._take(message, rows, due, last)

    async def finish(self) -> None:
        """What is behind the end of the log: confirmed and lost, or not confirmed yet, and so not known to be there."""
        async for part in self._outbox.upto(self._outbox.newest_sequence):
            for row in part:
                self._pass(row)
        for id_, (sequence, subject, aggregate, revision) in self._absent.items():
            self._report.add(
                "lost_fact",
                f"sequence {sequence}",
                f"{subject} {id_} ({aggregate} revision {revision}) was confirmed, but is not in the log",
            )
        async for row in self._outbox.waiting():
            self._report.from_outbox += 1
            if row.id not in self._elsewhere:
                self._wait(row)

    def _take(self, message: Msg, rows: Mapping[str, Decided], due: set[str], last: int) -> None:
        """due: ids that are confirmed among these messages and were not taken; last: where these messages end."""
        id_, sequence = _id(message), stream_sequence(message)
        row = rows.get(id_)
        if row is None:
            self._stranger(message.subject, sequence)
            return
        if id_ in due:
            due.discard(id_)
        elif id_ in self._elsewhere or not (row.sequence is None or row.sequence > last or id_ in self._absent):
            self._report.duplicates += 1
            return
        fact = self._read(message, row, sequence)
        if fact is None:
            if row.sequence is not None:
                self._pass(row)
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

    def _stranger(self, subject: str, sequence: int) -> None:
        if sequence > self._outbox.newest_sequence:
            self._report.after_snapshot += 1
        else:
            self._report.add(
                "unknown_fact", f"sequence {sequence}", f"{subject} is in the log, but this service never decided it"
            )

    def _read(self, message: Msg, row: Decided, sequence: int) -> Fact | None:
        headers = message.headers or {}
        if row.is_in(message.subject, headers, message.data):
            return self._valid(row, headers, f"sequence {sequence}", sequence)
        self._report.add(
            "altered_fact",
            f"sequence {sequence}",
            f"{message.subject} differs from what was decided ({row.aggregate} revision {row.revision})",
        )
        return None

    def _wait(self, row: Decided) -> None:
        try:
            headers = row.head()
        except ValueError as error:
            self._report.add("unreadable_fact", f"outbox {row.id}", f"{row.subject}: {error}")
            return
        fact = self._valid(row, headers, f"outbox {row.id}")
        if fact is not None:
            self._report.facts += 1
            self._histories.add(row.aggregate, fact)

    def _valid(self, row: Decided, headers: Mapping[str, str], where: str, sequence: int = 0) -> Fact | None:
        """The fact of a row, as its message says it too: by itself it has to add up as well."""
        try:
            fact = read_fact(row.subject, headers, row.payload, sequence)
        except DomainError as error:
            self._report.add("unreadable_fact", where, f"{row.subject}: {error}")
            return None
        if fact.revision != row.revision or fact.aggregate != row.aggregate:
            self._report.add(
                "altered_fact",
                where,
                f"{row.subject} says {fact.aggregate} revision {fact.revision} "
                f"where its row says {row.aggregate} revision {row.revision}",
            )
            return None
        return fact

    def _pass(self, row: Decided) -> None:
        if row.id not in self._elsewhere:
            self._absent[row.id] = (row.sequence or 0, row.subject, row.aggregate, row.revision)


def _id(message: Msg) -> str:
    return (message.headers or {}).get("ce-id", "")
