"""`paybill entitlement`: shows entitlements of a tenant, and adds overrides and grants to its plan."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from paybill_cli import formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Reason, TenantName
from paybill_cli.output import Output
from paybill_cli.texts import text

_EXCEPTION = re.compile(r"(ovr|grt)_[0-9a-f]{32}")

Feature = Annotated[str, typer.Argument(help="Key of the feature.", metavar="FEATURE")]
Since = Annotated[
    str | None, typer.Option("--from", help="Start, such as 2026-03-01 or 2026-03-01T09:00Z; by default now.")
]
Until = Annotated[str | None, typer.Option("--until", help="End (exclusive); by default none.")]


def show(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Show the entitlements of a tenant, and where they differ from its plan.

    Example: paybill entitlement show acme
    """
    with Service(stack, "billing") as billing:
        _show(out, stack, billing.get(_path(stack, tenant)))


def check(
    out: Output,
    stack: Stack,
    tenant: TenantName,
    feature: Feature,
    used: Annotated[int, typer.Option("--used", min=0, help="Current usage, for a limit.")] = 0,
    want: Annotated[int, typer.Option("--want", min=0, help="Additional usage to check.")] = 1,
) -> None:
    """Check whether a tenant may use a feature now; exit code 6 when it may not.

    --used is for limits; billing itself counts metered usage. Nothing is reserved.

    Example: paybill entitlement check acme projects --used 4 --want 1
    """
    with Service(stack, "billing") as billing:
        path = f"{_path(stack, tenant)}/check"
        decision = billing.post(path, {"feature": feature, "used": used, "want": want})
    out.record("entitlement.check", decision)
    if not decision["allowed"]:
        raise CliError(
            str(decision["reason"]),
            f"{tenant} may not use {want} more of {feature} now",
            next=f"paybill entitlement show {tenant}",
            exit_code=ExitCode.CONFLICT,
        )


def override(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    feature: Feature,
    reason: Reason,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Maximum of a limit feature.")] = None,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Turn an on/off feature on or off.")] = None,
    value: Annotated[str | None, typer.Option("--value", parser=text, help="Value of a static feature.")] = None,
    meter: Annotated[str | None, typer.Option("--meter", help="Meter of a metered feature.")] = None,
    included: Annotated[int, typer.Option("--included", min=0, help="Included usage of the meter.")] = 0,
    quota: Annotated[int | None, typer.Option("--quota", min=0, help="Maximum usage of the meter per window.")] = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Override a feature of a tenant's plan, permanently or for a period.

    Set the feature with one of --limit, --on, --off, --value and --meter. It stays when the plan changes.

    Example: paybill entitlement override acme projects --limit 500 --until 2027-01-01 --reason "contract 7"
    """
    contents: dict[str, dict[str, Any] | None] = {
        "limit": None if limit is None else {"limit": limit},
        "boolean": None if enabled is None else {"enabled": enabled},
        "static": None if value is None else {"value": value},
        "metered": None if meter is None else {"meter": meter, "included": included, "quota": quota},
    }
    kinds = [(kind, content) for kind, content in contents.items() if content is not None]
    if len(kinds) != 1:
        raise usage("set the feature with exactly one of --limit, --on, --off, --value and --meter")
    kind, content = kinds[0]
    target = {"kind": kind, "key": feature} | content
    body = {"feature": target, **_validity(since, until), "reason": reason}
    question = f"Set {feature} of {tenant} to {formatting.feature(target)}, instead of the plan's value?"
    _decide(out, stack, options, tenant, "overrides", body, question)


def grant(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    feature: Feature,
    reason: Reason,
    amount: Annotated[
        int, typer.Option("--amount", min=0, help="Additional amount; 0 for a feature that is on or off.")
    ] = 0,
    since: Since = None,
    until: Until = None,
) -> None:
    """Grant a tenant more of a feature, permanently or for a period.

    The amount is added to a limit, or to the included usage and the quota of a metered feature. Grants add up.

    Example: paybill entitlement grant acme calls --amount 50000 --until 2026-12-01 --reason "launch"
    """
    body = {"feature": feature, "amount": amount, **_validity(since, until), "reason": reason}
    question = f"Grant {tenant} {amount or 'access to'} {'more of ' if amount else ''}{feature}?"
    _decide(out, stack, options, tenant, "grants", body, question)


def withdraw(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: TenantName,
    id_: Annotated[str, typer.Argument(help="Id of an override or a grant: ovr_… or grt_….", metavar="ID")],
    reason: Reason,
) -> None:
    """End an override or a grant now.

    Example: paybill entitlement withdraw acme ovr_0123456789abcdef0123456789abcdef --reason "a mistake"
    """
    if not _EXCEPTION.fullmatch(id_):
        raise usage(f"{id_!r} is neither an override nor a grant", next=f"paybill entitlement show {tenant}")
    body = {"id": id_, "reason": reason}
    _decide(out, stack, options, tenant, "withdraw", body, f"Withdraw {id_} from {tenant}?")


def _decide(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    tenant: str,
    verb: str,
    body: Mapping[str, Any],
    question: str,
) -> None:
    path = f"{_path(stack, tenant)}/{verb}"
    with Service(stack, "billing") as billing:
        if options.dry_run:
            preview(out, billing, path, body, options.idempotency_key)
            return
        out.confirm(question, yes=options.yes)
        found = post(out, billing, path, body, options.idempotency_key)
    _show(out, stack, found)


def _show(out: Output, stack: Stack, found: Mapping[str, Any]) -> None:
    """Prints a line per feature, with the plan's value where it differs; programs get all fields."""
    if out.json:
        out.record("entitlements", found)
        return
    of_plan = {feature["key"]: formatting.feature(feature) for feature in found["plan_features"]}
    fields = {
        "tenant": for_reading(out, stack, found["tenant_id"]),
        "plan": formatting.plan(found["plan"]),
        "tier": found["tier"],
        "placement": found["placement"],
        "access": "yes" if found["allows_access"] else "no",
        "set": found["set_revision"],
        "changes_at": found["changes_at"],
    }
    for feature in found["features"]:
        key, value = feature["key"], formatting.feature(feature)
        plan_value = of_plan.get(key)
        fields[f"feature {key}"] = value if value == plan_value else f"{value} (plan: {plan_value or 'none'})"
    for each in found["overrides"]:
        fields[each["id"]] = f"{each['feature']['key']}: {formatting.feature(each['feature'])}{_period(each)}"
    for each in found["grants"]:
        more = f"{each['amount']} more" if each["amount"] else "on"
        fields[each["id"]] = f"{each['feature']}: {more}{_period(each)}"
    out.record("entitlements", fields)


def _period(exception: Mapping[str, Any]) -> str:
    until = f" until {formatting.readable(exception['valid_until'])}" if exception["valid_until"] else ""
    return f", from {formatting.readable(exception['valid_from'])}{until}: {exception['reason']}"


def _validity(since: str | None, until: str | None) -> dict[str, str]:
    times = {"valid_from": since, "valid_until": until}
    return {name: _time(text) for name, text in times.items() if text is not None}


def _time(text: str) -> str:
    """Returns a time with a zone; one without a zone is in UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise usage(f"{text!r} is not a time", next="write 2026-03-01 or 2026-03-01T09:00Z") from None
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).isoformat()


def _path(stack: Stack, tenant: str) -> str:
    return f"/v1/tenants/{tenant_id(stack, tenant)}/entitlements"
