"""Transactional outbox: facts are written with the states that they change."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from paybill_contracts.envelope import MAX_PAYLOAD_BYTES, Fact, headers_of, subject_of
from paybill_contracts.event import canonical, encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of
from paybill_contracts.signing_keys import key_fact_kind
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.arrays import texts
from paybill_runtime.database.pool import Connection, fetch_rows
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.outbox_headers import FactColumns, compact, complete
from paybill_runtime.errors import FactTooLargeError

Sign = Callable[[Sequence[bytes]], list[str]]
"""Returns the signature of each fact, from the hashes of `leaf_of`."""

COUNT_UNPUBLISHED = text("SELECT count(*) FROM chassis.publication WHERE sequence IS NULL")

# A data key is committed with the first fact that needs it: one query sees both, and most batches need no new key.
# Positions are an array, so that no statistics of another hour make PostgreSQL read all rows before the first of them.
_UNPUBLISHED = (
    "SELECT EXISTS (SELECT FROM chassis.data_key WHERE NOT copied) AS keys_pending, position, payload, headers, "
    "event_id::text, aggregate, revision, tenant, subject, recorded_at "
    "FROM chassis.outbox WHERE position = ANY(ARRAY(SELECT position FROM chassis.publication WHERE sequence IS NULL "
    "ORDER BY position LIMIT $1)) ORDER BY position"
)
_UNPUBLISHED_KEYS = (
    "SELECT false AS keys_pending, position, payload, headers, event_id::text, aggregate, revision, tenant, subject, "
    "recorded_at FROM chassis.publication JOIN chassis.outbox USING (position) "
    "WHERE sequence IS NULL AND aggregate LIKE 'signing-key/%' ORDER BY position"
)
_UNSIGNED = (
    "SELECT position, payload, headers, event_id::text, aggregate, revision, tenant, subject, recorded_at "
    "FROM chassis.publication JOIN chassis.outbox USING (position) "
    "WHERE sequence IS NULL AND position > $1 ORDER BY position LIMIT $2"
)
_SIGN = "UPDATE chassis.outbox SET headers = $2 WHERE position = $1"
_SIGNED_AT_ONCE = 1000
_RECENT = text(
    "SELECT min(sequence) FROM (SELECT sequence FROM chassis.publication WHERE sequence IS NOT NULL "
    "ORDER BY sequence DESC LIMIT :count) AS recent"
)
_LAST = text(
    "SELECT event_id, sequence FROM chassis.publication JOIN chassis.outbox USING (position) "
    "WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1"
)
_BY_ID = text(
    "SELECT position, event_id, sequence FROM chassis.outbox JOIN chassis.publication USING (position) "
    "WHERE event_id = ANY(CAST(:ids AS text[])::uuid[])"
)

_FIRST = (
    "SELECT event_id::text, aggregate, revision, tenant, subject, recorded_at, headers FROM chassis.outbox "
    "WHERE aggregate = ANY($1::text[]) AND revision = 1"
)
_IS_FIRST_OF_TYPE = (
    "SELECT NOT EXISTS (SELECT FROM chassis.outbox AS e WHERE e.aggregate = o.aggregate "
    "AND e.revision < o.revision AND e.subject = o.subject) FROM chassis.outbox AS o WHERE position = $1"
)


class FirstFact(NamedTuple):
    """The first fact of an aggregate, with which its journey began."""

    traceparent: str
    correlation: str
    recorded_at: datetime


class UnpublishedFact(NamedTuple):
    """A fact that the stream has not confirmed yet. Facts of one `queue` are published in order."""

    position: int
    queue: str
    subject: str
    headers: dict[str, str]
    payload: bytes

    @property
    def key_fact_kind(self) -> str | None:
        """PUBLISHED or WITHDRAWN for a fact about a signing key."""
        return key_fact_kind(self.subject)


def append(statement: Statement, facts: Sequence[Fact], sign: Sign) -> None:
    """Adds signed facts to the outbox, in order. Two decisions on one revision of an aggregate conflict here.

    Raises FactTooLargeError: such a fact would block the outbox permanently.
    """
    payloads = [encode(fact.event) for fact in facts]
    for fact, payload in zip(facts, payloads, strict=True):
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise FactTooLargeError(
                f"{fact.event.TYPE} would have {len(payload)} bytes; {MAX_PAYLOAD_BYTES} are allowed: send less at once"
            )
    subjects = [subject_of(fact.event) for fact in facts]
    headers = [headers_of(fact) for fact in facts]
    for own, signature in zip(headers, sign(list(map(leaf_of, subjects, headers, payloads))), strict=True):
        own[SIGNATURE_HEADER] = signature
    columns = "event_id, aggregate, revision, tenant, subject, headers, recorded_at"
    rows = statement.columns(
        event_id=("uuid", [fact.id for fact in facts]),
        aggregate=("text", [fact.aggregate for fact in facts]),
        revision=("bigint", [fact.revision for fact in facts]),
        tenant=("text", [fact.event.tenant for fact in facts]),
        subject=("text", subjects),
        headers=("text", list(map(compact, headers))),
        payload=("text", [payload.decode() for payload in payloads]),
        recorded_at=("timestamptz", [fact.time for fact in facts]),
    )
    added = statement.add(
        f"INSERT INTO chassis.outbox ({columns}, payload) SELECT {columns}, convert_to(payload, 'UTF8') FROM {rows} "  # noqa: S608
        "ORDER BY place RETURNING position"
    )
    statement.add(f"INSERT INTO chassis.publication (position) SELECT position FROM {added}")  # noqa: S608


async def read_unpublished(connection: Connection, limit: int) -> tuple[list[UnpublishedFact], bool]:
    """Returns the oldest unpublished facts, and whether data keys have to be published first."""
    rows = await fetch_rows(connection, _UNPUBLISHED, limit)
    return _unpublished(rows), bool(rows) and rows[0][0]


async def read_unpublished_keys(connection: Connection) -> list[UnpublishedFact]:
    """Returns the unpublished facts about signing keys, also those behind many others."""
    return _unpublished(await fetch_rows(connection, _UNPUBLISHED_KEYS))


def _unpublished(rows: Sequence[Any]) -> list[UnpublishedFact]:
    facts = []
    for _, position, payload, headers, *values in rows:
        columns = FactColumns._make(values)
        queue = columns.tenant or columns.aggregate
        facts.append(UnpublishedFact(position, queue, columns.subject, complete(headers, columns), payload))
    return facts


async def sign_unpublished(connection: Connection, sign: Sign) -> int:
    """Signs the unpublished facts of a version that did not sign; returns their number.

    Only for a service whose log has no key yet: later, an unsigned row was not written by its decisions.
    """
    count, after = 0, 0
    while rows := await fetch_rows(connection, _UNSIGNED, after, _SIGNED_AT_ONCE):
        after = rows[-1][0]
        unsigned = []
        for position, payload, stored, *values in rows:
            columns = FactColumns._make(values)
            headers = complete(stored, columns)
            if SIGNATURE_HEADER not in headers:
                unsigned.append((position, headers, stored, leaf_of(columns.subject, headers, payload)))
        signatures = sign([leaf for *_, leaf in unsigned])
        for (position, headers, stored, _), signature in zip(unsigned, signatures, strict=True):
            signed = {**headers, SIGNATURE_HEADER: signature}
            text_ = canonical(signed).decode() if stored.startswith("{") else compact(signed)  # as it was stored
            await fetch_rows(connection, _SIGN, position, text_)
        count += len(unsigned)
    return count


def mark_published(statement: Statement, sequences: Sequence[tuple[int, int]]) -> None:
    """Stores the stream sequence of each outbox position."""
    positions, confirmed = zip(*sequences, strict=True)
    rows = statement.columns(position=("bigint", positions), sequence=("bigint", confirmed))
    statement.add(
        f"UPDATE chassis.publication AS p SET sequence = n.sequence FROM {rows} WHERE p.position = n.position"  # noqa: S608
    )


async def recent_sequence(connection: AsyncConnection, count: int) -> int | None:
    """Returns the sequence of the fact that was published `count` facts ago; None when none is published."""
    sequence: int | None = (await connection.execute(_RECENT, {"count": count})).scalar_one()
    return sequence


async def last_published(connection: AsyncConnection) -> Row[Any] | None:
    """Returns event_id and sequence of the last published fact."""
    return (await connection.execute(_LAST)).one_or_none()


async def rows_by_id(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Returns position, event_id and sequence of those of these events that the outbox holds."""
    return (await connection.execute(_BY_ID, {"ids": texts(ids)})).all()


async def first_facts(connection: Connection, aggregates: Sequence[str]) -> dict[str, FirstFact]:
    """Returns the first facts of these aggregates, as far as the outbox holds them."""
    found = {}
    for *columns, headers in await fetch_rows(connection, _FIRST, aggregates):
        all_headers = complete(headers, FactColumns(*columns))
        fact = FirstFact(all_headers["traceparent"], all_headers["pb-correlation"], columns[-1])
        found[all_headers["pb-aggregate"]] = fact
    return found


async def is_first_of_type(connection: Connection, position: int) -> bool:
    """Returns whether a fact is the first one of its type and version of the aggregate."""
    return bool((await fetch_rows(connection, _IS_FIRST_OF_TYPE, position))[0][0])
