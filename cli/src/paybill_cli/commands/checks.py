"""Checks of `paybill doctor`: their result, and those of the problems that services list."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from paybill_cli import formatting

MAX_LISTED = 20
"""Open incidents, violated invariants or unsettled environments of one service that are printed."""
MAX_REFUSAL_AGE = timedelta(hours=24)
"""Refused webhooks that are older are not reported."""
LIST_UNSETTLED = "paybill environment list --unsettled"


class State(StrEnum):
    """Result of a check. `failed` needs a repair; `noted` happened, and cannot be repaired here."""

    OK = "ok"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check, with its fix if it failed."""

    part: str
    check: str
    state: State
    found: str
    fix: str = ""
    unreachable: bool = False


def ok(part: str, check: str, found: str) -> Check:
    """Returns a check that passed."""
    return Check(part, check, State.OK, found)


def failed(part: str, check: str, found: str, fix: str, *, unreachable: bool = False) -> Check:
    """Returns a check that failed. fix: the command or the action that repairs it."""
    return Check(part, check, State.FAILED, found, fix, unreachable)


def incidents(name: str, page: dict[str, Any]) -> Iterator[Check]:
    """Returns a failed check for each open incident of a service."""
    if not page["incidents"]:
        yield ok(name, "incidents", "none is open")
    for incident in page["incidents"]:
        found = f"{incident['kind']}: {incident['summary']}"
        yield failed(name, "incidents", found, f"paybill incident show {incident['id']}")
    if page["next"]:
        yield failed(name, "incidents", f"more than {MAX_LISTED} are open", "paybill incident list")


def violations(name: str, page: dict[str, Any]) -> Iterator[Check]:
    """Returns a failed check for each invariant that does not hold."""
    if not page["violations"]:
        yield ok(name, "invariants", "all hold")
    for each in page["violations"]:
        found = f"invariant {each['number']} of {each['tenant_id']}: {each['left']}, and {each['right']}"
        since = formatting.readable(each["since"])
        yield failed(name, "invariants", f"{found}, since {since}", f"paybill why {each['tenant_id']}")
    if page["next"]:
        found = f"more than {MAX_LISTED} invariants do not hold"
        yield failed(name, "invariants", found, "repair those that are listed, then run paybill doctor again")


def refused(name: str, refusals: list[dict[str, Any]]) -> Iterator[Check]:
    """Returns a check for each reason for which webhooks are refused now.

    It failed when none was accepted since, and something shows that the provider sent them: a right signature, or
    messages that the provider could not deliver. Anybody can send others.
    """
    for each in refusals:
        last, accepted = datetime.fromisoformat(each["last_at"]), each["accepted_at"]
        if datetime.now(UTC) - last > MAX_REFUSAL_AGE:
            continue
        is_current = accepted is None or datetime.fromisoformat(accepted) < last
        state = State.FAILED if is_current and not each["may_be_of_strangers"] else State.NOTED
        found = f"{each['count']} webhooks of {each['provider']} were refused ({each['reason']}): {each['detail']}"
        if each["may_be_of_strangers"]:
            found = f"{found}; nothing shows that {each['provider']} sent them"
        listed = f"paybill webhook refused --provider {each['provider']}"
        fix = f"{listed}, then compare the signing secret and the clock with those of the provider"
        yield Check(name, "webhooks", state, found, fix)


def unsettled(name: str, page: dict[str, Any]) -> Iterator[Check]:
    """Returns a check for each environment that is not as it has to be; those first that need an operator.

    A change that is pending fails after the time that the policy allows.
    """
    found = sorted(page["environments"], key=lambda each: not each["unsettled"]["is_problem"])
    if not found:
        yield ok(name, "environments", "all are as their subscriptions pay for")
    for each in found[:MAX_LISTED]:
        why = each["unsettled"]
        since = f", since {formatting.readable(why['since'])}" if why["since"] else ""
        state = State.FAILED if why["is_problem"] else State.NOTED
        yield Check(name, "environments", state, f"{each['slug']}: {why['text']}{since}", why["command"])
    if len(found) > MAX_LISTED or page["next"]:
        yield Check(name, "environments", State.NOTED, f"more than {MAX_LISTED} are listed", LIST_UNSETTLED)
