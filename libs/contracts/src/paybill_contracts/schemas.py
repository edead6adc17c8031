"""JSON Schemas of the events, and samples made of the fields' examples."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, cast

import paybill_contracts
from paybill_contracts.event import Event, known_events
from paybill_contracts.operations import RequestRefused

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPE_KEYWORDS = ("type", "enum", "const", "anyOf", "oneOf", "$ref")


def published_events() -> list[type[Event]]:
    """Returns every event of this package, ordered by type and version."""
    for module in iter_modules(paybill_contracts.__path__):
        if not module.name.startswith("_"):
            import_module(f"{paybill_contracts.__name__}.{module.name}")
    return [event for event in known_events() if event.__module__.startswith(f"{paybill_contracts.__name__}.")]


def name_of(event: type[Event]) -> str:
    """Returns `<type>.v<n>`, the name of the event's files."""
    return f"{event.TYPE}.v{event.VERSION}"


def contexts(events: Sequence[type[Event]]) -> set[str]:
    """Returns the names of our services: those that record refusals. Other owners only submit through the intake."""
    return {event.OWNER for event in events if issubclass(event, RequestRefused)}


def schema_of(event: type[Event]) -> Schema:
    """Returns the JSON Schema of an event's payload; `x-paybill` names its type, owner and aggregate."""
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
    """Returns the schema without the titles that pydantic derives from field names."""
    return cast("Schema", _untitled(node))


def _untitled(node: Any) -> Any:
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
    return {key: _untitled(value) for key, value in kept.items()}


def schema_problems(schema: Schema) -> Iterator[str]:
    """Returns the forbidden parts of a schema: floats, and values without a type."""
    for path, node in _nodes("", schema, schema):
        if "number" in _types(node):
            yield f"{path}: floats are not exact; use a whole number with its unit in the name"
        if not any(keyword in node for keyword in _TYPE_KEYWORDS):
            yield f"{path}: it has no type; give the field one"


def _nodes(path: str, node: Schema, root: Schema, visited: tuple[str, ...] = ()) -> Iterator[tuple[str, Schema]]:
    """Yields every subschema with its path; on each path a reference is resolved once."""
    reference = node.get("$ref")
    if reference in visited:
        return
    resolved = resolve(node, root)
    yield path or "payload", resolved
    visited = (*visited, reference) if isinstance(reference, str) else visited
    for step, child in children(resolved):
        yield from _nodes(f"{path}{step}", child, root, visited)


def children(node: Schema) -> Iterator[tuple[str, Schema]]:
    """Yields the direct subschemas, each with its path step."""
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
    """Returns the schema that a reference names, with the keywords that stand next to the reference."""
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return node
    siblings = {key: value for key, value in node.items() if key != "$ref"}
    return {**root["$defs"][reference.removeprefix("#/$defs/")], **siblings}


def _types(node: Schema) -> Sequence[str]:
    types = node.get("type", [])
    return [types] if isinstance(types, str) else types


class NoSampleError(Exception):
    """A field has no example, and its type alone does not give one."""


def sample_of(event: type[Event]) -> Any:
    """Returns a payload made of the fields' examples, with every optional part, and every kind of a union once."""
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
    sample = {name: _sample(f"{path}.{name}", child, root) for name, child in node.get("properties", {}).items()}
    for child in (*node.get("patternProperties", {}).values(), node.get("additionalProperties")):
        if isinstance(child, dict):
            name = node.get("propertyNames", {}).get("examples", ["key"])[0]
            sample[name] = _sample(f"{path}.*", child, root)
    return sample
