"""`paybill plans`: what is sold; a file is checked, compared with it, and published."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from paybill_contracts.event import digest
from paybill_definitions.plans_file import PlansError, read_plans, read_tiers, unknown_tiers
from paybill_definitions.yaml_lines import MAX_BYTES

from paybill_cli import words
from paybill_cli.asking import Again, Yes, once
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("plan", "sold", "tier", "placement", "prices")
CHANGES = ("change", "of", "before", "after")
_NAME = re.compile(r"([a-z][a-z0-9_-]{0,62})(?:@([0-9]{1,7}))?")

File = Annotated[Path, typer.Argument(help="A catalogue, such as plans.yaml.", metavar="FILE")]
Blueprint = Annotated[
    Path | None,
    typer.Option("--blueprint", help="The provisioner's blueprint: each plan's tier must be in it."),
]


def lint(out: Output, file: File, blueprint: Blueprint = None) -> None:
    """Check a catalogue without a running stack; exit code 1 when it has flaws.

    Each flaw is a line: file, line and reason. What is published already, only `paybill plans diff` knows.

    Example: paybill plans lint plans.yaml --blueprint blueprints.yaml
    """
    try:
        plans = read_plans(_text(file), str(file))
        tiers = read_tiers(_text(blueprint), str(blueprint)) if blueprint is not None else None
    except PlansError as error:
        raise _flawed(out, file, str(error).splitlines()) from None
    flaws = plans.report(unknown_tiers(plans.content, tiers)) if tiers is not None else []
    if flaws:
        raise _flawed(out, file, flaws)
    content = plans.content
    found = {
        "file": str(file),
        "product": content.product,
        "versions": len(content.plans),
        "meters": len(content.meters),
        "content_hash": digest(content),
    }
    out.record("plans.lint", found)


def diff(out: Output, stack: Stack, file: File) -> None:
    """Show what publishing a file would change; exit code 6 when it is refused.

    Example: paybill plans diff plans.yaml
    """
    with Service(stack, "billing") as billing:
        found = _difference(billing, file)
    _show(out, found)
    if found["refused"]:
        raise _refused(file, found["refused"])


def publish(
    out: Output,
    stack: Stack,
    file: File,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    idempotency_key: Again = None,
) -> None:
    """Sell what a catalogue says from now on.

    Subscriptions keep the version that they have. What is on sale already, is left as it is.

    Example: paybill plans publish plans.yaml
    """
    with Service(stack, "billing") as billing:
        found = _difference(billing, file)
        _show(out, found)
        if found["refused"]:
            raise _refused(file, found["refused"])
        if not found["changes"]:
            out.say("this is on sale already; nothing was published")
            return
        if dry_run:
            out.say("nothing was published")
            return
        out.confirm(f"Publish {file}? A published version cannot be changed any more.", yes=yes)
        with once(out, idempotency_key) as key:
            billing.send("/v1/catalogue", _bytes(file), "application/yaml", {"file": _shown(file)}, key=key)
    out.say(f"published: {found['content_hash']}")


def list_all(
    out: Output,
    stack: Stack,
    retired: Annotated[bool, typer.Option("--retired", help="Those too that are off sale.")] = False,
) -> None:
    """List the plan versions on sale.

    Example: paybill plans list --retired
    """
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/catalogue")
    rows = [_row(plan, sold=True) for plan in found["plans"]]
    rows += [_row(plan, sold=False) for plan in found["retired"]] if retired else []
    out.rows("plans.list", rows, COLUMNS)


def show(
    out: Output,
    stack: Stack,
    plan: Annotated[str, typer.Argument(help="A plan, or a version of it: pro@2.", metavar="PLAN")],
) -> None:
    """Show one plan version; the newest on sale when no version is named.

    Example: paybill plans show pro@2
    """
    named = _NAME.fullmatch(plan)
    if named is None:
        raise usage(f"{plan!r} is no plan; write pro, or pro@2", next="paybill plans list")
    with Service(stack, "billing") as billing:
        found = billing.get("/v1/catalogue")
    known = [(each, True) for each in found["plans"]] + [(each, False) for each in found["retired"]]
    wanted = [
        (each, sold)
        for each, sold in known
        if each["plan"] == named[1] and (sold if named[2] is None else each["version"] == int(named[2]))
    ]
    if not wanted:
        raise CliError(
            "unknown_plan",
            f"there is no plan {plan}",
            next="paybill plans list --retired",
            exit_code=ExitCode.NOT_FOUND,
        )
    version, sold = max(wanted, key=lambda each: each[0]["version"])
    if out.json:
        out.record("plan", version | {"sold": sold})
        return
    terms = {key: version[key] for key in ("name", "tier", "placement", "trial_days", "grace_s", "retention_s")}
    features = {f"feature {feature['key']}": words.feature(feature) for feature in version["features"]}
    meters = {f"meter {meter['meter']}": _counted(meter) for meter in _meters(version, found["meters"])}
    out.record("plan", _row(version, sold=sold) | terms | features | meters)


def _difference(billing: Service, file: Path) -> dict[str, Any]:
    """What publishing the file would change. A file with flaws is refused before anything is sent."""
    content = _bytes(file)
    try:
        read_plans(_text(file), str(file))
    except PlansError as error:
        raise usage(str(error), code=error.code, next=f"paybill plans lint {file}") from None
    query = {"dry_run": "true", "file": _shown(file)}
    found: dict[str, Any] = billing.send("/v1/catalogue", content, "application/yaml", query)
    return found


def _show(out: Output, found: Mapping[str, Any]) -> None:
    if out.json:
        out.record("plans.difference", found)
    else:
        out.rows("plans.difference", list(_changes(found)), CHANGES)


def _changes(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each thing that changes."""
    for name in found["retired"]:
        yield {"change": "retired", "of": name}
    for version in found["versions"]:
        name = version["after"]
        yield {"change": "on sale", "of": name, "before": version["before"], "after": name}
        for term in version["terms"]:
            yield {"change": term["field"], "of": name, "before": term["before"], "after": term["after"]}
        for feature in version["features"]:
            before, after = feature["before"], feature["after"]
            key = (after or before)["key"]
            yield {
                "change": f"feature {key}",
                "of": name,
                "before": words.feature(before),
                "after": words.feature(after),
            }
        for price in version["prices"]:
            before, after = _amount(price["before"]), _amount(price["after"])
            yield {"change": f"price a {price['interval']}", "of": name, "before": before, "after": after}
    for meter in found["meters"]:
        before, after = meter["before"], meter["after"]
        of = (after or before)["meter"]
        yield {"change": "meter", "of": of, "before": _counted(before), "after": _counted(after)}


def _row(plan: Mapping[str, Any], *, sold: bool) -> dict[str, Any]:
    prices = ", ".join(f"{_amount(price['amount'])} a {price['interval']}" for price in plan["prices"])
    return {
        "plan": words.plan(plan),
        "sold": sold,
        "tier": plan["tier"],
        "placement": plan["placement"],
        "prices": prices,
    }


def _meters(plan: Mapping[str, Any], meters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counted = {feature.get("meter") for feature in plan["features"]}
    return [meter for meter in meters if meter["meter"] in counted]


def _counted(meter: Mapping[str, Any] | None) -> str | None:
    if meter is None:
        return None
    sent = ", ".join(f"{provider} {name}" for provider, name in meter["provider_meters"].items())
    late = f", open {meter['lateness_s']} s longer"
    return f"{meter['aggregation']} by the {meter['window']}{late}{f', sent to {sent}' if sent else ''}"


def _amount(money: Mapping[str, Any] | None) -> str | None:
    """In minor units, as it is written in the file: how many make one differs between currencies."""
    return None if money is None else f"{words.money(money)} (minor)"


def _flawed(out: Output, file: Path, flaws: list[str]) -> CliError:
    for flaw in flaws:
        out.line("plans.flaw", {"flaw": flaw}, flaw)
    count = f"{len(flaws)} flaw{'s' if len(flaws) > 1 else ''}"
    return CliError("invalid_plans", f"{file} has {count}", next="correct them, then the same command again")


def _refused(file: Path, refused: list[str]) -> CliError:
    return CliError(
        "catalogue_refused",
        "\n".join(refused),
        next=f"correct it, then: paybill plans diff {file}",
        exit_code=ExitCode.CONFLICT,
    )


def _text(file: Path) -> str:
    try:
        return _bytes(file).decode()
    except UnicodeDecodeError as error:
        raise usage(f"{file} is no UTF-8", why=error.reason) from None


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise usage(f"{file} cannot be read", why=error.strerror or str(error)) from None
    if len(content) > MAX_BYTES:
        raise usage(f"{file} is larger than {MAX_BYTES} bytes")
    return content


def _shown(file: Path) -> str:
    """What the service calls the file in its answers: the end of a long path."""
    return str(file)[-200:]
