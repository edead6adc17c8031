"""`paybill agent diff | publish | bundles`: the bundle that agents obey."""

import re
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
from paybill_cli.options import ConfirmedOptions, Limit
from paybill_cli.output import Output

PATH = "/v1/bundles"
COLUMNS = ("hash", "blueprint", "in_force", "workflows", "published_by", "published_at")
MAX_CANDIDATES = 5
_BEGINNING = re.compile(r"[0-9a-f]{1,64}")
SHORT_HASH = 14
"""Characters of a hash in lists and in sentences of the log."""


def diff(
    out: Output,
    stack: Stack,
    folder: Folder = Path("agents"),
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 when there are changes.")] = False,
) -> int:
    """Show the changes of a publication; exit code 1 or 6 when it is refused.

    Example: paybill agent diff agents
    """
    with Service(stack, "agent-gateway") as gateway:
        publication = _publication(gateway, _body(out, stack, folder)[0])
    _show(out, publication)
    if publication["refused"]:
        raise _refused(folder, publication)
    if not publication["changes"]:
        out.info("no changes: this bundle is in force already")
        return int(ExitCode.OK)
    out.info(f"next: paybill agent publish {folder}")
    return int(ExitCode.CHANGES if exit_code else ExitCode.OK)


def publish(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    folder: Folder = Path("agents"),
    again: Annotated[
        str | None,
        typer.Option("--again", help="Hash of a published bundle, or its beginning: put it in force again."),
    ] = None,
) -> None:
    """Publish a bundle: agents obey it from now on.

    Runs keep their workflow; each of their steps must also be permitted by the new grants. An older folder, or --again
    with an older hash, is the rollback.

    Example: paybill agent publish agents
    """
    with Service(stack, "agent-gateway") as gateway:
        if again is not None:
            again = _hash(gateway, again)
            path, body = f"{PATH}/{again}/activate", None
            publication = gateway.post(f"{PATH}/{again}/activate?dry_run=true")
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


def bundles(
    out: Output,
    stack: Stack,
    blueprint: Annotated[str | None, typer.Option("--blueprint", help="Only bundles of this blueprint.")] = None,
    limit: Limit = 100,
) -> None:
    """List published bundles, the newest first, and which is in force.

    A hash, or its beginning, is an argument of: paybill agent publish --again

    Example: paybill agent bundles
    """
    with Service(stack, "agent-gateway") as gateway:
        found, more = gateway.list_rows(PATH, "bundles", {"blueprint": blueprint}, limit)
    out.rows("agent.bundles", found if out.json else [_row(each) for each in found], COLUMNS)
    if more:
        out.more(limit)


def _row(bundle: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **bundle,
        "hash": bundle["content_hash"][:SHORT_HASH],
        "blueprint": f"{bundle['blueprint']}@{bundle['blueprint_version']}",
        "workflows": ", ".join(bundle["workflows"]),
    }


def _body(out: Output, stack: Stack, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the body of a publication of a folder, and the canonical form of its bundle.

    Prints the errors of a folder that has some, and raises CliError.
    """
    blueprint = blueprint_of(out, stack, folder, None)
    bundle = checked(out, folder, blueprint)
    return {"files": files_of(folder)[0], "blueprint": blueprint.name}, bundle.model_dump(mode="json")


def _publication(gateway: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = gateway.post(f"{PATH}?dry_run=true", body)
    return found


def _hash(gateway: Service, text: str) -> str:
    """Returns the hash of the only published bundle whose hash begins with a text. Raises CliError for another text."""
    beginning = text.rstrip("…")
    if not _BEGINNING.fullmatch(beginning):
        raise usage(f"{text!r} is no hash of a bundle, and no beginning of one", next="paybill agent bundles")
    found, more = gateway.list_rows(PATH, "bundles", {"hash": beginning}, MAX_CANDIDATES)
    if not found:
        raise CliError(
            "bundle_unknown",
            f"no published bundle has a hash that begins with {beginning}",
            next="paybill agent bundles",
            exit_code=ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        hashes = ", ".join(each["content_hash"] for each in found) + (" and more" if more else "")
        raise usage(
            f"several bundles have a hash that begins with {beginning}: {hashes}",
            next=f"paybill agent publish --again {found[0]['content_hash']}",
        )
    return str(found[0]["content_hash"])


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
