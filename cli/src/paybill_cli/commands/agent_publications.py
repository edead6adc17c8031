"""`paybill agent diff | publish`: the bundle that agents obey."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import idempotent
from paybill_cli.client.stack import Stack
from paybill_cli.commands.agent_bundles import Folder, blueprint_of, checked, files_of
from paybill_cli.commands.agent_drift import of_tables
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

PATH = "/v1/bundles"


def diff(out: Output, stack: Stack, folder: Folder = Path("agents")) -> None:
    """Show the changes of a publication; exit code 1 or 6 when it is refused.

    Example: paybill agent diff agents
    """
    with Service(stack, "agent-gateway") as gateway:
        publication = _publication(gateway, _body(out, stack, folder)[0])
    _show(out, publication)
    if publication["refused"]:
        raise _refused(folder, publication)


def publish(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    folder: Folder = Path("agents"),
    again: Annotated[
        str | None, typer.Option("--again", help="Hash of a published bundle: put it in force again, not a folder.")
    ] = None,
) -> None:
    """Publish a bundle: agents obey it from now on.

    Runs keep their workflow; each of their steps must also be permitted by the new grants. An older folder, or --again
    with an older hash, is the rollback.

    Example: paybill agent publish agents
    """
    with Service(stack, "agent-gateway") as gateway:
        if again is not None:
            path, body = f"{PATH}/{_hash(again)}/activate", None
            publication = gateway.post(f"{path}?dry_run=true")
            content = gateway.get(f"{PATH}/{again}")["content"]
        else:
            path, (body, content) = PATH, _body(out, stack, folder)
            publication = _publication(gateway, body)
        _show(out, {**publication, "drift": list(of_tables(stack, content))})
        if publication["refused"]:
            raise _refused(folder, publication)
        if not publication["changes"]:
            out.info("this bundle is in force already; nothing was published")
            return
        if options.dry_run:
            out.info("nothing was published")
            return
        out.confirm(f"Publish {again or folder}? Agents obey it from now on.", yes=options.yes)
        with idempotent(out, options.idempotency_key) as key:
            gateway.post(path, body, key=key)
    out.info(f"published: {publication['content_hash']}")


def _body(out: Output, stack: Stack, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the body of a publication of a folder, and the canonical form of its bundle.

    Prints the errors of a folder that has some, and raises CliError.
    """
    blueprint = blueprint_of(out, stack, folder, None)
    bundle = checked(out, folder, blueprint)
    return {"files": files_of(folder), "blueprint": blueprint.name}, bundle.model_dump(mode="json")


def _publication(gateway: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = gateway.post(f"{PATH}?dry_run=true", body)
    return found


def _hash(text: str) -> str:
    if not text.isalnum():
        raise usage(f"{text!r} is no hash of a bundle", next="paybill agent publish --help")
    return text


def _show(out: Output, publication: Mapping[str, Any]) -> None:
    if out.json:
        out.record("agent.publication", publication)
        return
    for each in publication["differences"]:
        values = [f"  {name + ':':<8}{each[name]}" for name in ("before", "after") if each[name] is not None]
        out.line("agent.difference", each, f"{each['of']}: {each['change']}", *values)
    for each in publication.get("drift", ()):
        place = f"{each['where']}, table {each['table']}" if each["table"] else each["where"]
        out.info(f"drift: {place}: {each['difference']}")


def _refused(folder: Path, publication: Mapping[str, Any]) -> CliError:
    return CliError(
        publication["refused_code"],
        "\n".join(publication["refused"]),
        next=f"correct it, then: paybill agent check {folder}",
        exit_code=ExitCode.CONFLICT,
    )
