"""The committed schemas and samples are complete and compatible with the current classes."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from paybill_contracts.__main__ import ROOT, main
from paybill_contracts.event import Event, Value, encode, upcaster
from paybill_contracts.published import Published, sample_problems
from paybill_contracts.schemas import NoSampleError, name_of, published_events, sample_of, schema_of, schema_problems
from pydantic import Field

Word = Annotated[str, Field(examples=["word"])]


class Painted(Event, type="gate.painted", version=1, aggregate="panel", key="panel"):
    """A panel was painted."""

    panel: Word
    colour: Word
    coats: int = 1


class Built(Event, type="gate.built", version=2, aggregate="panel", key="panel"):
    """A panel was built; version 1 has other field names and the height in metres."""

    panel: Word
    height_mm: int


@upcaster("gate.built", 1)
def _built(fields: dict[str, object]) -> dict[str, object]:
    return {"panel": fields["name"], "height_mm": int(str(fields["height_m"])) * 1000}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """Returns the committed files of `Painted`."""
    files = Published(tmp_path, [Painted])
    files.update()
    return files


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_published_schemas_are_compatible_with_the_classes() -> None:
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


def test_update_writes_missing_files_once(published: Published, tmp_path: Path) -> None:
    assert published.check() == []
    assert published.update() == []
    assert json.loads((tmp_path / "schemas/gate.painted.v1.json").read_text()) == schema_of(Painted)


@pytest.mark.parametrize("folder", ["schemas", "samples"])
def test_a_missing_file_is_reported(published: Published, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "gate.painted.v1.json").unlink()

    [problem] = published.check()

    assert problem.startswith(f"{folder}/gate.painted.v1.json is missing: run ")


@pytest.mark.parametrize("folder", ["schemas", "samples"])
def test_a_file_without_a_class_is_reported(published: Published, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "gate.forgotten.v1.json").write_text("{}")

    assert published.check() == [
        f"{folder}/gate.forgotten.v1.json has no class: published events stay readable, so restore the class"
    ]


def test_a_version_without_a_class_is_reported(published: Published, tmp_path: Path) -> None:
    (tmp_path / "schemas/gate.painted.v2.json").write_text("{}")

    assert "gate.painted.v2.json has no class" in published.check()[0]


def test_an_incompatible_change_is_reported_and_never_overwritten(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "schemas/gate.painted.v1.json"
    schema = json.loads(path.read_text())
    schema["properties"]["finish"] = {"type": "string"}
    path.write_text(json.dumps(schema))
    before = path.read_text()

    assert published.update() == []
    assert path.read_text() == before
    [problem] = published.check()
    assert problem.startswith("gate.painted.v1.finish: consumers rely on it (removed field): undo the change")


def test_a_compatible_change_is_reported_and_written_by_update(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "schemas/gate.painted.v1.json"
    schema = json.loads(path.read_text())
    del schema["properties"]["coats"]
    path.write_text(json.dumps(schema))

    assert "is older than its class" in published.check()[0]
    assert published.update() == ["schemas/gate.painted.v1.json"]
    assert published.check() == []


def test_a_file_that_is_not_json_is_reported(published: Published, tmp_path: Path) -> None:
    (tmp_path / "schemas/gate.painted.v1.json").write_text("{")

    assert "is not JSON" in published.check()[0]


def test_a_sample_is_never_overwritten(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "samples/gate.painted.v1.json"
    path.write_bytes(b'{"colour":"red","panel":"north"}\n')

    assert published.update() == []
    assert path.read_bytes() == b'{"colour":"red","panel":"north"}\n'


def test_a_sample_without_a_field_that_was_added_later_is_valid(published: Published, tmp_path: Path) -> None:
    (tmp_path / "samples/gate.painted.v1.json").write_bytes(b'{"colour":"red","panel":"north"}\n')

    assert published.check() == []


def test_a_sample_that_cannot_be_read_any_more_is_reported() -> None:
    assert sample_problems("gate.painted.v1", b'{"panel":"north"}') == [
        "samples/gate.painted.v1.json cannot be read: gate.painted v1: colour: it is required"
    ]


@pytest.mark.parametrize(
    "sample",
    [
        b'{"panel":"north","colour":"red"}',
        b'{"colour": "red","panel":"north"}',
        b'{"colour":"red","panel":"north","x":1}',
    ],
)
def test_a_sample_that_is_now_written_differently_is_reported(sample: bytes) -> None:
    [problem] = sample_problems("gate.painted.v1", sample)

    assert "is now written differently" in problem


def test_an_old_version_needs_its_files_and_is_read_through_its_upcaster(tmp_path: Path) -> None:
    files = Published(tmp_path, [Built])
    files.update()

    assert [problem.partition(":")[0] for problem in files.check()] == [
        "schemas/gate.built.v1.json is missing",
        "samples/gate.built.v1.json is missing",
    ]

    (tmp_path / "schemas/gate.built.v1.json").write_text("{}")
    (tmp_path / "samples/gate.built.v1.json").write_bytes(b'{"height_m":2,"name":"north"}')

    assert files.check() == []


def test_an_old_sample_that_its_upcaster_cannot_read_is_reported() -> None:
    assert sample_problems("gate.built.v1", b'{"name":"north"}') == [
        "samples/gate.built.v1.json cannot be read: gate.built v1: not the payload of this version"
    ]


def test_a_float_is_reported() -> None:
    class Weighed(Value):
        kilos: float

    class Inside(Value):
        parts: tuple[Weighed | None, ...]

    assert list(schema_problems(Weighed.model_json_schema())) == [
        ".kilos: floats are not exact; use a whole number with its unit in the name"
    ]
    assert "floats are not exact" in next(schema_problems(Inside.model_json_schema()))


def test_a_field_without_a_type_is_reported() -> None:
    class Loose(Value):
        anything: object
        more: dict[str, object]

    assert [problem.partition(":")[0] for problem in schema_problems(Loose.model_json_schema())] == [".anything"]


def test_a_field_without_an_example_is_reported(tmp_path: Path) -> None:
    class Nameless(Event, type="gate.nameless", version=1, aggregate="panel", key="panel"):
        panel: str

    with pytest.raises(NoSampleError, match=r"gate.nameless.v1.panel: give the field an example"):
        Published(tmp_path, [Nameless]).update()


def test_examples_that_make_no_valid_event_are_reported(tmp_path: Path) -> None:
    class Contrary(Event, type="gate.contrary", version=1, aggregate="panel", key="panel"):
        panel: Annotated[str, Field(max_length=2, examples=["too long"])]

    with pytest.raises(NoSampleError, match="the examples of Contrary do not make an event"):
        Published(tmp_path, [Contrary]).update()


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_a_schema_names_type_owner_and_key_of_its_event(event: type[Event]) -> None:
    about = schema_of(event)["x-paybill"]

    assert about["type"].startswith(f"{about['owner']}.")
    assert about["key"] in schema_of(event)["properties"]
    assert encode(event.model_validate_json(json.dumps(sample_of(event))))


def test_the_command_checks_and_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest = {name_of(event) for event in published_events()}
    for path in ROOT.glob("s*/*.json"):
        if path.stem not in latest:  # of an earlier version, whose class is deleted
            (tmp_path / path.parent.name).mkdir(exist_ok=True)
            (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert main(["check", "--root", str(tmp_path)]) == 1
    assert "is missing" in capsys.readouterr().err
    assert main(["update", "--root", str(tmp_path)]) == 0
    assert "wrote schemas/tenant.tenant_requested.v1.json" in capsys.readouterr().out
    assert main(["check", "--root", str(tmp_path)]) == 0
