"""Stored form of an aggregate's state."""

from dataclasses import dataclass
from typing import Annotated

from paybill_runtime.decisions.aggregates import StateRow, Stored
from pydantic import Field
from sqlalchemy import MetaData
from sqlalchemy.orm import registry


@dataclass(frozen=True, slots=True)
class Item:
    """Part of a state, with a renamed field of its own."""

    next_sync: Annotated[str | None, Field(alias="look")] = None


@dataclass(frozen=True, slots=True)
class State:
    """State whose field was renamed after it was first stored."""

    id: str
    expires_at: Annotated[str | None, Field(alias="lapses")] = None
    items: tuple[Item, ...] = ()


class Base(StateRow, registry=registry(metadata=MetaData())):
    """Registry of this test's table."""


class Row(Base, table=True):
    """Table of the states."""

    __tablename__ = "renamed"


STORED = Stored("renamed", Row, State, lambda state, _: state or State("x"))
STATE = State("x", expires_at="then", items=(Item(next_sync="now"),))


def test_a_renamed_field_keeps_its_key_in_the_stored_json() -> None:
    assert STORED.document(STATE) == '{"id":"x","lapses":"then","items":[{"look":"now"}]}'
    assert STORED.dump(STATE) == '{"id":"x","items":[{"look":"now"}],"lapses":"then"}'


def test_a_state_stored_before_a_rename_is_loaded_into_the_new_field() -> None:
    assert STORED.load('{"id":"x","lapses":"then","items":[{"look":"now"}]}') == STATE
