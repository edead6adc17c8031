"""The committed schemas and samples: complete, unbroken, and still read and written the same."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from paybill_contracts.__main__ import ROOT, main
from paybill_contracts.event import Event, Value, encode, upcaster
from paybill_contracts.published import Published, sample_faults
from paybill_contracts.schemas import NoSampleError, faults_of, published_events, sample_of, schema_of
from pydantic import Field

Word = Annotated[str, Field(examples=["word"])]


class Painted(Event, type="gate.painted", version=1, aggregate="wall", key="wall"):
    """A wall got a colour."""

    wall: Word
    colour: Word
    coats: int = 1


class Built(Event, type="gate.built", version=2, aggregate="wall", key="wall"):
    """A wall stands; version 1 called it by another name and gave its height in metres."""

    wall: Word
    height_mm: int


@upcaster("gate.built", 1)
def _built(fields: dict[str, object]) -> dict[str, object]:
    return {"wall": fields["name"], "height_mm": int(str(fields["height_m"])) * 1000}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """The files of `Painted`, as if committed."""
    gate = Published(tmp_path, [Painted])
    gate.update()
    return gate


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_this_package_publishes_keeps_its_promises() -> None:
    assert Published(ROOT, published_events()).check() == []


def test_the_events_of_every_module_are_published() -> None:
    types = {event.TYPE for event in published_events()}

    assert {
        "tenant.tenant_requested",
        "billing.entitlements_set",
        "provisioner.environment_ready",
        "usage.recorded",
    } <= types
    assert not {type_ for type_ in types if type_.startswith("gate.")}


def test_an_update_writes_what_is_missing_and_then_nothing(published: Published, tmp_path: Path) -> None:
    assert published.check() == []
    assert published.update() == []
    assert json.loads((tmp_path / "schemas/gate.painted.v1.json").read_text()) == schema_of(Painted)


@pytest.mark.parametrize("folder", ["schemas", "samples"])
def test_a_missing_file_is_found(published: Published, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "gate.painted.v1.json").unlink()

    [fault] = published.check()

    assert fault.startswith(f"{folder}/gate.painted.v1.json is missing: run ")


@pytest.mark.parametrize("folder", ["schemas", "samples"])
def test_a_file_without_a_class_is_found(published: Published, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "gate.forgotten.v1.json").write_text("{}")

    assert published.check() == [
        f"{folder}/gate.forgotten.v1.json has no class: what was published is read for ever, so bring it back"
    ]


def test_a_version_without_a_class_is_found(published: Published, tmp_path: Path) -> None:
    (tmp_path / "schemas/gate.painted.v2.json").write_text("{}")

    assert "gate.painted.v2.json has no class" in published.check()[0]


def test_a_broken_promise_is_found_and_never_overwritten(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "schemas/gate.painted.v1.json"
    schema = json.loads(path.read_text())
    schema["properties"]["finish"] = {"type": "string"}
    path.write_text(json.dumps(schema))
    before = path.read_text()

    assert published.update() == []
    assert path.read_text() == before
    [fault] = published.check()
    assert fault.startswith("gate.painted.v1.finish: readers rely on it (removed field): leave it as it was")


def test_an_allowed_change_is_asked_for_and_written_by_an_update(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "schemas/gate.painted.v1.json"
    schema = json.loads(path.read_text())
    del schema["properties"]["coats"]
    path.write_text(json.dumps(schema))

    assert "is older than its class" in published.check()[0]
    assert published.update() == ["schemas/gate.painted.v1.json"]
    assert published.check() == []


def test_a_file_that_is_not_json_is_found(published: Published, tmp_path: Path) -> None:
    (tmp_path / "schemas/gate.painted.v1.json").write_text("{")

    assert "is not JSON" in published.check()[0]


def test_a_sample_is_never_overwritten(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "samples/gate.painted.v1.json"
    path.write_bytes(b'{"colour":"red","wall":"north"}\n')

    assert published.update() == []
    assert path.read_bytes() == b'{"colour":"red","wall":"north"}\n'


def test_a_sample_from_before_a_field_was_added_still_holds(published: Published, tmp_path: Path) -> None:
    (tmp_path / "samples/gate.painted.v1.json").write_bytes(b'{"colour":"red","wall":"north"}\n')

    assert published.check() == []


def test_a_sample_that_is_not_read_any_more_is_found() -> None:
    assert sample_faults("gate.painted.v1", b'{"wall":"north"}') == [
        "samples/gate.painted.v1.json is not read any more: gate.painted v1: colour: Field required"
    ]


@pytest.mark.parametrize(
    "sample",
    [b'{"wall":"north","colour":"red"}', b'{"colour": "red","wall":"north"}', b'{"colour":"red","wall":"north","x":1}'],
)
def test_a_sample_that_is_written_differently_today_is_found(sample: bytes) -> None:
    [fault] = sample_faults("gate.painted.v1", sample)

    assert "is written differently today" in fault


def test_an_old_version_needs_its_files_and_is_read_through_its_upcaster(tmp_path: Path) -> None:
    gate = Published(tmp_path, [Built])
    gate.update()

    assert [fault.partition(":")[0] for fault in gate.check()] == [
        "schemas/gate.built.v1.json is missing",
        "samples/gate.built.v1.json is missing",
    ]

    (tmp_path / "schemas/gate.built.v1.json").write_text("{}")
    (tmp_path / "samples/gate.built.v1.json").write_bytes(b'{"height_m":2,"name":"north"}')

    assert gate.check() == []


def test_an_old_sample_that_its_upcaster_cannot_read_is_found() -> None:
    assert sample_faults("gate.built.v1", b'{"name":"north"}') == [
        "samples/gate.built.v1.json is not read any more: gate.built v1: not the payload of this version"
    ]


def test_a_float_is_found() -> None:
    class Weighed(Value):
        kilos: float

    class Inside(Value):
        parts: tuple[Weighed | None, ...]

    assert list(faults_of(Weighed.model_json_schema())) == [
        ".kilos: floats are not exact; use a whole number with its unit in the name"
    ]
    assert "floats are not exact" in next(faults_of(Inside.model_json_schema()))


def test_a_field_of_which_nothing_is_said_is_found() -> None:
    class Loose(Value):
        anything: object
        more: dict[str, object]

    assert [fault.partition(":")[0] for fault in faults_of(Loose.model_json_schema())] == [".anything"]


def test_a_field_without_an_example_is_found(tmp_path: Path) -> None:
    class Nameless(Event, type="gate.nameless", version=1, aggregate="wall", key="wall"):
        wall: str

    with pytest.raises(NoSampleError, match=r"gate.nameless.v1.wall: give the field an example"):
        Published(tmp_path, [Nameless]).update()


def test_examples_that_make_no_event_are_found(tmp_path: Path) -> None:
    class Contrary(Event, type="gate.contrary", version=1, aggregate="wall", key="wall"):
        wall: Annotated[str, Field(max_length=2, examples=["too long"])]

    with pytest.raises(NoSampleError, match="the examples of Contrary do not make an event"):
        Published(tmp_path, [Contrary]).update()


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_a_schema_says_whose_event_it_is(event: type[Event]) -> None:
    about = schema_of(event)["x-paybill"]

    assert about["type"].startswith(f"{about['owner']}.")
    assert about["key"] in schema_of(event)["properties"]
    assert encode(event.model_validate_json(json.dumps(sample_of(event))))


def test_the_command_checks_and_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--root", str(tmp_path)]) == 1
    assert "is missing" in capsys.readouterr().err
    assert main(["update", "--root", str(tmp_path)]) == 0
    assert "wrote schemas/tenant.tenant_requested.v1.json" in capsys.readouterr().out
    assert main(["check", "--root", str(tmp_path)]) == 0
