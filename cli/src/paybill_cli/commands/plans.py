"""`paybill plans`: checks a catalogue file, compares it with the published catalogue, and publishes it."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli import completion, formatting
from paybill_cli.client.definition_files import bytes_of, name_of, text_of
from paybill_cli.client.http import Service
from paybill_cli.client.next_steps import next_step, running_command
from paybill_cli.client.requests import executed, idempotent
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_contracts.catalogue import Catalogue

COLUMNS = ("plan", "sold", "tier", "placement", "prices")
CHANGES = ("change", "of", "before", "after")
_NAME = re.compile(r"([a-z][a-z0-9_-]{0,62})(?:@([0-9]{1,7}))?")

File = Annotated[Path, typer.Argument(help="Catalogue file, such as plans.yaml.", metavar="FILE")]
Blueprint = Annotated[
    Path | None,
    typer.Option("--blueprint", help="The provisioner's blueprint: it must contain the tier of each plan."),
]


def lint(out: Output, file: File, blueprint: Blueprint = None) -> None:
    """Check a catalogue without a running stack; exit code 1 when it has errors.

    Each error is a line: file, line and reason. `paybill plans diff` also compares it with the published catalogue.

    Example: paybill plans lint plans.yaml --blueprint blueprints.yaml
    """
    from paybill_contracts.event import digest

    content = checked(out, file, blueprint)
    summary = {
        "file": str(file),
        "product": content.product,
        "versions": len(content.plans),
        "meters": len(content.meters),
        "content_hash": digest(content),
    }
    out.record("plans.lint", summary)


def checked(out: Output, file: Path, blueprint: Path | None) -> "Catalogue":
    """Returns the catalogue of a file; prints all errors and raises CliError when it has some."""
    from paybill_definitions.plans_file import PlansError, read_plans, read_tiers, unknown_tiers

    try:
        plans = read_plans(text_of(file), str(file))
        tiers = read_tiers(text_of(blueprint), str(blueprint)) if blueprint is not None else None
    except PlansError as error:
        raise _invalid(out, file, blueprint, str(error).splitlines()) from None
    errors = plans.report(unknown_tiers(plans.content, tiers)) if tiers is not None else []
    if errors:
        raise _invalid(out, file, blueprint, errors)
    return plans.content


def diff(out: Output, stack: Stack, file: File) -> None:
    """Show the changes of a publication; exit code 6 when it would be refused.

    Example: paybill plans diff plans.yaml
    """
    with Service(stack, "billing") as billing:
        difference = _difference(billing, file)
    _show(out, difference)
    if difference["refused"]:
        raise _refused(file, difference["refused"])


def publish(out: Output, stack: Stack, options: ConfirmedOptions, file: File) -> None:
    """Publish a catalogue: its plan versions are on sale from now on.

    Subscriptions keep their version. Versions that are on sale already are not changed.

    Example: paybill plans publish plans.yaml
    """
    with Service(stack, "billing") as billing:
        difference = _difference(billing, file)
        if (key := options.idempotency_key) is not None:
            earlier = executed(out, _upload(billing, file, {}, key, dry_run=True), key)
            if earlier is not None:
                _show(out, earlier)
                return
        _show(out, difference)
        if difference["refused"]:
            raise _refused(file, difference["refused"])
        if not difference["changes"]:
            out.info("this catalogue is on sale already; nothing was published")
            return
        if options.dry_run:
            out.info("nothing was published")
            return
        out.confirm(f"Publish {file}? A published version cannot be changed any more.", yes=options.yes)
        with idempotent(out, options.idempotency_key) as key:
            _upload(billing, file, {}, key)
    out.info(f"published: {difference['content_hash']}")


def list_all(
    out: Output,
    stack: Stack,
    retired: Annotated[bool, typer.Option("--retired", help="Include versions that are not on sale any more.")] = False,
) -> None:
    """List the plan versions on sale.

    Example: paybill plans list --retired
    """
    with Service(stack, "billing") as billing:
        catalogue = billing.get("/v1/catalogue")
    rows = [_row(plan, sold=True) for plan in catalogue["plans"]]
    rows += [_row(plan, sold=False) for plan in catalogue["retired"]] if retired else []
    out.rows("plans.list", rows, COLUMNS)


def show(
    out: Output,
    stack: Stack,
    plan: Annotated[
        str,
        typer.Argument(
            help="Plan, or a version of it: pro@2.", metavar="PLAN", autocompletion=completion.plans_and_versions
        ),
    ],
) -> None:
    """Show one plan version; by default the newest on sale.

    Example: paybill plans show pro@2
    """
    named = _NAME.fullmatch(plan)
    if named is None:
        raise usage(f"{plan!r} is not a plan; write pro, or pro@2", next="paybill plans list")
    with Service(stack, "billing") as billing:
        catalogue = billing.get("/v1/catalogue")
    versions = [(each, True) for each in catalogue["plans"]] + [(each, False) for each in catalogue["retired"]]
    matching = [
        (each, sold)
        for each, sold in versions
        if each["plan"] == named[1] and (sold if named[2] is None else each["version"] == int(named[2]))
    ]
    if not matching:
        raise CliError(
            "unknown_plan",
            f"there is no plan {plan}",
            next="paybill plans list --retired",
            exit_code=ExitCode.NOT_FOUND,
        )
    version, sold = max(matching, key=lambda each: each[0]["version"])
    if out.json:
        out.record("plan", version | {"sold": sold})
        return
    terms = {key: version[key] for key in ("name", "tier", "placement", "trial_days")}
    terms |= {name: formatting.duration(version[f"{name}_s"]) for name in ("grace", "retention")}
    features = {f"feature {feature['key']}": formatting.feature(feature) for feature in version["features"]}
    overage = {
        f"overage of {price['feature']} per {price['interval']}, {price['amount']['currency']}": formatting.overage(
            price
        )
        for price in version.get("overage", ())
    }
    meters = {f"meter {meter['meter']}": _meter(meter) for meter in _meters(version, catalogue["meters"])}
    out.record("plan", _row(version, sold=sold) | terms | features | overage | meters)


def _difference(billing: Service, file: Path) -> dict[str, Any]:
    """Fetches the changes that publishing would make. Refuses an invalid file before a request is sent."""
    from paybill_definitions.plans_file import PlansError, read_plans

    try:
        read_plans(text_of(file), str(file))
    except PlansError as error:
        raise usage(str(error), code=error.code, next=f"paybill plans lint {file}") from None
    return _upload(billing, file, {"dry_run": "true"})


def _upload(
    billing: Service, file: Path, query: Mapping[str, str], key: str = "", *, dry_run: bool = False
) -> dict[str, Any]:
    query = {**query, "file": name_of(file)}
    found: dict[str, Any] = billing.upload(
        "/v1/catalogue", bytes_of(file), "application/yaml", query, key, dry_run=dry_run
    )
    return found


def _show(out: Output, difference: Mapping[str, Any]) -> None:
    if out.json:
        out.record("plans.difference", difference)
    else:
        out.rows("plans.difference", list(_changes(difference)), CHANGES)


def _changes(difference: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a row per change."""
    for name in difference["retired"]:
        yield {"change": "retired", "of": name}
    for version in difference["versions"]:
        name = version["after"]
        yield {"change": "on sale", "of": name, "before": version["before"], "after": name}
        for term in version["terms"]:
            yield {"change": term["field"], "of": name, "before": term["before"], "after": term["after"]}
        for feature in version["features"]:
            before, after = feature["before"], feature["after"]
            yield {
                "change": f"feature {(after or before)['key']}",
                "of": name,
                "before": formatting.feature(before),
                "after": formatting.feature(after),
            }
        for price in version["prices"]:
            before, after = _amount(price["before"]), _amount(price["after"])
            yield {"change": f"price per {price['interval']}", "of": name, "before": before, "after": after}
        for overage in version["overage"]:
            price = overage["after"] or overage["before"]
            before, after = (
                formatting.overage(overage[side]) if overage[side] else None for side in ("before", "after")
            )
            change = f"overage of {price['feature']} per {price['interval']}"
            yield {"change": change, "of": name, "before": before, "after": after}
    for meter in difference["meters"]:
        before, after = meter["before"], meter["after"]
        yield {
            "change": "meter",
            "of": (after or before)["meter"],
            "before": _meter(before),
            "after": _meter(after),
        }


def _row(plan: Mapping[str, Any], *, sold: bool) -> dict[str, Any]:
    prices = ", ".join(f"{_amount(price['amount'])} per {price['interval']}" for price in plan["prices"])
    return {
        "plan": formatting.plan(plan),
        "sold": sold,
        "tier": plan["tier"],
        "placement": plan["placement"],
        "prices": prices,
    }


def _meters(plan: Mapping[str, Any], meters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {feature.get("meter") for feature in plan["features"]}
    return [meter for meter in meters if meter["meter"] in names]


def _meter(meter: Mapping[str, Any] | None) -> str | None:
    if meter is None:
        return None
    reported = ", ".join(f"{provider} {name}" for provider, name in meter["provider_meters"].items())
    lateness = f", late usage accepted for {formatting.duration(meter['lateness_s'])}"
    window = "period" if meter["by_period"] else meter["window"]
    return f"{meter['aggregation']} per {window}{lateness}{f', reported to {reported}' if reported else ''}"


def _amount(money: Mapping[str, Any] | None) -> str | None:
    return None if money is None else formatting.money(money)


def _invalid(out: Output, file: Path, blueprint: Path | None, errors: list[str]) -> CliError:
    for error in errors:
        out.line("plans.flaw", {"flaw": error}, error)
    count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
    repeated = ["paybill", "plans", "lint", str(file), *(["--blueprint", str(blueprint)] if blueprint else [])]
    # A check that is repeated without a correction finds the same.
    step = next_step("usage") if running_command() == "paybill plans lint" else shlex.join(repeated)
    return CliError("invalid_plans", f"{file} has {count}", next=step)


def _refused(file: Path, reasons: list[str]) -> CliError:
    return CliError(
        "catalogue_refused",
        "\n".join(reasons),
        next=f"paybill plans diff {file}",
        exit_code=ExitCode.CONFLICT,
    )
