"""Differences between two bundles, for people. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from paybill_contracts.agent_bundles import Bundle
from paybill_contracts.event import canonical
from pydantic import BaseModel

MAX_TEXT = 200
"""Characters of a value."""


class BundleDifference(BaseModel):
    """A difference. change: path of what differs, such as `set.amount.maximum`; of: the workflow, grant or resource."""

    change: str
    of: str
    before: str | None
    after: str | None


def differences(before: Bundle | None, after: Bundle) -> Iterator[BundleDifference]:
    """Yields every difference of `after` from `before`, or from an empty bundle: one for each value that differs."""
    old, new = _parts(before), _parts(after)
    for of in sorted(old.keys() | new.keys()):
        if of not in old or of not in new:
            yield BundleDifference(change="defined", of=of, before=_presence(of in old), after=_presence(of in new))
            continue
        for change in sorted(old[of].keys() | new[of].keys()):
            if old[of].get(change) != new[of].get(change):
                yield BundleDifference(change=change, of=of, before=old[of].get(change), after=new[of].get(change))


def _presence(is_defined: bool) -> str | None:  # noqa: FBT001  # the one argument
    return "defined" if is_defined else None


def _parts(bundle: Bundle | None) -> dict[str, dict[str, str]]:
    """Returns the values of each part of a bundle, by its kind and name, by their paths."""
    if bundle is None:
        return {}
    content = bundle.model_dump(mode="json")
    parts = {"blueprint": dict(_values(content["blueprint"], ""))}
    for kind, key in (("resource", "name"), ("grant", "id"), ("workflow", "name")):
        for each in content[f"{kind}s"]:
            parts[f"{kind} {each[key]}"] = dict(_values(each, ""))
    return parts


def _values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields each value with its path; a list of named parts is one path for each name."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _values(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) and "name" in each for each in value):
        for each in value:
            yield from _values({key: part for key, part in each.items() if key != "name"}, f"{path}.{each['name']}")
        yield f"{path} in order", ", ".join(each["name"] for each in value)
    else:
        yield path, canonical(value).decode()[:MAX_TEXT]
