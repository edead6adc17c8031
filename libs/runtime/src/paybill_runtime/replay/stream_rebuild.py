"""Rebuilds the stream EVENTS from the outboxes of all services: every fact at its old sequence, gaps filled by markers.

A marker is a message of the steward, on a subject that no service and no subscriber reads. It keeps the id that a
consumer had noted at its position, so that positions stay valid.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from nats.aio.client import Client
from nats.js.errors import NotFoundError
from paybill_contracts.envelope import EVENTS_ROOT
from sqlalchemy import text

from paybill_runtime.database.pool import Database, fetch_rows
from paybill_runtime.decisions.outbox_headers import FactColumns, complete
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, configurations

MARKER_SUBJECT = f"{EVENTS_ROOT}.0.steward.sequence_lost.v1"
CHUNK = 2000
"""Sequences that are in memory at a time."""
IN_FLIGHT = 256
ANSWER_TIMEOUT_S = 10.0
MAX_LISTED = 100

_BOUNDS = text(
    "SELECT p.facts, least(p.first, c.first) AS first, greatest(p.last, c.last, 0) AS last FROM "
    "(SELECT count(*) AS facts, min(sequence) AS first, max(sequence) AS last FROM chassis.publication "
    "WHERE sequence IS NOT NULL) AS p, (SELECT min(sequence) AS first, max(sequence) AS last FROM chassis.position "
    "WHERE stream IN ('EVENTS', 'EVENTS/witness') AND sequence > 0) AS c"
)
_POSITIONS = text(
    "SELECT sequence, message::text FROM chassis.position WHERE stream = 'EVENTS' AND message IS NOT NULL"
)
_ROWS = (
    "SELECT event_id::text, aggregate, revision, tenant, subject, recorded_at, sequence, headers, payload "
    "FROM chassis.publication JOIN chassis.outbox USING (position) "
    "WHERE sequence IS NOT NULL AND sequence BETWEEN $1::bigint AND $2::bigint ORDER BY sequence"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The outbox of a service, and a connection with its login on NATS."""

    service: str
    database: Database
    client: Client


class StoredFact(NamedTuple):
    """A message for a sequence. service: empty for a marker."""

    sequence: int
    service: str
    subject: str
    headers: dict[str, str]
    payload: bytes


@dataclass(slots=True)
class Survey:
    """Differences between the outboxes and the stream.

    first, last: sequences that the services know. facts: confirmed rows by service. gaps: sequences that no outbox
    has, at most the first hundred; gap_count: all. exists: the stream does. present: its last sequence, up to which it
    agrees. disagreements: why the stream cannot be continued at its end.
    """

    first: int
    last: int
    facts: dict[str, int]
    exists: bool = False
    present: int = 0
    gaps: list[int] = field(default_factory=list)
    gap_count: int = 0
    disagreements: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """True when the stream has all that the services know."""
        return self.exists and not self.disagreements and self.present >= self.last

    @property
    def missing(self) -> int:
        """Sequences that the stream does not have, or not where it could be continued."""
        return max(self.last - max(self.present, self.first - 1), 0) if not self.disagreements else self.last


async def survey(sources: Sequence[Source], reader: Client) -> Survey:
    """Compares every outbox with the stream. reader: a connection with the login of the operator.

    Raises ConfigurationError when two outboxes have one sequence.
    """
    found = Survey(0, 0, {})
    for source in sources:
        async with source.database.reading() as connection:
            row = (await connection.execute(_BOUNDS)).one()
        found.facts[source.service] = row.facts
        found.first = min(filter(None, (found.first, row.first)), default=0)
        found.last = max(found.last, row.last)
    stored = await _compare_ends(found, reader)
    async for chunk in _chunks(sources, found.first, found.last):
        for fact in chunk:
            if not fact.service:
                found.gap_count += 1
                found.gaps += [fact.sequence] if len(found.gaps) < MAX_LISTED else []
            elif fact.sequence <= found.present:
                id_ = fact.headers["ce-id"]
                if stored.get(fact.sequence) != id_ and len(found.disagreements) < MAX_LISTED:
                    state_ = "has another message at" if fact.sequence in stored else "cannot read"
                    found.disagreements.append(
                        f"the stream {state_} sequence {fact.sequence}; {fact.service}'s outbox has it"
                    )
    return found


async def _compare_ends(found: Survey, reader: Client) -> dict[int, str]:
    """Adds what the stream has; returns the ids of its messages by sequence."""
    try:
        state = (await reader.jetstream().stream_info(EVENTS)).state
    except NotFoundError:
        return {}
    found.exists, found.present = True, state.last_seq
    if not state.messages:
        if found.first and state.last_seq + 1 != found.first:
            found.disagreements.append(f"the stream is empty and would continue at sequence {state.last_seq + 1}")
        return {}
    if found.first and state.first_seq > found.first:
        found.disagreements.append(f"the stream begins at sequence {state.first_seq} instead of {found.first}")
    return await _stored(reader, state.last_seq)


async def _stored(reader: Client, last: int) -> dict[int, str]:
    """Returns the ids of all messages that the stream gives back, by sequence."""
    consumer = OrderedConsumer(reader, EVENTS, [f"{EVENTS_ROOT}.>"], 1, batch=CHUNK)
    stored: dict[int, str] = {}
    try:
        async for messages in consumer.existing(ANSWER_TIMEOUT_S):
            stored |= {stream_sequence(message): (message.headers or {}).get("ce-id", "") for message in messages}
            if stream_sequence(messages[-1]) >= last:
                break
    finally:
        await consumer.close()
    return stored


async def rebuild(sources: Sequence[Source], steward: Client, found: Survey, replicas: int = 1) -> int:
    """Publishes what the stream lacks, in order; returns the number of messages. Nobody else may publish meanwhile.

    It may be ended at any time: the next one continues at the end of the stream. Raises ConfigurationError when the
    stream has messages that do not agree.
    """
    if found.disagreements:
        raise ConfigurationError(found.disagreements[0])
    if not found.exists:
        [configuration] = [each for each in configurations(replicas) if each.name == EVENTS]
        configuration.first_seq = max(found.first, 1)
        await steward.jetstream().add_stream(configuration)
    clients = {source.service: source.client for source in sources} | {"": steward}
    count = 0
    async for chunk in _chunks(sources, max(found.present + 1, found.first), found.last):
        for service, facts in groupby(chunk, key=lambda fact: fact.service):
            run = list(facts)
            for start in range(0, len(run), IN_FLIGHT):
                await _publish(clients[service], run[start : start + IN_FLIGHT])
        count += len(chunk)
    return count


async def _publish(client: Client, facts: Sequence[StoredFact]) -> None:
    jetstream = client.jetstream()
    answers = await asyncio.gather(
        *(
            jetstream.publish(fact.subject, fact.payload, ANSWER_TIMEOUT_S, stream=EVENTS, headers=fact.headers)
            for fact in facts
        )
    )
    for fact, answer in zip(facts, answers, strict=True):
        if answer.seq != fact.sequence:
            raise ConfigurationError(
                f"the stream stored sequence {fact.sequence} at {answer.seq}: somebody else publishes; "
                "stop all services, then restore again"
            )


async def _chunks(sources: Sequence[Source], first: int, last: int) -> AsyncIterator[list[StoredFact]]:
    """Yields a message for each sequence, in order and in parts: the fact of an outbox, else a marker."""
    noted: dict[int, str] = {}
    for source in sources:
        async with source.database.reading() as connection:
            noted |= {row.sequence: row.message for row in await connection.execute(_POSITIONS)}
    for start in range(max(first, 1), last + 1, CHUNK):
        end = min(start + CHUNK - 1, last)
        found: dict[int, StoredFact] = {}
        for source in sources:
            async with source.database.reading() as connection:
                for *columns, sequence, headers, payload in await fetch_rows(connection, _ROWS, start, end):
                    row = FactColumns._make(columns)
                    if sequence in found:
                        raise ConfigurationError(
                            f"the outboxes of {found[sequence].service} and {source.service} both have sequence "
                            f"{sequence}: facts were published into an emptied log; restore both servers to one time"
                        )
                    found[sequence] = StoredFact(sequence, source.service, row.subject, complete(headers, row), payload)
        yield [found.get(sequence) or _marker(sequence, noted) for sequence in range(start, end + 1)]


def _marker(sequence: int, noted: Mapping[int, str]) -> StoredFact:
    headers = {"ce-type": "steward.sequence_lost", "ce-source": "paybill/steward"}
    if sequence in noted:
        headers["ce-id"] = noted[sequence]
    return StoredFact(sequence, "", MARKER_SUBJECT, headers, json.dumps({"sequence": sequence}).encode())
