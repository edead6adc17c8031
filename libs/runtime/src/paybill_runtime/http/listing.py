"""Queries of list routes: one state by its id, and pages of states that stay correct while rows are added."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query
from sqlalchemy import ColumnElement, Executable, Label, Row, Table, Text, cast, select

S_co = TypeVar("S_co", covariant=True)

MAX_PAGE = 200

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]


class RowSource(Protocol):
    """Runs queries; `ServiceContext` does."""

    async def rows(self, statement: Executable, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Returns the rows of a query."""


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

    after: only rows after this value of `order_by`. equal: the values of columns; None matches every value.
    """
    columns = stored.table.c
    position = columns[order_by]
    query = (
        select(position.label("position"), state_column(stored)).where(*conditions).order_by(position).limit(limit + 1)
    )
    for name, value in equal.items():
        if value is not None:
            query = query.where(columns[name] == value)
    if after is not None:
        query = query.where(position > after)
    rows = await source.rows(query)
    return [stored.load(row.state) for row in rows[:limit]], rows[limit - 1].position if len(rows) > limit else None
