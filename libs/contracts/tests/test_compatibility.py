"""Compatible and incompatible changes of a published schema."""

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
    """The published version."""

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
    """Returns `Published` with these fields redeclared: annotation, or annotation and default."""
    defaults = {name: item[1] for name, item in fields.items() if isinstance(item, tuple)}
    hints = {name: item[0] if isinstance(item, tuple) else item for name, item in fields.items()}
    return type("Changed", (Published,), {"__annotations__": hints, "__module__": __name__, **defaults})


def without(name: str) -> type[BaseModel]:
    kept = {key: hint for key, hint in Published.__annotations__.items() if key != name}
    defaults = {key: getattr(Published.model_fields[key], "default", ...) for key in ("count", "note") if key in kept}
    return type("Without", (Value,), {"__annotations__": kept, "__module__": __name__, **defaults})


def test_an_unchanged_schema_is_compatible() -> None:
    assert rules(Published) == set()


def test_an_optional_field_with_a_constant_default_may_be_added() -> None:
    assert rules(changed(added=(int, 0))) == set()
    assert rules(changed(added=(str | None, None))) == set()


def test_descriptions_and_examples_may_change() -> None:
    class Reworded(Published):
        """Another description."""

        name: Annotated[str, Field(max_length=10, pattern="^[a-z]+$", description="new", examples=["abc"])]

    assert rules(Reworded) == set()


def test_a_removed_field_is_reported() -> None:
    assert rules(without("colour")) == {"removed field"}
    assert rules(without("note")) == {"removed field"}


def test_a_removed_field_of_a_part_is_reported() -> None:
    class Hollow(Value):
        pass

    found = breaches(Published.model_json_schema(), changed(part=Hollow).model_json_schema())

    assert [(breach.rule, breach.path) for breach in found] == [("removed field", ".part.size")]


@pytest.mark.parametrize("hint", [str, None], ids=["no longer null", "only null"])
def test_a_narrowed_type_is_reported(hint: object) -> None:
    assert "narrowed type" in rules(changed(note=hint))


def test_a_changed_type_is_reported() -> None:
    assert rules(changed(count=(str, "3"))) == {"changed type", "changed default"}
    assert rules(changed(parts=tuple[int, ...])) >= {"changed type"}
    assert "changed type" in rules(changed(part=Part | None))
    assert "changed type" in rules(changed(note=Personal[str]))


def test_a_new_required_field_is_reported() -> None:
    assert rules(changed(added=int)) == {"new required field"}


def test_an_optional_field_that_becomes_required_is_reported() -> None:
    class Demanding(Published):
        count: int = Field()

    assert rules(Demanding) == {"new required field", "changed default"}


def test_a_required_field_that_becomes_optional_is_reported() -> None:
    assert rules(changed(colour=(Colour, Colour.RED))) == {"changed default"}


def test_a_changed_default_is_reported() -> None:
    assert rules(changed(count=(int, 4))) == {"changed default"}


def test_a_default_that_is_computed_is_reported() -> None:
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
def test_an_edited_constant_is_reported(fields: dict[str, object]) -> None:
    assert rules(changed(**fields)) == {"edited constant"}


def test_values_of_a_mapping_are_compared() -> None:
    key = Annotated[str, Field(pattern="^[a-z]+$")]

    assert rules(changed(labels=dict[key, int])) == {"changed type"}


def test_variants_of_a_union_are_compared() -> None:
    narrower = Annotated[Annotated[int, Field(ge=0)] | str, Field(union_mode="left_to_right")]

    assert rules(changed(either=narrower)) == {"edited constant"}


def test_a_field_that_is_no_longer_sealed_is_reported() -> None:
    class Sealed(Value):
        mail: Personal[str]

    class Plain(BaseModel):
        key: Annotated[str, Field(pattern=r"^[a-z-]+/ten_[0-9a-f]{32}$")]
        sealed: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{38,8000}={0,2}$")]

    class Open(Value):
        mail: Plain

    assert rules(Open, Sealed) == {"edited constant"}


class Shipped(Event, type="gate.shipped", version=1, aggregate="box", key="box"):
    box: str
    shelf: str


@pytest.mark.parametrize(
    "edit", [{"aggregate": "shelf"}, {"key": "shelf"}, {"owner": "attic"}, {"type": "gate.carried"}, {"version": 2}]
)
def test_type_owner_and_aggregate_of_an_event_are_permanent(edit: dict[str, object]) -> None:
    current = schema_of(Shipped)
    published = current | {"x-paybill": current["x-paybill"] | edit}

    assert {breach.rule for breach in breaches(published, current)} == {"edited constant"}


class Node(Value):
    children: tuple["Node", ...]
    label: Annotated[str, Field(max_length=5)]


class WiderNode(Value):
    children: tuple["WiderNode", ...]
    label: Annotated[str, Field(max_length=6)]


def test_a_recursive_schema_is_compared_once() -> None:
    assert rules(WiderNode, Node) == {"edited constant"}
    assert rules(Node, Node) == set()


def test_a_breach_names_path_change_and_rule() -> None:
    found = breaches(Published.model_json_schema(), changed(count=(int, 4)).model_json_schema())

    assert [breach.line() for breach in found] == [
        ".count: the default was 3, is 4: old events would change their meaning (changed default)"
    ]
