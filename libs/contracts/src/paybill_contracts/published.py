"""The committed schemas and samples, one of each for every version of every event, held against today's classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paybill_contracts.compatibility import breaches
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event, canonical, decode, encode
from paybill_contracts.schemas import NoSampleError, Schema, faults_of, name_of, sample_of, schema_of

UPDATE = "run `python -m paybill_contracts update` and commit the file"
RESTORE = "take it back from the history"
NEW_VERSION = "leave it as it was, and make the change in a new version with an upcaster"


class Published:
    """The folders `schemas` and `samples` below `root`."""

    def __init__(self, root: Path, events: Sequence[type[Event]]) -> None:
        self._schemas = root / "schemas"
        self._samples = root / "samples"
        self._events = {name_of(event): event for event in events}
        versions = {event.TYPE: max(e.VERSION for e in events if e.TYPE == event.TYPE) for event in events}
        self._names = [f"{type_}.v{number}" for type_, latest in versions.items() for number in range(1, latest + 1)]
        """Of all versions that were ever published: a class may go when its upcaster stays."""

    def check(self) -> list[str]:
        """What is wrong, a line each; empty when all promises are kept."""
        return [
            *(fault for name in self._names for fault in self._schema_faults(name)),
            *(fault for name in self._names for fault in self._sample_faults(name)),
            *self._strangers(),
        ]

    def update(self) -> list[str]:
        """Write what is missing and what may change; what may not is left alone and said by `check` afterwards."""
        written = []
        for folder in (self._schemas, self._samples):
            folder.mkdir(parents=True, exist_ok=True)
        for name, event in self._events.items():
            path, today = self._schemas / f"{name}.json", schema_of(event)
            if not path.exists() or (_read(path) != today and not breaches(_read(path), today)):
                path.write_text(_pretty(today), encoding="utf-8")
                written.append(f"schemas/{path.name}")
            path = self._samples / f"{name}.json"
            if not path.exists():
                path.write_bytes(_sample(event) + b"\n")
                written.append(f"samples/{path.name}")
        return written

    def _schema_faults(self, name: str) -> list[str]:
        path = self._schemas / f"{name}.json"
        if not path.exists():
            return [f"schemas/{name}.json is missing: {UPDATE if name in self._events else RESTORE}"]
        try:
            published = _read(path)
        except ValueError as error:
            return [f"schemas/{name}.json is not JSON ({error}): {RESTORE}"]
        if name not in self._events:
            return []
        today = schema_of(self._events[name])
        faults = [f"{name}{breach.line()}: {NEW_VERSION}" for breach in breaches(published, today)]
        faults += [f"{name}{fault}" for fault in faults_of(today)]
        if not faults and published != today:
            faults.append(f"schemas/{name}.json is older than its class: {UPDATE}")
        return faults

    def _sample_faults(self, name: str) -> list[str]:
        path = self._samples / f"{name}.json"
        if not path.exists():
            return [f"samples/{name}.json is missing: {UPDATE if name in self._events else RESTORE}"]
        return sample_faults(name, path.read_bytes().removesuffix(b"\n"))

    def _strangers(self) -> list[str]:
        """Files of events that nobody knows any more."""
        return [
            f"{folder.name}/{path.name} has no class: what was published is read for ever, so bring it back"
            for folder in (self._schemas, self._samples)
            for path in sorted(folder.iterdir() if folder.exists() else ())
            if path.name.removesuffix(".json") not in self._names
        ]


def sample_faults(name: str, sample: bytes) -> list[str]:
    """Whether today's classes and upcasters still read a stored payload, and write the same again."""
    type_, _, version = name.rpartition(".v")
    try:
        event = decode(type_, int(version), sample)
    except DomainError as error:
        return [f"samples/{name}.json is not read any more: {error}"]
    # What the sample does not have was added later, and has its default.
    again = canonical(event.model_dump(mode="json", exclude_unset=True))
    if int(version) == event.VERSION and again != sample:
        return [f"samples/{name}.json is written differently today: {again.decode()[:200]}"]
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
