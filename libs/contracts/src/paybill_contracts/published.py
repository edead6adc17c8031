"""Committed schemas and samples of every version of every event, compared with the current classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paybill_contracts.compatibility import breaches
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event, canonical, decode, encode
from paybill_contracts.schemas import NoSampleError, Schema, name_of, sample_of, schema_of, schema_problems

UPDATE = "run `python -m paybill_contracts update` and commit the file"
RESTORE = "restore it from the history"
NEW_VERSION = "undo the change, and make it in a new version with an upcaster"


class Published:
    """The folders `schemas` and `samples` below `root`."""

    def __init__(self, root: Path, events: Sequence[type[Event]]) -> None:
        self._schemas = root / "schemas"
        self._samples = root / "samples"
        self._events = {name_of(event): event for event in events}
        versions = {event.TYPE: max(e.VERSION for e in events if e.TYPE == event.TYPE) for event in events}
        self._names = [f"{type_}.v{number}" for type_, latest in versions.items() for number in range(1, latest + 1)]
        """All versions ever published: a class may be deleted when its upcaster stays."""

    def check(self) -> list[str]:
        """Returns one line for each problem."""
        return [
            *(problem for name in self._names for problem in self._schema_problems(name)),
            *(problem for name in self._names for problem in self._sample_problems(name)),
            *self._orphaned_files(),
        ]

    def update(self) -> list[str]:
        """Writes missing files and compatible changes, and returns their names; `check` reports the rest."""
        written = []
        for folder in (self._schemas, self._samples):
            folder.mkdir(parents=True, exist_ok=True)
        for name, event in self._events.items():
            path, current = self._schemas / f"{name}.json", schema_of(event)
            if not path.exists() or (_read(path) != current and not breaches(_read(path), current)):
                path.write_text(_pretty(current), encoding="utf-8")
                written.append(f"schemas/{path.name}")
            path = self._samples / f"{name}.json"
            if not path.exists():
                path.write_bytes(_sample(event) + b"\n")
                written.append(f"samples/{path.name}")
        return written

    def _schema_problems(self, name: str) -> list[str]:
        path = self._schemas / f"{name}.json"
        if not path.exists():
            return [f"schemas/{name}.json is missing: {UPDATE if name in self._events else RESTORE}"]
        try:
            published = _read(path)
        except ValueError as error:
            return [f"schemas/{name}.json is not JSON ({error}): {RESTORE}"]
        if name not in self._events:
            return []
        current = schema_of(self._events[name])
        problems = [f"{name}{breach.line()}: {NEW_VERSION}" for breach in breaches(published, current)]
        problems += [f"{name}{problem}" for problem in schema_problems(current)]
        if not problems and published != current:
            problems.append(f"schemas/{name}.json is older than its class: {UPDATE}")
        return problems

    def _sample_problems(self, name: str) -> list[str]:
        path = self._samples / f"{name}.json"
        if not path.exists():
            return [f"samples/{name}.json is missing: {UPDATE if name in self._events else RESTORE}"]
        return sample_problems(name, path.read_bytes().removesuffix(b"\n"))

    def _orphaned_files(self) -> list[str]:
        """Returns a line for each file without an event class."""
        return [
            f"{folder.name}/{path.name} has no class: published events stay readable, so restore the class"
            for folder in (self._schemas, self._samples)
            for path in sorted(folder.iterdir() if folder.exists() else ())
            if path.name.removesuffix(".json") not in self._names
        ]


def sample_problems(name: str, sample: bytes) -> list[str]:
    """Checks that the current classes and upcasters read a stored payload and write the same bytes."""
    type_, _, version = name.rpartition(".v")
    try:
        event = decode(type_, int(version), sample)
    except DomainError as error:
        return [f"samples/{name}.json cannot be read: {error}"]
    # Fields that the sample does not have were added later with a default.
    again = canonical(event.model_dump(mode="json", exclude_unset=True))
    if int(version) == event.VERSION and again != sample:
        return [f"samples/{name}.json is now written differently: {again.decode()[:200]}"]
    return []


def _sample(event: type[Event]) -> bytes:
    try:
        return encode(event.model_validate_json(canonical(sample_of(event))))
    except ValueError as error:
        raise NoSampleError(f"the examples of {event.__name__} do not make an event: {error}") from error


def _read(path: Path) -> Schema:
    published: Schema = json.loads(path.read_bytes())
    return published


def _pretty(schema: Any) -> str:
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
