"""`paybill blueprint`: checks, renders, compares and publishes definitions of environments."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client.definition_files import publication_of, publish_previewed, text_of, with_errors
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_definitions.blueprints_file import BlueprintFile

PATH = "/v1/blueprints"
COLUMNS = ("blueprint", "in_force", "regions", "tiers", "cells")
CHANGES = ("change", "of", "before", "after")
RESOURCES = ("resource", "layer", "isolation", "needs", "attributes")

File = Annotated[Path, typer.Argument(help="Blueprint file, such as blueprints.yaml.", metavar="FILE")]
Name = Annotated[str, typer.Argument(help="Name of the blueprint.", metavar="NAME")]


def lint(out: Output, file: File) -> None:
    """Check a blueprint without a running stack; exit code 1 when it has errors.

    Each error is a line: file, line and reason. `paybill blueprint diff` also compares it with the version in force.

    Example: paybill blueprint lint blueprints.yaml
    """
    from paybill_contracts.event import digest

    content = _checked(out, file, ExitCode.FAILED).content
    summary = {
        "file": str(file),
        "blueprint": f"{content.name}@{content.version}",
        "regions": ", ".join(content.regions),
        "tiers": len(content.tiers),
        "tables": len(content.tables),
        "content_hash": digest(content),
    }
    out.record("blueprint.lint", summary)


def render(
    out: Output,
    file: File,
    tier: Annotated[str, typer.Option("--tier", help="Tier to render.")],
    placement: Annotated[str, typer.Option("--placement", help="Placement of the tier.")] = "pooled",
    region: Annotated[
        str,
        typer.Option(
            "--region", help="Region; by default the first of the blueprint.", autocompletion=completion.regions
        ),
    ] = "",
    slug: Annotated[str, typer.Option("--slug", help="Slug of the tenant.")] = "example",
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Entitlement limit, FEATURE=NUMBER; can be repeated.")
    ] = None,
) -> None:
    """Show the resources of a tier's tenant, without a running stack.

    Example: paybill blueprint render blueprints.yaml --tier business --placement silo
    """
    from paybill_definitions.resources import ResourceError, Values
    from paybill_definitions.resources import render as rendered

    content = _checked(out, file).content
    found = [each for each in content.tiers if (each.tier, each.placement) == (tier, placement)]
    if not found:
        known = ", ".join(f"{each.tier} ({each.placement})" for each in content.tiers)
        raise usage(f"{file} has no tier {tier} ({placement}), only {known}")
    values = Values("ten_" + "0" * 32, slug, region or content.regions[0], dict(map(_limit, limit or [])))
    try:
        resources = rendered(content, found[0], values)
    except ResourceError as error:
        raise usage(str(error), next="repeat the command with --limit FEATURE=NUMBER") from None
    rows = []
    for resource in resources:
        attributes = resource.attributes.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
        rows.append(
            {
                "resource": resource.address,
                "layer": resource.layer,
                "isolation": resource.isolation,
                "needs": list(resource.needs) if out.json else ", ".join(resource.needs),
                "attributes": attributes if out.json else ", ".join(_attributes(attributes)),
            }
        )
    out.rows("blueprint.resources", rows, RESOURCES)


def diff(out: Output, stack: Stack, file: File) -> None:
    """Show the changes of a publication; exit code 6 when it would be refused.

    Example: paybill blueprint diff blueprints.yaml
    """
    _checked(out, file)
    with Service(stack, "provisioner") as provisioner:
        publication = publication_of(provisioner, PATH, file)
    _show(out, publication)
    if publication["refused"]:
        raise _refused(file, publication)


def publish(out: Output, stack: Stack, options: ConfirmedOptions, file: File) -> None:
    """Publish a blueprint: environments are planned by it from now on.

    Changes that can be made in place are applied to every environment of the tiers.

    Example: paybill blueprint publish blueprints.yaml
    """
    _checked(out, file)
    with Service(stack, "provisioner") as provisioner:
        publication = publication_of(provisioner, PATH, file)
        _show(out, publication)
        if publication["refused"]:
            raise _refused(file, publication)
        effect = "Environments of its tiers are changed by it."
        publish_previewed(out, provisioner, options, PATH, file, publication, kind="blueprint", effect=effect)


def list_all(out: Output, stack: Stack) -> None:
    """List blueprints with their regions, tiers and cells, and earlier versions.

    Example: paybill blueprint list
    """
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(PATH)["blueprints"]
    out.rows("blueprint.list", [_row(each) for each in found], COLUMNS)


def show(out: Output, stack: Stack, name: Name) -> None:
    """Show the version of a blueprint that is in force, with its cells.

    Example: paybill blueprint show standard
    """
    with Service(stack, "provisioner") as provisioner:
        shown = provisioner.get(f"{PATH}/{name}")
    content = shown["content"]
    if out.json:
        out.record("blueprint", shown)
        return
    fields = {
        "blueprint": f"{content['name']}@{content['version']}",
        "content_hash": shown["content_hash"],
        "regions": ", ".join(content["regions"]),
        **{f"cells {each['isolation']}": _cells(each) for each in content["cells"]},
        **{f"cell {each['id']}": _cell(each) for each in shown["cells"]},
        **{f"table {table['name']}": ", ".join(map(_column, table["columns"])) for table in content["tables"]},
    }
    for tier in content["tiers"]:
        resources = [
            each["address"] + (f"({', '.join(_attributes(each['attributes']))})" if each["attributes"] else "")
            for each in tier["resources"]
        ]
        fields[f"tier {tier['tier']} ({tier['placement']})"] = f"{tier['cloud']}: {', '.join(resources)}"
    out.record("blueprint", fields)


def _checked(out: Output, file: Path, exit_code: ExitCode = ExitCode.USAGE) -> "BlueprintFile":
    """Returns the blueprint in a file; prints all errors and raises CliError when it has some."""
    from paybill_definitions.blueprints_file import BlueprintFileError, read_blueprint

    with with_errors(out, file, "blueprint", BlueprintFileError, exit_code):
        return read_blueprint(text_of(file), str(file))


def _show(out: Output, publication: Mapping[str, Any]) -> None:
    if out.json:
        out.record("blueprint.publication", publication)
    else:
        out.rows("blueprint.publication", publication["differences"], CHANGES)


def _refused(file: Path, publication: Mapping[str, Any]) -> CliError:
    return CliError(
        publication["refused_code"],
        "\n".join(publication["refused"]),
        next=f"correct it, then: paybill blueprint diff {file}",
        exit_code=ExitCode.CONFLICT,
    )


def _row(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "blueprint": f"{summary['name']}@{summary['version']}",
        "in_force": summary["in_force"],
        "regions": ", ".join(summary["regions"]),
        "tiers": ", ".join(f"{each['tier']} ({each['placement']})" for each in summary["tiers"]),
        "cells": ", ".join(f"{each['isolation']}: {_cells(each)}" for each in summary["cells"]),
    }


def _cells(cells: Mapping[str, Any]) -> str:
    return f"{cells['count']} for {cells['capacity']} tenants each"


def _column(column: Mapping[str, Any]) -> str:
    return f"{column['name']} {column['type']}{' required' if column.get('required') else ''}"


def _cell(cell: Mapping[str, Any]) -> str:
    return f"{cell['tenants']} of {cell['capacity']} tenants" + (
        f", drained: {cell['drained']}" if cell["drained"] else ""
    )


def _attributes(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in attributes.items():
        items = value if isinstance(value, list) else [value]
        yield f"{name} " + "+".join(each["name"] if isinstance(each, dict) else str(each) for each in items)


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdecimal():
        raise usage(f"{text!r} is no limit; write FEATURE=NUMBER, such as connections=20")
    return name, int(number)
