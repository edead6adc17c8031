"""Whether a schema that others rely on still keeps its promise: it may gain optional fields, and nothing else."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paybill_contracts.schemas import Schema, resolve

_WORDS = {"description", "examples", "title", "$schema", "$defs", "discriminator"}
"""Said for people, or only a name inside the file: they may change."""
_LISTS = ("anyOf", "oneOf", "prefixItems")
_INSIDE = {"$ref", "properties", "required", "type", "default", *_LISTS}
_NAMED = {"patternProperties", "additionalProperties", "items"}


@dataclass(frozen=True, slots=True)
class Breach:
    """One change that a published schema may not undergo. `rule` names it, `path` says where."""

    rule: str
    path: str
    detail: str

    def line(self) -> str:
        """For people."""
        return f"{self.path}: {self.detail} ({self.rule})"


def breaches(published: Schema, today: Schema) -> list[Breach]:
    """What a reader of `published` could stumble over in `today`, or a writer of `published` be refused for."""
    return list(_compare("", published, today, published, today, frozenset()))


def _compare(
    path: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema, seen: frozenset[tuple[Any, Any]]
) -> Iterator[Breach]:
    pair = (old.get("$ref"), new.get("$ref"))
    if pair in seen:
        return
    seen = seen | {pair} if all(pair) else seen
    old, new = resolve(old, old_root), resolve(new, new_root)
    here = path or "payload"
    yield from _types(here, old, new, old_root, new_root)
    yield from _defaults(here, old, new)
    yield from _constants(here, old, new)
    yield from _fields(path, old, new)
    for step, before, after in _pairs(old, new):
        yield from _compare(f"{path}{step}", before, after, old_root, new_root, seen)


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
            "changed default", path, f"the default was {before}, is {after}: old facts would mean something new"
        )


def _constants(path: str, old: Schema, new: Schema) -> Iterator[Breach]:
    for keyword in sorted((old.keys() | new.keys()) - _WORDS - _INSIDE):
        before, after = _constant(keyword, old.get(keyword)), _constant(keyword, new.get(keyword))
        if before != after:
            yield Breach("edited constant", path, f"{keyword} was {before!r}, is {after!r}")


def _constant(keyword: str, value: Any) -> Any:
    """What of a keyword is fixed: the names only, where the schemas behind them are compared by themselves."""
    if keyword in _NAMED and isinstance(value, dict):
        return sorted(value) if keyword == "patternProperties" else "a schema"
    return {key: item for key, item in value.items() if key not in _WORDS} if isinstance(value, dict) else value


def _fields(path: str, old: Schema, new: Schema) -> Iterator[Breach]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        at = f"{path}.{name}"
        if name not in after:
            yield Breach("removed field", at, "readers rely on it")
        elif name in needed_after - needed_before:
            yield Breach("new required field", at, "it was optional: old facts do not have it")
        elif name in needed_before - needed_after and "default" not in after[name]:
            yield Breach("changed default", at, "it was required: readers rely on it")
    for name in after.keys() - before.keys():
        at = f"{path}.{name}"
        if name in needed_after:
            yield Breach("new required field", at, "old facts do not have it: give it a constant default")
        elif "default" not in after[name]:
            yield Breach("changed default", at, "a new field needs a default that is constant, not computed")


def _pairs(old: Schema, new: Schema) -> Iterator[tuple[str, Schema, Schema]]:
    """The schemas inside both."""
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
