"""Aggregates as JSON documents: one row each, with query columns that PostgreSQL generates from the document."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event, canonical
from pydantic import TypeAdapter
from sqlalchemy import BigInteger, Column, Computed, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

S = TypeVar("S")


class Key(NamedTuple):
    """Identifies one aggregate: its kind and its id."""

    kind: str
    id: str


class StateRow(SQLModel):
    """Base of rows of states: the id, the revision of the last folded event, and the state.

    A service derives a base with a MetaData of its own (`class Base(StateRow, registry=registry(metadata=…))`), so that
    two services can be loaded in one process.
    """

    id: str = Field(primary_key=True)
    revision: int = Field(sa_type=BigInteger, nullable=False)
    state: dict[str, Any] = Field(sa_type=JSONB, nullable=False)


def generated(expression: str, *, unique: bool = False, index: bool = False) -> Any:  # a SQLModel field
    """Returns a text column that PostgreSQL generates from `state`."""
    return Field(default=None, sa_column=Column(Text, Computed(expression, persisted=True), unique=unique, index=index))


def column_time(at: datetime) -> str:
    """Returns `at` in the text form of a generated column of a time, which sorts by time."""
    return at.replace(tzinfo=None).isoformat()


LOADED = 64
"""States of a kind that are kept in memory after they were loaded, the last ones."""


class Stored(Generic[S]):
    """Persistence of one kind of aggregate: its table, its JSON form and its `evolve`.

    A field whose name in the stored JSON has to stay is renamed as `new: Annotated[T, Field(alias="old")]`.
    conflicts: the error to raise for each unique constraint of the table that is violated. format: grows with every
    change of the state or of `evolve` that a row written before does not survive; the next migration then writes the
    table again from the facts. kept: group commits decide on the state of the last commit that they know, and check it
    when they write (decision 0047): for states that one process changes more often than others.
    """

    def __init__(
        self,
        kind: str,
        row: type[StateRow],
        state: type[S],
        evolve: Callable[[S | None, Any], S],
        conflicts: Mapping[str, type[DomainError]] | None = None,
        format: int = 1,  # noqa: A002  # the column's name
        *,
        kept: bool = False,
    ) -> None:
        self.kind = kind
        self.row = row
        self.table: Table = row.__table__  # type: ignore[attr-defined]  # SQLModel adds it to classes with table=True
        self.evolve = evolve
        self.conflicts = dict(conflicts or {})
        self.format = format
        self.kept = kept
        self._adapter: TypeAdapter[S] = TypeAdapter(state)
        # A job and the decisions that follow it load the same revision; states are frozen, so that they share it.
        self._load = lru_cache(LOADED)(self._adapter.validate_json)

    def key(self, id_: str) -> Key:
        """Returns the key of one of these aggregates."""
        return Key(self.kind, id_)

    def dump(self, state: S) -> str:
        """Returns the state as canonical JSON, the form that replay compares."""
        return canonical(self._adapter.dump_python(state, mode="json", by_alias=True)).decode()

    def document(self, state: S) -> str:
        """Returns the state as JSON, for a jsonb column."""
        return self._adapter.dump_json(state, by_alias=True).decode()

    def load(self, document: str | bytes) -> S:
        """Returns the state from its JSON."""
        return self._load(document)

    def fold(self, state: S | None, event: Event) -> S:
        """Returns the state after `event`."""
        return self.evolve(state, event)


AnyStored = Stored[Any]
