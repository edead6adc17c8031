"""Environments for people: their fields, and the changes between two states of one."""

from collections.abc import Mapping
from typing import Any

from paybill_cli import formatting
from paybill_cli.client.next_steps import next_step
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.plan_view import cost

_AT_REST = frozenset({"ready", "failed", "retained", "purged"})
"""Statuses in which nothing is being built, changed, exported or deleted."""
_CONTINUES = frozenset({"waits", "slow"})
"""Reasons that end by themselves."""
_OTHERWISE_SHOWN = frozenset({"waits", "failed", "refused", "transfer", "legal_hold"})
"""Reasons with fields of their own."""
_INSPECTED = frozenset({"tables_not_inspected", "tables_have_foreign_objects"})
"""Codes of refusals after which a retry inspects the tables first, and plans later."""


def refused_again(found: Mapping[str, Any]) -> CliError | None:
    """Returns the error of a retry after which the environment is refused still; None when it may be planned."""
    refusal = found["refusal"]
    if refusal is None or refusal["code"] in _INSPECTED:
        return None
    return CliError(
        refusal["code"],
        f"it is still refused: {refusal['reason']}",
        why=f"it ends with this: {refusal['next']}",
        next=next_step(refusal["code"]),
        exit_code=ExitCode.CONFLICT,
    )


def is_stable(found: Mapping[str, Any]) -> bool:
    """Returns True when the environment changes only after somebody has acted."""
    unsettled = found["unsettled"]
    if unsettled and unsettled["reason"] in _CONTINUES:
        return False
    if found["status"] == "ready":
        return bool(found["access"] == found["access_wanted"])
    return unsettled is not None or found["status"] in _AT_REST


def changes(before: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[str]:
    """Returns a line for each difference between two states; all that is not at rest for the first one."""
    lines = []
    if before is None or _state(before) != _state(found):
        lines.append(_state(found))
    steps = found["plan"]["steps"] if found["plan"] else []
    done = [each for each in steps if each["done"]]
    known = _done(before, found["plan"]["hash"]) if before and found["plan"] else set()
    new = [each for each in done if _key(each) not in known]
    for number, step in enumerate(new, 1 + len(done) - len(new)):
        if before is not None or found["status"] not in _AT_REST:
            lines.append(f"{step['action']} {step['address']} is done, {number} of {len(steps)} steps")
    if found["wait"] and (before is None or before["wait"] != found["wait"]):
        lines.append(f"waits: {wait(found['wait'])}")
    elif found["unsettled"] and (before is None or before["unsettled"] != found["unsettled"]):
        lines.append(found["unsettled"]["text"])
    return lines


def _state(found: Mapping[str, Any]) -> str:
    size = f", {found['tier']} ({found['preset']})" if found["tier"] else ""
    return f"{found['slug']} is {found['status']}, access {_access(found)}{size}"


def _done(found: Mapping[str, Any], plan_hash: str) -> set[tuple[str, str]]:
    plan = found["plan"]
    return {_key(each) for each in plan["steps"] if each["done"]} if plan and plan["hash"] == plan_hash else set()


def _key(step: Mapping[str, Any]) -> tuple[str, str]:
    return step["action"], step["address"]


def wait(found: Mapping[str, Any]) -> str:
    """Returns the step or job that waits, its tries, and the server's message."""
    what, next_ = found["step"] or found["kind"].replace("_", " "), formatting.time(found["next_try"])
    return f"{what}, tried {found['tries']} times, next at {next_}: {found['reason']}"


def pending_fields(pending: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a change that is not built."""
    return {
        "pending": f"{pending['from_tier']} ({pending['from_preset']}) -> {pending['tier']} ({pending['preset']}) "
        f"since {formatting.time(pending['since'])}: {pending['reason']}",
        "waits for": pending["waits_for"],
        "pending plan": pending["plan_hash"],
        "pending cost": cost(pending["cost"]) if pending["cost"] else None,
        "pending approval": pending["approval"] and f"{pending['approval']} ({pending['approval_status']})",
    }


def change_fields(change: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the fields of a tenant's change that is pending or refused."""
    if change is None:
        return {}
    if "code" in change:
        return {"change": f"refused, {change['code']}: {change['reason']}"}
    shown = pending_fields(change)
    return {
        "change": shown.pop("pending"),
        "change waits for": shown.pop("waits for"),
        **{name.replace("pending", "change"): value for name, value in shown.items()},
    }


def row(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of an environment in a list."""
    pending, unsettled = found["pending"], found["unsettled"]
    return {
        **found,
        "pending": f"{pending['tier']} ({pending['preset']})" if pending else None,
        "unsettled": unsettled and unsettled["text"],
    }


def fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of one environment: desired, planned and built, and what it waits for."""
    desired, planned, failure = (found[each] for each in ("desired", "plan", "failure"))
    shown: dict[str, Any] = {
        "tenant": found["slug"],
        "id": found["id"],
        "status": found["status"],
        "access": _access(found),
        "region": found["region"],
        "epoch": found["epoch"],
        "desired": _desired(desired) if desired else None,
        "planned": f"{found['tier']} ({found['preset']})" if found["tier"] else None,
        "blueprint": planned["blueprint"] if planned else None,
        "plan": planned["hash"] if planned else None,
        "isolation": ", ".join(f"{layer} {level}" for layer, level in (found["placement"] or {}).items()) or None,
        "cells": ", ".join(found["cells"]) or None,
    }
    if found["pending"]:
        shown |= pending_fields(found["pending"])
    if found["wait"]:
        shown["wait"] = wait(found["wait"])
    if found["refusal"]:
        shown["refused"] = f"{found['refusal']['code']}: {found['refusal']['reason']}"
    if purge := found["purge"]:
        shown["purge"] = f"since {formatting.time(purge['since'])}, {len(purge['removed'])} resources deleted"
        shown["purge held by"] = ", ".join(purge["held_by"]) or None
    if failure:
        shown["failed"] = f"{failure['address']}: {failure['reason']}"
    unsettled = found["unsettled"]
    if unsettled and not found["pending"] and unsettled["reason"] not in _OTHERWISE_SHOWN:
        shown["unsettled"] = unsettled["text"]
    for each in found["connections"]:
        secret = each["secret"] or "no password yet"
        shown[f"connection {each['address']}"] = (
            f"{each['host']}:{each['port']} database {each['database']} schema {each['schema_name']} "
            f"user {each['username']} secret {secret}"
        )
    for each in found["resources"]:
        shown[f"resource {each['address']}"] = f"{each['isolation']} {each['attributes']['name']}"
    return shown


def _desired(desired: Mapping[str, Any]) -> str:
    moved = f", moved from {desired['moved_from']}" if desired["moved_from"] else ""
    return f"{desired['tier']} ({desired['preset']}){moved}"


def _access(found: Mapping[str, Any]) -> str:
    access, target = found["access"], found["access_wanted"]
    return str(access) if access == target else f"{access}, is to become {target}"
