"""Formats amounts, durations, times, plans and features for people; `--json` keeps minor units and seconds."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_BAR_WIDTH = 24


def money(amount: Mapping[str, Any]) -> str:
    """Returns an amount such as `567.80 EUR`, with the digits of ISO 4217."""
    from paybill_contracts.money import Money

    return Money(minor=int(amount["minor"]), currency=amount["currency"]).text


def duration(seconds: int) -> str:
    """Returns a duration such as `3 d 4 h`."""
    parts = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts) or "0 s"


def age(text: str | None) -> str | None:
    """Returns the time since an RFC 3339 time in its two largest units; None without one."""
    if text is None:
        return None
    since = datetime.now(UTC) - datetime.fromisoformat(text)
    return " ".join(duration(max(int(since.total_seconds()), 0)).split()[:4])


def time(text: str) -> str:
    """Returns an RFC 3339 time such as `2026-03-01 12:00:00 UTC`."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def readable(value: Any) -> Any:
    """Returns a time in the form for people, and any other value unchanged."""
    return time(value) if isinstance(value, str) and _TIME.fullmatch(value) else value


def plan(version: Mapping[str, Any]) -> str:
    """Returns a plan version as commands accept it, such as `pro@2`."""
    return f"{version['plan']}@{version['version']}"


def feature(value: Mapping[str, Any] | None) -> str | None:
    """Returns the content of a feature on one line; None for no feature."""
    if value is None:
        return None
    match value["kind"]:
        case "boolean":
            return "on" if value["enabled"] else "off"
        case "static":
            return str(value["value"])
        case "limit":
            return f"at most {value['limit']}"
        case _:
            quota = "" if value["quota"] is None else f", at most {value['quota']}"
            return f"{value['included']} included{quota}"


def overage(price: Mapping[str, Any]) -> str:
    """Returns the price of usage beyond what is included, such as `0.02 EUR per unit`."""
    units = "unit" if price["units"] == 1 else f"{price['units']:,} units"
    return f"{money(price['amount'])} per {units}"


def plan_differences(difference: Mapping[str, Any]) -> list[str]:
    """Returns a line for each feature and term that changes with a tenant's plan."""
    lines = []
    for changed in difference["features"]:
        before, after = changed["before"], changed["after"]
        lines.append(f"  {(after or before)['key']}: {feature(before) or '-'} -> {feature(after) or '-'}")
    for term in ("tier", "placement"):
        before, after = difference[f"{term}_before"], difference[f"{term}_after"]
        lines += [f"  {term}: {before} -> {after}"] if before != after else []
    # On the same placement a tier is changed in place; what is built may be older than the plan before.
    built = difference.get("environment") or {}
    tier, placement = (built.get(f"from_{term}") or difference[f"{term}_before"] for term in ("tier", "placement"))
    if placement == difference["placement_after"]:
        return lines
    lines += [f"  tier stays {tier} until moved"] if tier != difference["tier_after"] else []
    return [*lines, f"  isolation stays {placement} until moved"]


def bar(done: int, total: int, text: str) -> str:
    """Returns a progress bar and `text` on one line."""
    filled = min(_BAR_WIDTH * done // max(total, 1), _BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {text}"
