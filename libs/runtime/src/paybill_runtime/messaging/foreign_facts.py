"""Foreign facts: messages on the subjects of this service that its outbox does not hold, told apart by their cause.

They are the end of the log that an older copy of the database lacks, or somebody else wrote them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg
from paybill_contracts.envelope import Origin
from paybill_contracts.incidents import Evidence, Finding, IncidentStatus
from paybill_contracts.signing_keys import Refusal
from paybill_contracts.voided_events import EventVoided
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.messaging.inbox import CURRENT_WITNESS, NOTE_WITNESS
from paybill_runtime.messaging.message_ids import UUID_TEXT, message_id
from paybill_runtime.messaging.ordered_consumer import stream_sequence
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.voided_facts import VoidedFacts

log = logging.getLogger(__name__)

FOREIGN_FACT = "foreign_fact"
"""The kind of the incident about one foreign fact. subject: `event/<sequence>`."""
UNREADABLE_EVENT = "unreadable_event"
"""The kind of the incident about a fact of ours that the stream does not give back. subject: `event/<sequence>`."""
MAX_REPORTED = 50
"""Incidents that one check opens; a flood of foreign facts must not become as many facts of ours."""

_WITNESS = text(
    "SELECT greatest("
    "(SELECT coalesce(max(sequence), 0) FROM chassis.publication WHERE sequence IS NOT NULL), "
    "(SELECT coalesce(max(sequence), 0) FROM chassis.position WHERE stream IN ('EVENTS', 'EVENTS/witness')))"
)
_PUBLISHED = text(
    "SELECT aggregate, max(revision) AS revision FROM chassis.outbox JOIN chassis.publication USING (position) "
    "WHERE sequence IS NOT NULL AND aggregate = ANY(CAST(:aggregates AS text[])) GROUP BY aggregate"
)


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A message on a subject of this service. revision: 0 when its headers are not those of a fact of the service.

    is_void: an operator declared it void. refusal: the reason why the service did not sign it, if it did not.
    """

    sequence: int
    id: str
    subject: str
    aggregate: str
    revision: int
    is_void: bool = False
    refusal: Refusal | None = None


def log_message(service: str, message: Msg, voided: VoidedFacts) -> LogMessage:
    """Reads a message of the log without ever raising."""
    headers, sequence = message.headers or {}, stream_sequence(message)
    revision = headers.get("pb-revision", "")
    is_own = (
        headers.get("ce-source") == f"paybill/{service}"
        and UUID_TEXT.fullmatch(headers.get("ce-id", "")) is not None
        and f".{headers.get('ce-type')}.v" in message.subject
        and revision.isascii()
        and revision.isdecimal()
    )
    id_ = message_id(EVENTS, message.subject, headers, sequence)
    number = int(revision[:15]) if is_own else 0
    is_void = voided.covers(sequence, id_, message.data)
    refusal = voided.known_keys.verify(message)
    return LogMessage(sequence, id_, message.subject, headers.get("pb-aggregate", ""), number, is_void, refusal)


def continuation(unknown: Sequence[LogMessage], published: Mapping[str, int], witness: int) -> list[LogMessage]:
    """Returns those of `unknown`, in the order of the log, that an older copy of the database would lack.

    published: the newest published revision of each aggregate. witness: a sequence that the stream had reached when the
    database was written. A fact is recorded before it is published: a database that knows a later sequence holds every
    fact of its own before it. The facts after it continue each aggregate without a gap, and have its signature.
    """
    newest = dict(published)
    found = []
    for message in unknown:
        if (
            not message.is_void
            and message.refusal is None
            and message.sequence > witness
            and message.revision == newest.get(message.aggregate, 0) + 1
        ):
            newest[message.aggregate] = message.revision
            found.append(message)
    return found


async def current_witness(connection: AsyncConnection) -> int:
    """Returns the stored witness: a sequence that the stream had reached when this database was written."""
    witness: int = (await connection.execute(CURRENT_WITNESS)).scalar_one()
    return witness


async def note_witness(database: Database, before: int, sequence: int) -> bool:
    """Raises the witness; returns False when it is not `before`, so that this may be another copy of the database."""
    async with database.transaction() as connection:
        result = await connection.execute(NOTE_WITNESS, {"before": before, "sequence": sequence})
    return result.rowcount == 1


async def lacking(connection: AsyncConnection, unknown: Sequence[LogMessage]) -> list[LogMessage]:
    """Returns those of `unknown` that show an older copy of the database."""
    witness = (await connection.execute(_WITNESS)).scalar_one()
    aggregates = sorted({message.aggregate for message in unknown})
    rows = await connection.execute(_PUBLISHED, {"aggregates": aggregates})
    return continuation(unknown, {row.aggregate: row.revision for row in rows}, witness)


class ForeignFacts:
    """Reports facts that nobody decided, as incidents of the service; without `incidents` only in its log."""

    def __init__(self, service: str, incidents: Incidents | None, group_commit: GroupCommit) -> None:
        self._service = service
        self._incidents = incidents
        self._group_commit = group_commit

    async def report(self, messages: Sequence[LogMessage]) -> None:
        """Opens an incident for each that is not void. Raises DatabaseUnavailableError when it cannot be recorded."""
        messages = [message for message in messages if not message.is_void]
        if not messages:
            return
        log.error(
            "%d facts in the log were not decided by %s, the first at sequence %d (%s)",
            len(messages),
            self._service,
            messages[0].sequence,
            single_line(messages[0].subject),
        )
        incidents = self._incidents
        if incidents is None:
            return
        await self._open(incidents, [self._finding(message) for message in messages[:MAX_REPORTED]])

    async def report_unreadable(self, sequences: Sequence[int]) -> None:
        """Opens an incident for each sequence that the stream does not give back. Raises DatabaseUnavailableError."""
        if self._incidents is None or not sequences:
            return
        findings = [
            Finding(
                UNREADABLE_EVENT,
                f"event/{sequence}",
                f"sequence {sequence} cannot be read; the outbox of {self._service} has it: stop the stack and rebuild "
                "the log from the outboxes",
                (Evidence(name="sequence", value=str(sequence)),),
                command="paybill restore stream --from-outboxes --dry-run",
            )
            for sequence in sequences[:MAX_REPORTED]
        ]
        await self._open(self._incidents, findings)

    async def close_readable(self, database: Database, unreadable: Sequence[int]) -> None:
        """Closes the incidents about other sequences than these, after all facts were read back."""
        incidents = self._incidents
        if incidents is None:
            return
        table = incidents.table
        state = table.c.state
        query = select(state["subject"].astext).where(
            state["kind"].astext == UNREADABLE_EVENT, state["status"].astext == IncidentStatus.OPEN
        )
        async with database.reading() as connection:
            opened = set((await connection.execute(query)).scalars())
        ended = sorted(opened - {f"event/{sequence}" for sequence in unreadable})
        if not ended:
            return

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            for subject in ended:
                incidents.close(unit, UNREADABLE_EVENT, subject, "the event can be read again", at.now)

        origin = Origin("check of the log", "check of the log", f"service:{self._service}", "")
        writes = [incidents.key_of(UNREADABLE_EVENT, subject) for subject in ended]
        await self._group_commit.decide(Decision(origin, decide, writes=writes))

    async def _open(self, incidents: Incidents, findings: Sequence[Finding]) -> None:
        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            for finding in findings:
                incidents.open(unit, finding, at.now)

        origin = Origin("check of the log", "check of the log", f"service:{self._service}", "")
        writes = [incidents.key_of(finding.kind, finding.subject) for finding in findings]
        await self._group_commit.decide(Decision(origin, decide, writes=writes))

    async def close(self, void: EventVoided) -> None:
        """Closes the incident of a voided fact of this service. Raises DatabaseUnavailableError."""
        incidents = self._incidents
        if incidents is None or f".{self._service}." not in void.subject:
            return
        subject = f"event/{void.sequence}"

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            incidents.close(unit, FOREIGN_FACT, subject, f"the event is void: {void.reason}", at.now)

        origin = Origin(void.void_id, void.void_id, f"service:{self._service}", "")
        key = incidents.key_of(FOREIGN_FACT, subject)
        await self._group_commit.decide(Decision(origin, decide, writes=[key]))

    def _finding(self, message: LogMessage) -> Finding:
        pairs = {
            "sequence": str(message.sequence),
            "event": message.id,
            "subject": message.subject,
            "aggregate": message.aggregate,
            "signature": message.refusal.explanation if message.refusal else "it has the signature of the service",
        }
        return Finding(
            FOREIGN_FACT,
            f"event/{message.sequence}",
            f"the event at sequence {message.sequence} is not in the outbox of {self._service}: "
            "somebody else wrote it, or its row was deleted",
            tuple(Evidence(name=name, value=single_line(value)[:200]) for name, value in pairs.items() if value),
            command=f"paybill events void {message.sequence} --reason 'nobody decided it' --dry-run",
        )
