"""Base of this service's rows, and the queries that every context uses for its states."""

from typing import Protocol, TypeVar

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow
from paybill_runtime.decisions.context import ServiceContext
from sqlalchemy import ColumnElement, Label, MetaData, Text, cast
from sqlalchemy.orm import registry
from sqlmodel import col, select

S_co = TypeVar("S_co", covariant=True)


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """This service's rows, in a MetaData of their own: two services can be loaded in one process."""


class Kind(Protocol[S_co]):
    """Kind of aggregate (`Stored`), as far as queries need it."""

    @property
    def row(self) -> type[StateRow]:
        """Its table."""

    def load(self, document: str) -> S_co:
        """Returns the state from its JSON."""


def state_column(row: type[StateRow]) -> Label[str]:
    """Returns the column of the state as text, which is what `Stored.load` reads."""
    return cast(col(row.state), Text).label("state")


async def load_state(context: ServiceContext, kind: Kind[S_co], id_: str) -> S_co | None:
    """Returns the committed state of one aggregate, None when it does not exist."""
    rows = await context.rows(select(state_column(kind.row)).where(kind.row.id == id_))
    return kind.load(rows[0].state) if rows else None


async def load_page(
    context: ServiceContext,
    kind: Kind[S_co],
    after: str | None,
    limit: int,
    *conditions: ColumnElement[bool],
    **equal: str | None,
) -> tuple[list[S_co], str | None]:
    """Returns states in the order of their ids, and the `after` of the next page, None on the last.

    after: only greater ids. equal: values that columns of the table must have; None for any.
    """
    row = kind.row
    query = select(col(row.id), state_column(row)).where(*conditions).order_by(col(row.id)).limit(limit + 1)
    for name, value in equal.items():
        if value is not None:
            query = query.where(getattr(row, name) == value)
    if after is not None:
        query = query.where(col(row.id) > after)
    rows = await context.rows(query)
    return [kind.load(each.state) for each in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None
