"""Compatibility of a published schema with the current one: only optional fields may be added."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paybill_contracts.schemas import Schema, resolve

_ANNOTATIONS = {"description", "examples", "title", "$schema", "$defs", "discriminator"}
"""Documentation, or names inside the file: they may change."""
_LISTS = ("anyOf", "oneOf", "prefixItems")
_COMPARED = {"$ref", "properties", "required", "type", "default", *_LISTS}
_SUBSCHEMAS = {"patternProperties", "additionalProperties", "items"}


@dataclass(frozen=True, slots=True)
class Breach:
    """An incompatible change of a published schema, of the kind `rule`, at `path`."""

    rule: str
    path: str
    detail: str

    def line(self) -> str:
        """Returns the text for people."""
        return f"{self.path}: {self.detail} ({self.rule})"


def breaches(published: Schema, current: Schema) -> list[Breach]:
    """Returns the changes that break a consumer or a publisher of the `published` schema."""
    return list(_compare("", published, current, published, current, frozenset()))


def _compare(
    path: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema, visited: frozenset[tuple[Any, Any]]
) -> Iterator[Breach]:
    pair = (old.get("$ref"), new.get("$ref"))
    if pair in visited:
        return
    visited = visited | {pair} if all(pair) else visited
    old, new = resolve(old, old_root), resolve(new, new_root)
    here = path or "payload"
    yield from _types(here, old, new, old_root, new_root)
    yield from _defaults(here, old, new)
    yield from _constants(here, old, new)
    yield from _fields(path, old, new)
    for step, before, after in _pairs(old, new):
        yield from _compare(f"{path}{step}", before, after, old_root, new_root, visited)


def _types(path: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> Iterator[Breach]:
    before, after = _kinds(old, old_root), _kinds(new, new_root)
    if before != after:
        rule = "narrowed type" if after < before else "changed type"
        yield Breach(rule, path, f"it was {_either(before)}, is {_either(after)}")


def _kinds(node: Schema, root: Schema) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for keyword in ("anyOf", "oneOf"):
        for child in node.get(keyword, ()):
            kinds += _kinds(resolve(child, root), root)
    return kinds or Counter([str(node.get("type"))])


def _either(kinds: Counter[str]) -> str:
    return " or ".join(sorted(kinds.elements()))


def _defaults(path: str, old: Schema, new: Schema) -> Iterator[Breach]:
    if ("default" in old, old.get("default")) != ("default" in new, new.get("default")):
        before, after = (repr(node["default"]) if "default" in node else "none" for node in (old, new))
        yield Breach(
            "changed default", path, f"the default was {before}, is {after}: old events would change their meaning"
        )


def _constants(path: str, old: Schema, new: Schema) -> Iterator[Breach]:
    for keyword in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _COMPARED):
        before, after = _constant(keyword, old.get(keyword)), _constant(keyword, new.get(keyword))
        if before != after:
            yield Breach("edited constant", path, f"{keyword} was {before!r}, is {after!r}")


def _constant(keyword: str, value: Any) -> Any:
    """Returns the part of a keyword that must not change: only the names of schemas that are compared separately."""
    if keyword in _SUBSCHEMAS and isinstance(value, dict):
        return sorted(value) if keyword == "patternProperties" else "a schema"
    return {key: item for key, item in value.items() if key not in _ANNOTATIONS} if isinstance(value, dict) else value


def _fields(path: str, old: Schema, new: Schema) -> Iterator[Breach]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        at = f"{path}.{name}"
        if name not in after:
            yield Breach("removed field", at, "consumers rely on it")
        elif name in needed_after - needed_before:
            yield Breach("new required field", at, "it was optional: old events do not have it")
        elif name in needed_before - needed_after and "default" not in after[name]:
            yield Breach("changed default", at, "it was required: consumers rely on it")
    for name in after.keys() - before.keys():
        at = f"{path}.{name}"
        if name in needed_after:
            yield Breach("new required field", at, "old events do not have it: give it a constant default")
        elif "default" not in after[name]:
            yield Breach("changed default", at, "a new field needs a default that is constant, not computed")


def _pairs(old: Schema, new: Schema) -> Iterator[tuple[str, Schema, Schema]]:
    """Yields the subschemas that both have."""
    for keyword, step in (("properties", "."), ("patternProperties", ".*")):
        before, after = old.get(keyword, {}), new.get(keyword, {})
        for name in before.keys() & after.keys():
            yield (f"{step}{name}" if keyword == "properties" else step), before[name], after[name]
    for keyword, step in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(old.get(keyword), dict) and isinstance(new.get(keyword), dict):
            yield step, old[keyword], new[keyword]
    for keyword in _LISTS:
        for number, (before, after) in enumerate(zip(old.get(keyword, ()), new.get(keyword, ()), strict=False)):
            yield f"<{number}>", before, after
