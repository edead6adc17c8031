"""What billing answers, in words for people."""

from collections.abc import Mapping
from typing import Any

from paybill_cli.output import Output


def plan(version: Mapping[str, Any]) -> str:
    """A plan version, as commands take it."""
    return f"{version['plan']}@{version['version']}"


def money(amount: Mapping[str, Any]) -> str:
    """Minor units, as they are in the log: how many make a whole one depends on the currency."""
    return f"{amount['minor']} {amount['currency']}"


def feature(given: Mapping[str, Any] | None) -> str | None:
    """What a feature gives, on one line; None for none."""
    if given is None:
        return None
    match given["kind"]:
        case "boolean":
            return "on" if given["enabled"] else "off"
        case "static":
            return str(given["value"])
        case "limit":
            return f"at most {given['limit']}"
        case _:
            quota = "" if given["quota"] is None else f", at most {given['quota']}"
            return f"{given['included']} included{quota}"


def say_differences(out: Output, found: Mapping[str, Any]) -> None:
    """What a tenant gets and loses when its plan changes."""
    for difference in found["features"]:
        before, after = difference["before"], difference["after"]
        out.say(f"  {(after or before)['key']}: {feature(before) or '-'} -> {feature(after) or '-'}")
    for what in ("tier", "placement"):
        if found[f"{what}_before"] != found[f"{what}_after"]:
            out.say(f"  {what}: {found[f'{what}_before']} -> {found[f'{what}_after']}")
