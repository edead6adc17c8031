"""What an event is to those who do not read Python: a JSON Schema, and a sample made of its fields' examples."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, cast

import paybill_contracts
from paybill_contracts.event import Event, known_events
from paybill_contracts.operations import RequestRefused

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SAYS_WHAT_IT_IS = ("type", "enum", "const", "anyOf", "oneOf", "$ref")


def published_events() -> list[type[Event]]:
    """Every event of this package, whatever module it is in, by type and version."""
    for module in iter_modules(paybill_contracts.__path__):
        if not module.name.startswith("_"):
            import_module(f"{paybill_contracts.__name__}.{module.name}")
    return [event for event in known_events() if event.__module__.startswith(f"{paybill_contracts.__name__}.")]


def name_of(event: type[Event]) -> str:
    """`<type>.v<n>`: what its files are called."""
    return f"{event.TYPE}.v{event.VERSION}"


def contexts(events: Sequence[type[Event]]) -> set[str]:
    """Our services: they decide, so they record refusals. What others own is only offered, through the intake."""
    return {event.OWNER for event in events if issubclass(event, RequestRefused)}


def schema_of(event: type[Event]) -> Schema:
    """The JSON Schema of an event's payload; `x-paybill` says whose it is and what it happened to."""
    return {
        "$schema": _DIALECT,
        "$id": f"paybill:{event.TYPE}:v{event.VERSION}",
        **untitled(event.model_json_schema()),
        "title": event.__name__,
        "x-paybill": {
            "type": event.TYPE,
            "version": event.VERSION,
            "owner": event.OWNER,
            "aggregate": event.AGGREGATE,
            "key": event.KEY,
        },
    }


def untitled(node: Schema) -> Schema:
    """The schema without the titles that pydantic makes of field names: they say nothing new."""
    return cast("Schema", _untitled(node))


def _untitled(node: Any) -> Any:
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
    return {key: _untitled(value) for key, value in kept.items()}


def faults_of(schema: Schema) -> Iterator[str]:
    """What no schema of ours may hold: floats, and values of which nothing is said."""
    for path, node in _nodes("", schema, schema):
        if "number" in _types(node):
            yield f"{path}: floats are not exact; use a whole number with its unit in the name"
        if not any(keyword in node for keyword in _SAYS_WHAT_IT_IS):
            yield f"{path}: anything could be here; give the field a type"


def _nodes(path: str, node: Schema, root: Schema, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Schema]]:
    """Every schema inside a schema, with where it is; references are followed once on each way."""
    reference = node.get("$ref")
    if reference in seen:
        return
    here = resolve(node, root)
    yield path or "payload", here
    behind = (*seen, reference) if isinstance(reference, str) else seen
    for step, child in children(here):
        yield from _nodes(f"{path}{step}", child, root, behind)


def children(node: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas directly below one, with the step that leads there."""
    for name, child in node.get("properties", {}).items():
        yield f".{name}", child
    for child in node.get("patternProperties", {}).values():
        yield ".*", child
    if isinstance(node.get("additionalProperties"), dict):
        yield ".*", node["additionalProperties"]
    if "items" in node:
        yield "[]", node["items"]
    for keyword in ("anyOf", "oneOf", "prefixItems"):
        for number, child in enumerate(node.get(keyword, ())):
            yield f"<{number}>", child


def resolve(node: Schema, root: Schema) -> Schema:
    """The schema that a reference stands for; keywords beside the reference are added to it."""
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return node
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return {**root["$defs"][reference.removeprefix("#/$defs/")], **beside}


def _types(node: Schema) -> Sequence[str]:
    said = node.get("type", [])
    return [said] if isinstance(said, str) else said


class NoSampleError(Exception):
    """A field has no example, and none can be made of its type alone."""


def sample_of(event: type[Event]) -> Any:
    """A payload made of the fields' examples: every optional part is there, every kind of a union once."""
    schema = event.model_json_schema()
    return _sample(name_of(event), schema, schema)


def _sample(path: str, node: Schema, root: Schema) -> Any:
    node = resolve(node, root)
    if "const" in node:
        return node["const"]
    if "examples" in node:
        return node["examples"][0]
    if "enum" in node:
        return node["enum"][0]
    for keyword in ("oneOf", "anyOf"):
        if keyword in node:
            return _sample(path, node[keyword][0], root)
    match node.get("type"):
        case "object":
            return _object(path, node, root)
        case "array":
            item = resolve(node["items"], root)
            return [_sample(f"{path}[]", kind, root) for kind in item.get("oneOf", [item])]
        case "boolean":
            return True
        case "integer":
            return max(node.get("minimum", 1), 1)
        case _:
            raise NoSampleError(f"{path}: give the field an example, Field(examples=[…])")


def _object(path: str, node: Schema, root: Schema) -> Schema:
    made = {name: _sample(f"{path}.{name}", child, root) for name, child in node.get("properties", {}).items()}
    for child in (*node.get("patternProperties", {}).values(), node.get("additionalProperties")):
        if isinstance(child, dict):
            name = node.get("propertyNames", {}).get("examples", ["key"])[0]
            made[name] = _sample(f"{path}.*", child, root)
    return made
