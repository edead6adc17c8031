"""Inbox: stores the id of every handled message and the consumer's positions, in the transaction of the decisions.

A second copy of a message violates the primary key of the inbox, so that each message is handled exactly once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from paybill_runtime.database.statement import Statement
from paybill_runtime.errors import LEASE_LOST

SEED_POSITIONS = text(
    "INSERT INTO chassis.position (stream, partition, sequence) "
    "SELECT :stream, unnest(CAST(:partitions AS text[])::smallint[]), 0 ON CONFLICT DO NOTHING"
)
POSITIONS = text(
    "SELECT partition, sequence, message FROM chassis.position "
    "WHERE stream = :stream AND partition = ANY(CAST(:partitions AS text[])::smallint[])"
)
CURRENT_WITNESS = text(
    "SELECT coalesce((SELECT sequence FROM chassis.position WHERE stream = 'EVENTS/witness' AND partition = 0), 0)"
)
NOTE_WITNESS = text(
    "INSERT INTO chassis.position AS p (stream, partition, sequence) VALUES ('EVENTS/witness', 0, :sequence) "
    "ON CONFLICT (stream, partition) DO UPDATE SET sequence = excluded.sequence WHERE p.sequence = :before"
)
"""The witness: a sequence that the stream had reached when this database was written (decision 0050)."""
LAST_POSITION = text("SELECT coalesce(max(sequence), 0) FROM chassis.position WHERE stream = :stream")

Queue = tuple[int, str]
"""A partition and a tenant, whose messages are handled in order: a failed one blocks those behind it."""

_HANDLED, _BLOCKED = -1, -2
"""Numbers of the rows of `Lookup`."""


@dataclass(frozen=True, slots=True)
class HandledBatch:
    """The messages that a transaction handles, and the new position in their stream.

    positions: by partition, before the batch. up_to, last_message: sequence and id at the position after the batch, so
    that a stream that was restored from an older copy is detected.
    """

    stream: str
    messages: Mapping[str, int]
    positions: Mapping[int, int]
    up_to: int
    last_message: str

    def record(self, statement: Statement) -> None:
        """Adds the messages to the inbox, counts them at the first position, and advances the positions."""
        if self.messages:
            rows = statement.columns(
                event_id=("uuid", list(self.messages)), sequence=("bigint", list(self.messages.values()))
            )
            statement.add(f"INSERT INTO chassis.inbox (event_id, sequence) SELECT event_id, sequence FROM {rows}")  # noqa: S608
        rows = statement.columns(
            partition=("smallint", list(self.positions)),
            sequence=("bigint", list(self.positions.values())),
            handled=("bigint", [len(self.messages), *[0] * (len(self.positions) - 1)][: len(self.positions)]),
        )
        advanced = statement.add(
            f"UPDATE chassis.position AS p SET sequence = {statement.value(self.up_to)}::bigint, "  # noqa: S608
            f"message = {statement.value(self.last_message)}::uuid, handled = p.handled + n.handled FROM {rows} "
            f"WHERE p.stream = {statement.value(self.stream)} "
            "AND p.partition = n.partition AND p.sequence = n.sequence RETURNING 1"
        )
        # Otherwise another process has advanced them, or the database was restored from a backup.
        statement.require(f"SELECT FROM {advanced}", len(self.positions), LEASE_LOST)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The query which of these messages were handled before, and which of these queues are blocked."""

    messages: Collection[str]
    queues: Collection[Queue]

    def queries(self, statement: Statement) -> Sequence[str]:
        """Returns the SELECTs, for `Store.load`."""
        ids = statement.texts(self.messages)
        partitions, tenants = map(statement.texts, zip(*self.queues, strict=True))
        handled = (
            f"SELECT {_HANDLED}, event_id::text, 0::bigint, NULL FROM chassis.inbox "  # noqa: S608
            f"WHERE event_id = ANY({ids}::uuid[])"
        )
        blocked = (
            f"SELECT {_BLOCKED}, n.tenant, n.partition::bigint, NULL "  # noqa: S608
            f"FROM unnest({partitions}::smallint[], {tenants}) AS n (partition, tenant) WHERE EXISTS "
            "(SELECT FROM chassis.parked AS p WHERE p.partition = n.partition AND p.tenant = n.tenant)"
        )
        return handled, blocked

    @staticmethod
    def result(rows: Sequence[tuple[int, str, int]]) -> tuple[set[str], set[Queue]]:
        """Returns the ids that were handled before, and the blocked queues."""
        handled = {text for number, text, _ in rows if number == _HANDLED}
        return handled, {(partition, text) for number, text, partition in rows if number == _BLOCKED}
