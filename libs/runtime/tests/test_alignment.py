"""Alignment of log and outbox: reading in parts of any size finds the same faults as a comparison in memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import HoldOrigin, TenantReactivated
from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.decisions.outbox_headers import compact
from paybill_runtime.messaging.known_keys import KeyDirectory
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.replay.alignment import Alignment, Deviations
from paybill_runtime.replay.folding import Folded, Folding
from paybill_runtime.replay.outbox_rows import OutboxRow
from paybill_runtime.replay.report import Faults, Report
from paybill_tenant.app import service

REVISIONS = 4
ORIGIN = Origin("cause", "cause", "service:tenant", f"00-{'a' * 32}-{'b' * 16}-01")


def _fact(number: int) -> Fact:
    """Returns facts of two tenants in turn, by their position in the original log."""
    tenant, revision = number % 2, number // 2 + 1
    event = TenantReactivated(tenant_id=f"ten_{tenant:032x}", lifted=HoldOrigin.OPERATOR)
    id_ = str(UUID(int=number, version=4))
    return Fact(event, id_, datetime(2026, 11, 22, tzinfo=UTC), revision, ORIGIN)


FACTS = [_fact(number) for number in range(2 * REVISIONS)]
UNKNOWN = _fact(2 * REVISIONS)
"""Fact that is in no outbox."""


def _row(number: int, sequence: int | None) -> OutboxRow:
    fact = FACTS[number]
    return OutboxRow(
        fact.id,
        fact.aggregate,
        fact.revision,
        fact.event.tenant,
        subject_of(fact.event),
        fact.time,
        sequence,
        compact(headers_of(fact)),
        encode(fact.event),
    )


def _message(sequence: int, fact: Fact, *, altered: bool = False) -> Msg:
    head = headers_of(replace(fact, origin=replace(ORIGIN, actor="operator:eve")) if altered else fact)
    return Msg(
        None,
        subject_of(fact.event),
        f"$JS.ACK.EVENTS.feed.1.{sequence}.{sequence}.0.0",
        encode(fact.event),
        head | {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
    )


class _Outbox:
    """Outbox in memory."""

    def __init__(self, rows: Sequence[OutboxRow]) -> None:
        self._rows = {row.id: row for row in rows}
        self._delivered_until = 0
        self.newest_sequence = max((row.sequence or 0 for row in rows), default=0)

    async def up_to(self, sequence: int):
        due = sorted(
            (row for row in self._rows.values() if row.sequence and self._delivered_until < row.sequence <= sequence),
            key=lambda row: row.sequence or 0,
        )
        self._delivered_until = max(self._delivered_until, sequence)
        for start in range(0, len(due), 2):
            yield due[start : start + 2]

    async def by_id(self, ids):
        return {id_: self._rows[id_] for id_ in ids if id_ in self._rows}

    async def unconfirmed(self):
        for row in self._rows.values():
            if row.sequence is None:
                yield row.id


class _Evidence:
    """Database in which every fact without a row in the snapshot was recorded later."""

    async def has_row(self, _id: str) -> bool:
        return True

    async def was_decided(self, _headers, _sequence: int) -> bool:
        return False


def _stored() -> Stored:
    """Returns a state that counts how often it was folded."""
    return Stored("tenant", service().states[0].row, int, lambda state, _: (state or 0) + 1)


@dataclass
class Findings:
    """Result of a comparison."""

    facts: int
    duplicates: int
    after: int
    faults: list[tuple[str, str]]
    states: dict[str, tuple[int, int]]


def _folded(rows: Sequence[OutboxRow], deviations: Deviations, faults: Faults) -> list[Folded]:
    folding = Folding([_stored()], deviations, faults)
    ordered = sorted(rows, key=lambda row: (row.aggregate, row.revision))
    return [*folding.add(ordered), *folding.finish()]


def _aligned(rows: Sequence[OutboxRow], messages: Sequence[Msg], cuts: set[int]) -> Findings:
    report = Report(service="tenant")
    alignment = Alignment(_Outbox(rows), report, VoidedFacts(KeyDirectory(bytes(32), 1_000_000)), _Evidence())

    async def read() -> None:
        part: list[Msg] = []
        for position, message in enumerate(messages):
            part.append(message)
            if position in cuts or position == len(messages) - 1:
                await alignment.add(part)
                part = []
        await alignment.finish()

    asyncio.run(read())
    states = {
        folded.name: (folded.revision, int(folded.state))
        for folded in _folded(rows, alignment.deviations, report)
        if folded.state is not None
    }
    faults = sorted((fault.kind, fault.where) for fault in report.faults)
    return Findings(report.facts, report.duplicates, report.after_snapshot, faults, states)


def _compared_in_memory(rows: Sequence[OutboxRow], stream: Sequence[tuple[Fact, bool]]) -> Findings:
    by_id = {row.id: row for row in rows}
    known = max((row.sequence or 0 for row in rows), default=0)
    found = Findings(0, 0, 0, [], {})
    positions: dict[str, int] = {}
    newest: dict[str, tuple[int, int]] = {}
    for sequence, (fact, altered) in enumerate(stream, start=1):
        if fact.id not in by_id:
            found.after += sequence > known
            found.faults += [("unknown_fact", f"sequence {sequence}")] if sequence <= known else []
        elif fact.id in positions:
            found.duplicates += 1
        elif altered:
            found.faults.append(("altered_fact", f"sequence {sequence}"))
        else:
            positions[fact.id] = sequence
            last, at = newest.get(fact.aggregate, (0, 0))
            if fact.revision < last:
                found.faults.append(("swapped_facts", f"sequences {at} and {sequence}"))
            newest[fact.aggregate] = fact.revision, sequence
    for row in rows:
        if row.sequence is None:
            positions.setdefault(row.id, 0)
        elif row.id not in positions:
            found.faults.append(("lost_fact", f"sequence {row.sequence}"))
        elif positions[row.id] != row.sequence:
            found.faults.append(("misplaced_fact", f"sequence {positions[row.id]}"))
    found.facts = len(positions)
    for name in {row.aggregate for row in rows if row.id in positions}:
        revisions = sorted(row.revision for row in rows if row.aggregate == name and row.id in positions)
        found.states[name] = revisions[-1], len(revisions)
        if revisions != list(range(1, len(revisions) + 1)):
            found.faults.append(("gap", name))
    found.faults.sort()
    return found


@st.composite
def _logs(draw: st.DrawFn) -> tuple[list[OutboxRow], list[tuple[Fact, bool]]]:
    """Draws an outbox and a log: complete or incomplete, in order or not, altered or not."""
    stream = draw(st.lists(st.tuples(st.sampled_from([*FACTS, UNKNOWN]), st.booleans()), max_size=12))
    if draw(st.booleans()):
        stream = [(fact, False) for fact in FACTS] + stream
    rows = []
    for number, fact in enumerate(FACTS):
        positions = [position for position, (one, _) in enumerate(stream, start=1) if one is fact]
        rows.append(_row(number, draw(st.sampled_from([*positions, number + 1, None]))))
    return rows, stream


@given(log=_logs(), cuts=st.sets(st.integers(0, 20)))
def test_reading_the_log_in_parts_finds_the_same_faults_as_reading_it_whole(log, cuts) -> None:
    rows, stream = log
    messages = [_message(position, fact, altered=altered) for position, (fact, altered) in enumerate(stream, start=1)]

    assert _aligned(rows, messages, cuts) == _compared_in_memory(rows, stream)


def test_a_state_after_a_gap_is_folded_from_the_facts_present_and_the_gap_is_reported() -> None:
    faults = Faults()

    [folded] = _folded([_row(number, number + 1) for number in (0, 4, 6)], Deviations(), faults)

    assert [(fault.kind, fault.message) for fault in faults.faults] == [("gap", "revisions 2 are missing")]
    assert (folded.revision, folded.state) == (REVISIONS, "3")


@pytest.mark.parametrize("headers", ["", "[]", "{}", '{"ce-id": 7}', "null", '["a", "b", "c"]'])
def test_a_row_without_headers_matches_no_message(headers: str) -> None:
    row = _row(0, 1)._replace(headers=headers)

    assert not row.matches(row.subject, headers_of(FACTS[0]), row.payload)


def test_spaces_and_line_breaks_that_headers_lose_in_transit_make_no_difference() -> None:
    row = _row(0, 1)
    message = headers_of(FACTS[0])
    decided = row._replace(headers=orjson.dumps(message | {"pb-cause": " two\nlines "}).decode())

    assert decided.matches(row.subject, message | {"pb-cause": "two lines"}, row.payload)
    assert not decided.matches(row.subject, message | {"pb-cause": "twolines"}, row.payload)


def test_headers_of_a_row_are_those_of_its_fact_whether_stored_whole_or_not() -> None:
    headers = headers_of(FACTS[0])
    row = _row(0, 1)

    assert list(row.parse_headers().items()) == sorted(headers.items())
    assert row._replace(headers=orjson.dumps(headers).decode()).parse_headers() == headers
    assert len(row.headers) < len(orjson.dumps(headers)) / 3


@pytest.mark.parametrize("part", ["subject", "payload"])
def test_a_message_of_another_type_or_content_does_not_match_its_row(part: str) -> None:
    row = _row(0, 1)
    other = {"subject": row.subject.replace("reactivated", "activated"), "payload": row.payload + b" "}
    message = {"subject": row.subject, "headers": headers_of(FACTS[0]), "payload": row.payload}

    assert row.matches(**message)
    assert not row.matches(**message | {part: other[part]})
