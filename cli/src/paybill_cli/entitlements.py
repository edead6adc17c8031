"""`paybill entitlement`: what a tenant may use, and what operators add to its plan."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from paybill_cli import words
from paybill_cli.asking import Again, Reason, Unsent, Yes, sent, show_unsent
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output
from paybill_cli.tenants import id_of

_EXCEPTION = re.compile(r"(ovr|grt)_[0-9a-f]{32}")

Name = Annotated[str, typer.Argument(help="The tenant's slug or id.", metavar="TENANT")]
Feature = Annotated[str, typer.Argument(help="The feature's key.", metavar="FEATURE")]
Since = Annotated[
    str | None, typer.Option("--from", help="From when on, such as 2026-03-01 or 2026-03-01T09:00Z; now if not given.")
]
Until = Annotated[str | None, typer.Option("--until", help="Until before when; for ever if not given.")]


def show(out: Output, stack: Stack, tenant: Name) -> None:
    """Show what a tenant may use, and where that differs from its plan.

    Example: paybill entitlement show acme
    """
    with Service(stack, "billing") as billing:
        _show(out, billing.get(_path(stack, tenant)))


def check(
    out: Output,
    stack: Stack,
    tenant: Name,
    feature: Feature,
    used: Annotated[int, typer.Option("--used", min=0, help="Of a limit: how much there is already.")] = 0,
    want: Annotated[int, typer.Option("--want", min=0, help="How much more.")] = 1,
) -> None:
    """Ask whether a tenant may use a feature now; exit code 6 when it may not.

    What is metered is counted by billing: --used is for limits. Nothing is reserved.

    Example: paybill entitlement check acme projects --used 4 --want 1
    """
    with Service(stack, "billing") as billing:
        path = f"{_path(stack, tenant)}/check"
        answer = billing.post(path, {"feature": feature, "used": used, "want": want})
    out.record("entitlement.check", answer)
    if not answer["allowed"]:
        raise CliError(
            str(answer["reason"]),
            f"{tenant} may not use {want} more of {feature} now",
            next=f"paybill entitlement show {tenant}",
            exit_code=ExitCode.CONFLICT,
        )


def override(
    out: Output,
    stack: Stack,
    tenant: Name,
    feature: Feature,
    reason: Reason,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="At most so many.")] = None,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Switched on, or off.")] = None,
    value: Annotated[str | None, typer.Option("--value", help="A fixed value.")] = None,
    meter: Annotated[str | None, typer.Option("--meter", help="Usage that is counted by this meter.")] = None,
    included: Annotated[int, typer.Option("--included", min=0, help="Of a meter: what costs nothing extra.")] = 0,
    quota: Annotated[int | None, typer.Option("--quota", min=0, help="Of a meter: no more in a window.")] = None,
    since: Since = None,
    until: Until = None,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Give a tenant a feature other than its plan's, for ever or for a time.

    Say which with one of --limit, --on, --off, --value and --meter. It stays when the plan changes.

    Example: paybill entitlement override acme projects --limit 500 --until 2027-01-01 --reason "contract 7"
    """
    given: dict[str, dict[str, Any] | None] = {
        "limit": None if limit is None else {"limit": limit},
        "boolean": None if enabled is None else {"enabled": enabled},
        "static": None if value is None else {"value": value},
        "metered": None if meter is None else {"meter": meter, "included": included, "quota": quota},
    }
    kinds = [(kind, more) for kind, more in given.items() if more is not None]
    if len(kinds) != 1:
        raise usage("say what the feature is, with one of --limit, --on, --off, --value and --meter")
    kind, more = kinds[0]
    wanted = {"kind": kind, "key": feature} | more
    body = {"feature": wanted, **_validity(since, until), "reason": reason}
    question = f"Give {tenant} {feature}: {words.feature(wanted)}, instead of what its plan says?"
    _decide(out, stack, tenant, "overrides", body, question, yes=yes, key=idempotency_key, dry_run=dry_run)


def grant(
    out: Output,
    stack: Stack,
    tenant: Name,
    feature: Feature,
    reason: Reason,
    amount: Annotated[
        int, typer.Option("--amount", min=0, help="How much more; none for what is switched on or off.")
    ] = 0,
    since: Since = None,
    until: Until = None,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """Give a tenant more of a feature, for ever or for a time.

    It is added to a limit, or to what is included and to the quota of what is metered. Grants add up.

    Example: paybill entitlement grant acme calls --amount 50000 --until 2026-12-01 --reason "launch"
    """
    body = {"feature": feature, "amount": amount, **_validity(since, until), "reason": reason}
    question = f"Give {tenant} {amount or 'access to'} {'more of ' if amount else ''}{feature}?"
    _decide(out, stack, tenant, "grants", body, question, yes=yes, key=idempotency_key, dry_run=dry_run)


def withdraw(
    out: Output,
    stack: Stack,
    tenant: Name,
    id_: Annotated[str, typer.Argument(help="Of an override or a grant: ovr_… or grt_….", metavar="ID")],
    reason: Reason,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: Unsent = False,
) -> None:
    """End an override or a grant now.

    Example: paybill entitlement withdraw acme ovr_0123456789abcdef0123456789abcdef --reason "a mistake"
    """
    if not _EXCEPTION.fullmatch(id_):
        raise usage(f"{id_!r} is neither an override nor a grant", next=f"paybill entitlement show {tenant}")
    body = {"id": id_, "reason": reason}
    question = f"Take {id_} away from {tenant}?"
    _decide(out, stack, tenant, "withdraw", body, question, yes=yes, key=idempotency_key, dry_run=dry_run)


def _decide(
    out: Output,
    stack: Stack,
    tenant: str,
    verb: str,
    body: Mapping[str, Any],
    question: str,
    *,
    yes: bool,
    key: str | None,
    dry_run: bool,
) -> None:
    if dry_run:
        path = f"/v1/tenants/{tenant}/entitlements/{verb}"
        show_unsent(out, "billing", path, body)
        return
    path = f"{_path(stack, tenant)}/{verb}"
    with Service(stack, "billing") as billing:
        out.confirm(question, yes=yes)
        found = sent(out, billing, path, body, key)
    _show(out, found)


def _show(out: Output, found: Mapping[str, Any]) -> None:
    """The whole for programs; for people a line for each feature, with what the plan says where that differs."""
    if out.json:
        out.record("entitlements", found)
        return
    of_plan = {feature["key"]: words.feature(feature) for feature in found["plan_features"]}
    shown = {
        "tenant": found["tenant_id"],
        "plan": words.plan(found["plan"]),
        "tier": found["tier"],
        "placement": found["placement"],
        "access": "yes" if found["allows_access"] else "no",
        "set": found["set_revision"],
        "changes_at": found["changes_at"],
    }
    for feature in found["features"]:
        key, given = feature["key"], words.feature(feature)
        plain = of_plan.get(key)
        shown[f"feature {key}"] = given if given == plain else f"{given} (plan: {plain or 'none'})"
    for each in found["overrides"]:
        shown[each["id"]] = f"{each['feature']['key']}: {words.feature(each['feature'])}{_when(each)}"
    for each in found["grants"]:
        more = f"{each['amount']} more" if each["amount"] else "on"
        shown[each["id"]] = f"{each['feature']}: {more}{_when(each)}"
    out.record("entitlements", shown)


def _when(each: Mapping[str, Any]) -> str:
    until = f" until {each['valid_until']}" if each["valid_until"] else ""
    return f", from {each['valid_from']}{until}: {each['reason']}"


def _validity(since: str | None, until: str | None) -> dict[str, str]:
    given = {"valid_from": since, "valid_until": until}
    return {name: _time(text) for name, text in given.items() if text is not None}


def _time(text: str) -> str:
    """A time that a person wrote, in UTC unless it says otherwise."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise usage(f"{text!r} is no time", next="write 2026-03-01 or 2026-03-01T09:00Z") from None
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).isoformat()


def _path(stack: Stack, tenant: str) -> str:
    return f"/v1/tenants/{id_of(stack, tenant)}/entitlements"
