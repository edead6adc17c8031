"""What a published schema may become, and every way in which it may not change."""

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from paybill_contracts.compatibility import breaches
from paybill_contracts.event import Event, Value
from paybill_contracts.personal import Personal
from paybill_contracts.schemas import schema_of
from pydantic import BaseModel, Field


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Colours(StrEnum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Part(Value):
    size: int


class Published(Value):
    """As others know it."""

    name: Annotated[str, Field(max_length=10, pattern="^[a-z]+$")]
    count: int = 3
    colour: Colour
    kind: Literal["plain"]
    part: Part
    note: str | None = None
    parts: tuple[Part, ...]
    labels: dict[Annotated[str, Field(pattern="^[a-z]+$")], str]
    either: Annotated[int | str, Field(union_mode="left_to_right")]


def rules(after: type[BaseModel], before: type[BaseModel] = Published) -> set[str]:
    return {breach.rule for breach in breaches(before.model_json_schema(), after.model_json_schema())}


def changed(**fields: object) -> type[BaseModel]:
    """`Published` with these fields declared anew: annotation, or annotation and default."""
    defaults = {name: item[1] for name, item in fields.items() if isinstance(item, tuple)}
    hints = {name: item[0] if isinstance(item, tuple) else item for name, item in fields.items()}
    return type("Changed", (Published,), {"__annotations__": hints, "__module__": __name__, **defaults})


def without(name: str) -> type[BaseModel]:
    kept = {key: hint for key, hint in Published.__annotations__.items() if key != name}
    defaults = {key: getattr(Published.model_fields[key], "default", ...) for key in ("count", "note") if key in kept}
    return type("Without", (Value,), {"__annotations__": kept, "__module__": __name__, **defaults})


def test_the_same_schema_keeps_every_promise() -> None:
    assert rules(Published) == set()


def test_an_optional_field_with_a_constant_default_may_be_added() -> None:
    assert rules(changed(added=(int, 0))) == set()
    assert rules(changed(added=(str | None, None))) == set()


def test_words_for_people_may_change() -> None:
    class Said(Published):
        """In other words."""

        name: Annotated[str, Field(max_length=10, pattern="^[a-z]+$", description="new", examples=["abc"])]

    assert rules(Said) == set()


def test_a_removed_field_is_found() -> None:
    assert rules(without("colour")) == {"removed field"}
    assert rules(without("note")) == {"removed field"}


def test_a_removed_field_of_a_part_is_found() -> None:
    class Hollow(Value):
        pass

    found = breaches(Published.model_json_schema(), changed(part=Hollow).model_json_schema())

    assert [(breach.rule, breach.path) for breach in found] == [("removed field", ".part.size")]


@pytest.mark.parametrize("hint", [str, None], ids=["no longer null", "only null"])
def test_a_narrowed_type_is_found(hint: object) -> None:
    assert "narrowed type" in rules(changed(note=hint))


def test_a_changed_type_is_found() -> None:
    assert rules(changed(count=(str, "3"))) == {"changed type", "changed default"}
    assert rules(changed(parts=tuple[int, ...])) >= {"changed type"}
    assert "changed type" in rules(changed(part=Part | None))
    assert "changed type" in rules(changed(note=Personal[str]))


def test_a_new_required_field_is_found() -> None:
    assert rules(changed(added=int)) == {"new required field"}


def test_an_optional_field_that_becomes_required_is_found() -> None:
    class Demanding(Published):
        count: int = Field()

    assert rules(Demanding) == {"new required field", "changed default"}


def test_a_required_field_that_becomes_optional_is_found() -> None:
    assert rules(changed(colour=(Colour, Colour.RED))) == {"changed default"}


def test_a_changed_default_is_found() -> None:
    assert rules(changed(count=(int, 4))) == {"changed default"}


def test_a_default_that_is_computed_is_found() -> None:
    assert rules(changed(added=(int, Field(default_factory=int)))) == {"changed default"}
    assert rules(changed(count=(int, Field(default_factory=int)))) == {"changed default"}
    assert rules(changed(part=(Part, Field(default_factory=lambda: Part(size=1))))) == {"changed default"}


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": Colours},
        {"kind": Literal["fancy"]},
        {"name": Annotated[str, Field(max_length=11, pattern="^[a-z]+$")]},
        {"name": Annotated[str, Field(max_length=10)]},
        {"name": Annotated[str, Field(max_length=10, pattern="^[a-z0-9]+$")]},
        {"name": Annotated[str, Field(min_length=1, max_length=10, pattern="^[a-z]+$")]},
        {"labels": dict[Annotated[str, Field(pattern="^[A-Z]+$")], str]},
        {"labels": dict[str, str]},
    ],
    ids=["enum member", "const", "longer", "pattern gone", "pattern wider", "bound added", "keys", "any keys"],
)
def test_an_edited_constant_is_found(fields: dict[str, object]) -> None:
    assert rules(changed(**fields)) == {"edited constant"}


def test_values_of_a_mapping_are_looked_into() -> None:
    key = Annotated[str, Field(pattern="^[a-z]+$")]

    assert rules(changed(labels=dict[key, int])) == {"changed type"}


def test_the_kinds_of_a_union_are_looked_into() -> None:
    narrower = Annotated[Annotated[int, Field(ge=0)] | str, Field(union_mode="left_to_right")]

    assert rules(changed(either=narrower)) == {"edited constant"}


def test_a_field_that_is_no_longer_sealed_is_found() -> None:
    class Sealed(Value):
        mail: Personal[str]

    class Plain(BaseModel):
        key: Annotated[str, Field(pattern=r"^[a-z-]+/ten_[0-9a-f]{32}$")]
        sealed: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{38,8000}={0,2}$")]

    class Open(Value):
        mail: Plain

    assert rules(Open, Sealed) == {"edited constant"}


class Moved(Event, type="gate.moved", version=1, aggregate="box", key="box"):
    box: str
    shelf: str


@pytest.mark.parametrize(
    "edit", [{"aggregate": "shelf"}, {"key": "shelf"}, {"owner": "attic"}, {"type": "gate.carried"}, {"version": 2}]
)
def test_what_an_event_is_about_may_not_be_edited(edit: dict[str, object]) -> None:
    today = schema_of(Moved)
    published = today | {"x-paybill": today["x-paybill"] | edit}

    assert {breach.rule for breach in breaches(published, today)} == {"edited constant"}


class Node(Value):
    children: tuple["Node", ...]
    label: Annotated[str, Field(max_length=5)]


class WiderNode(Value):
    children: tuple["WiderNode", ...]
    label: Annotated[str, Field(max_length=6)]


def test_a_schema_that_holds_itself_is_compared_once() -> None:
    assert rules(WiderNode, Node) == {"edited constant"}
    assert rules(Node, Node) == set()


def test_a_breach_says_where_and_what() -> None:
    found = breaches(Published.model_json_schema(), changed(count=(int, 4)).model_json_schema())

    assert [breach.line() for breach in found] == [
        ".count: the default was 3, is 4: old facts would mean something new (changed default)"
    ]
