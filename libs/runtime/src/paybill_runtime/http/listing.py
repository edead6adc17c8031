"""Queries of list routes: one state, its events, and pages of states that stay correct while rows are added."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query
from paybill_contracts.event import Event, decode
from sqlalchemy import ColumnElement, Executable, Label, Row, Table, Text, cast, select, text

S_co = TypeVar("S_co", covariant=True)

MAX_PAGE = 200

_EVENTS = text(
    "SELECT subject, payload, recorded_at FROM chassis.outbox WHERE aggregate = :aggregate AND revision > :after "
    "ORDER BY revision LIMIT :limit"
)

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]


class RowSource(Protocol):
    """Runs queries; `ServiceContext` does."""

    async def rows(self, statement: Executable, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Returns the rows of a query."""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event of an aggregate, and when it was recorded."""

    event: Event
    at: datetime


class StateTable(Protocol[S_co]):
    """The table of one kind of aggregate; `Stored` is one."""

    @property
    def table(self) -> Table:
        """The table, with the columns `id` and `state`."""

    def load(self, document: str) -> S_co:
        """Returns the state from its JSON."""


def state_column(stored: StateTable[Any]) -> Label[str]:
    """Returns the column of the state as text, the form that `load` reads."""
    return cast(stored.table.c.state, Text).label("state")


async def load_state(source: RowSource, stored: StateTable[S_co], id_: str) -> S_co | None:
    """Returns the committed state of one aggregate; None when it does not exist."""
    rows = await source.rows(select(state_column(stored)).where(stored.table.c.id == id_))
    return stored.load(rows[0].state) if rows else None


async def load_events(source: RowSource, aggregate: str, limit: int, after: int = 0) -> list[RecordedEvent]:
    """Returns the events of one of the service's own aggregates, `<kind>/<id>`, after a revision, in their order.

    Raises UnknownEventError for an event of a later version of the service.
    """
    rows = await source.rows(_EVENTS, {"aggregate": aggregate, "after": after, "limit": limit})
    return [RecordedEvent(_decoded(row.subject, row.payload), row.recorded_at) for row in rows]


def _decoded(subject: str, payload: bytes) -> Event:
    owner, name, version = subject.split(".")[-3:]
    return decode(f"{owner}.{name}", int(version.removeprefix("v")), payload)


async def load_page(
    source: RowSource,
    stored: StateTable[S_co],
    after: str | None,
    limit: int,
    *conditions: ColumnElement[bool],
    order_by: str = "id",
    **equal: str | None,
) -> tuple[list[S_co], str | None]:
    """Returns states in the order of a unique column, and the `after` of the next page; None on the last page.

    after: only rows after this value of `order_by`, which begins with `-` for a descending order. equal: the values of
    columns; None matches every value.
    """
    columns = stored.table.c
    position, descends = columns[order_by.removeprefix("-")], order_by.startswith("-")
    order = position.desc() if descends else position
    query = select(position.label("position"), state_column(stored)).where(*conditions).order_by(order).limit(limit + 1)
    for name, value in equal.items():
        if value is not None:
            query = query.where(columns[name] == value)
    if after is not None:
        query = query.where(position < after if descends else position > after)
    rows = await source.rows(query)
    return [stored.load(row.state) for row in rows[:limit]], rows[limit - 1].position if len(rows) > limit else None
