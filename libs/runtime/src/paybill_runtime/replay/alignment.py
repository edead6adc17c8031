"""Alignment of log and outbox: reports what only one of them has, and where they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nats.aio.msg import Msg
from paybill_contracts.signatures import SIGNATURE_HEADER
from paybill_contracts.signing_keys import Refusal

from paybill_runtime.messaging.message_ids import message_id
from paybill_runtime.messaging.ordered_consumer import stream_sequence
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.replay.evidence import Evidence
from paybill_runtime.replay.outbox_rows import OutboxRow, OutboxSnapshot
from paybill_runtime.replay.report import Report


@dataclass(slots=True)
class Deviations:
    """Rows for which the log differs from the outbox; for all others the outbox has exactly the content of the log.

    absent: ids of confirmed facts that the log does not have, or not unaltered. sequences: by id, where the row has
    another one, or none yet. aggregates: those of all these rows.
    """

    absent: set[str] = field(default_factory=set)
    sequences: dict[str, int] = field(default_factory=dict)
    aggregates: set[str] = field(default_factory=set)


class Alignment:
    """Compares the log, added in parts and in order, with the outbox.

    absent: rows that were not at their sequence, by id.
    """

    def __init__(self, outbox: OutboxSnapshot, report: Report, voided: VoidedFacts, evidence: Evidence) -> None:
        self._outbox = outbox
        self._voided = voided
        self._evidence = evidence
        self._report = report
        self._absent: dict[str, tuple[int, str, str, int]] = {}
        self.deviations = Deviations()
        self._elsewhere = self.deviations.sequences

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
            if _id(message) in rows:
                self._add(message, rows, due, last)
            else:
                await self._report_without_row(message)

    async def finish(self) -> None:
        """Handles the rows behind the end of the log: confirmed and lost, or not confirmed yet."""
        async for part in self._outbox.up_to(self._outbox.newest_sequence):
            for row in part:
                self._miss(row)
        for id_, (sequence, subject, aggregate, revision) in self._absent.items():
            self.deviations.absent.add(id_)
            self.deviations.aggregates.add(aggregate)
            self._report.add(
                "lost_fact",
                f"sequence {sequence}",
                f"{subject} {id_} ({aggregate} revision {revision}) was confirmed, but is not in the log",
            )
        async for id_ in self._outbox.unconfirmed():
            self._report.from_outbox += 1
            self._report.facts += id_ not in self._elsewhere

    def _add(self, message: Msg, rows: Mapping[str, OutboxRow], due: set[str], last: int) -> None:
        """Adds a message. due: ids that are confirmed among these messages; last: the sequence of the last one."""
        id_, sequence = _id(message), stream_sequence(message)
        row = rows[id_]
        refusal = self._voided.known_keys.verify(message)
        if id_ in due:
            due.discard(id_)
        elif id_ in self._elsewhere or not (row.sequence is None or row.sequence > last or id_ in self._absent):
            self._report.duplicates += 1
            return
        if not row.matches(message.subject, message.headers or {}, message.data):
            text = f"{message.subject} differs from the outbox ({row.aggregate} revision {row.revision}): "
            self._report.add(*_changed_side(message, refusal, f"sequence {sequence}", text))
            if row.sequence is not None:
                self._miss(row)
            return
        if refusal is not None:
            self._report.add("refused_fact", f"sequence {sequence}", f"{message.subject}: {refusal.explanation}")
        self._absent.pop(id_, None)
        self._report.facts += 1
        if sequence != row.sequence:
            self._elsewhere[id_] = sequence
            self.deviations.aggregates.add(row.aggregate)
            if row.sequence is not None:
                self._report.add(
                    "misplaced_fact", f"sequence {sequence}", f"{row.subject} {id_} was confirmed at {row.sequence}"
                )

    async def _report_without_row(self, message: Msg) -> None:
        """Tells a fact that is younger than the snapshot from a deleted row, a void fact and one of somebody else."""
        sequence, subject, headers = stream_sequence(message), message.subject, message.headers or {}
        id_ = message_id(EVENTS, subject, headers, sequence)
        refusal = self._voided.known_keys.verify(message)
        if self._voided.covers(sequence, id_, message.data):
            self._report.voided += 1
        elif sequence > self._outbox.newest_sequence and await self._evidence.has_row(id_):
            self._report.after_snapshot += 1
        elif refusal is None and await self._evidence.was_decided(headers, sequence):
            self._report.add(
                "missing_outbox_row",
                f"sequence {sequence}",
                f"the outbox of {self._report.service} lacks sequence {sequence} that the log has ({subject})",
            )
        else:
            self._report.add(
                "unknown_fact",
                f"sequence {sequence}",
                f"{subject} is in the log, but this service never decided it"
                + (f": {refusal.explanation}" if refusal else ""),
            )

    def _miss(self, row: OutboxRow) -> None:
        if row.id not in self._elsewhere:
            self._absent[row.id] = (row.sequence or 0, row.subject, row.aggregate, row.revision)


def _changed_side(message: Msg, refusal: Refusal | None, where: str, text: str) -> tuple[str, str, str]:
    """Returns the fault of a message that differs from its row; the signature decides which of them was changed."""
    if refusal is not None:
        return "altered_fact", where, f"{text}the message was changed, {refusal.explanation}"
    if SIGNATURE_HEADER in (message.headers or {}):
        return "altered_outbox", where, f"{text}the message has the signature of the service, so the outbox was changed"
    return "altered_fact", where, f"{text}neither has a signature"


def _id(message: Msg) -> str:
    return (message.headers or {}).get("ce-id", "")
