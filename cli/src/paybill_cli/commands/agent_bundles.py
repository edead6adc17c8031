"""`paybill agent init | check`: the folder with which agents may work on tenants' rows, without publishing it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli.client.definition_files import text_of, text_or_flaw, with_errors
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.commands.agent_drift import DRIFT, drift, is_away
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, as_json

if TYPE_CHECKING:
    from paybill_contracts.agent_bundles import Bundle
    from paybill_contracts.blueprints import Blueprint

RESOURCES = "resources.yaml"
GRANTS = "grants.cedar"
BLUEPRINTS = "blueprints.yaml"

Folder = Annotated[Path, typer.Argument(help="Folder of the bundle, such as agents.", metavar="FOLDER")]
BlueprintFile = Annotated[
    Path | None,
    typer.Option(
        "--blueprint",
        help="File of the blueprint whose tables agents use; by default the one in force on a running stack, "
        "else blueprints.yaml beside the folder.",
    ),
]

_HEAD = """\
# Tables of the blueprint {name}@{version}, with labels for agents. Names, types and keys come from the blueprint.
# A label names columns of its table, such as: tickets: {{untrusted: [body], personal: [subject]}}
#   hidden: the column never leaves PostgreSQL; no grant, step or answer can name it
#   untrusted: other people write it, so that its text may contain instructions; it is never trusted for a write
#   personal: its values are sealed in the facts of the log
#   also_changes: names other tables whose rows change with a row of this one, by a trigger or a cascade
# Next: grants.cedar permits what a role may do at most; each other .yaml file is a workflow (docs/agent-bundles.md).
"""


def init(out: Output, stack: Stack, folder: Folder = Path("agents"), blueprint: BlueprintFile = None) -> None:
    """Write resources.yaml from a blueprint, for a person to add labels.

    It lists every table with its columns. An existing file is never changed.

    Example: paybill agent init agents --blueprint blueprints.yaml
    """
    path = folder / RESOURCES
    if path.exists():
        raise usage(f"{path} exists, and is not overwritten", next=f"paybill agent check {folder}")
    content = blueprint_of(out, stack, folder, blueprint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(resources_text(content))
    except OSError as error:
        raise usage(f"{path} cannot be written", why=error.strerror or str(error)) from None
    written: dict[str, Any] = {
        "file": str(path),
        "blueprint": f"{content.name}@{content.version}",
        "tables": [table.name for table in content.tables],
    }
    out.record("agent.init", written if out.json else written | {"tables": ", ".join(written["tables"])})
    out.info(
        f"next: add labels to {path}, write grants.cedar and a workflow beside it, then paybill agent check {folder}"
    )


def check(out: Output, stack: Stack, folder: Folder = Path("agents"), blueprint: BlueprintFile = None) -> int:
    """Check a bundle without publishing it; exit code 1 when it has errors.

    Each error is a line: file, line and reason. When a stack runs, its blueprint in force is used, and the live tables
    of each tenant with agents are compared. A difference is exit code 1, too, and so is a database that is away.

    Example: paybill agent check agents
    """
    content = blueprint_of(out, stack, folder, blueprint)
    bundle = checked(out, folder, content)
    found = drift(out, stack, bundle)
    if out.json:
        out.record("agent.check", {**_summary(folder, bundle), "drift": found})
    else:
        summary = _summary(folder, bundle)
        source = {} if blueprint is None else {"blueprint": f"{summary['blueprint']} of {blueprint}"}
        out.record("agent.check", summary | source | {"workflows": ", ".join(summary["workflows"])})
        if found:
            out.rows("agent.drift", found, DRIFT)
    if blueprint is not None and any(each["where"] == f"blueprint {content.name}" for each in found):
        out.info(
            f"{blueprint} differs from the blueprint in force; next: paybill blueprint publish {blueprint}, or repeat "
            "the check without --blueprint"
        )
        return int(ExitCode.FAILED)
    if found:
        out.info(f"next: paybill environment drift, or correct the bundle and repeat paybill agent check {folder}")
        return int(ExitCode.FAILED)
    out.info(f"next: paybill agent diff {folder}")
    return int(ExitCode.OK)


def resources_text(blueprint: "Blueprint") -> str:
    """Returns the text of a new resources.yaml: every table without labels, with its columns as a comment."""
    width = max((len(table.name) for table in blueprint.tables), default=0) + 1
    lines = [_HEAD.format(name=blueprint.name, version=blueprint.version)]
    for table in blueprint.tables:
        key, *others = (f"{column.name} {column.type}" for column in table.columns)
        lines.append(f"{table.name + ':':<{width}} {{}}  # {', '.join([f'{key} (key)', *others])}\n")
    return "".join(lines)


def files_of(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the texts of the bundle's files by name, and `<line>: <reason>` of each that cannot be read.

    Raises a usage error when the folder has none. Hidden files do not count. A file or folder that belongs to no
    bundle has no text; reading the bundle refuses it.
    """
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise usage(
            f"{folder} cannot be read", why=error.strerror or str(error), next=f"paybill agent init {folder}"
        ) from None
    if not found:
        raise usage(f"{folder} has no files of a bundle", next=f"paybill agent init {folder}")
    texts: dict[str, str] = {}
    flaws: dict[str, str] = {}
    for path in found:
        text, flaw = text_or_flaw(path) if path.suffix in {".yaml", ".cedar"} else ("", "")
        if text is None:
            flaws[path.name] = flaw
        else:
            texts[path.name] = text
    return texts, flaws


def blueprint_of(out: Output, stack: Stack, folder: Path, file: Path | None) -> "Blueprint":
    """Returns the blueprint of the bundle: of the named file, the one in force, or that of the file beside the folder.

    The file beside the folder names the blueprint. Without a running stack, or before its first publication, its
    content is used.
    """
    if file is not None:
        return _read_blueprint(out, file)
    beside = folder.absolute().parent / BLUEPRINTS
    if not beside.exists():
        try:
            with Service(stack, "provisioner") as provisioner:
                return _in_force(provisioner, _only(provisioner))
        except CliError as error:
            if is_away(error):
                error.next = f"repeat the command with --blueprint FILE, write {beside}, or: {error.next}"
            raise
    local = _read_blueprint(out, beside)
    try:
        with Service(stack, "provisioner") as provisioner:
            published = _in_force(provisioner, local.name)
    except CliError as error:
        if not is_away(error) and error.exit_code is not ExitCode.NOT_FOUND:
            raise
        return local
    if published != local:
        out.info(
            f"{beside} differs from {published.name}@{published.version} in force, which is used; to use the file, "
            f"publish it first: paybill blueprint publish {beside}"
        )
    return published


def _read_blueprint(out: Output, file: Path) -> "Blueprint":
    from paybill_definitions.blueprints_file import BlueprintFileError, read_blueprint

    with with_errors(out, file, "blueprint", BlueprintFileError, ExitCode.USAGE):
        return read_blueprint(text_of(file), str(file)).content


def _in_force(provisioner: Service, name: str) -> "Blueprint":
    from paybill_contracts.blueprints import Blueprint

    return Blueprint.model_validate_json(as_json(provisioner.get(f"/v1/blueprints/{name}")["content"]))


def _only(provisioner: Service) -> str:
    """Returns the name of the only blueprint in force."""
    names = [each["name"] for each in provisioner.get("/v1/blueprints")["blueprints"] if each["in_force"]]
    if len(names) != 1:
        raise usage(
            f"the stack has {len(names)} blueprints in force: {', '.join(names) or 'none'}",
            next="repeat the command with --blueprint FILE",
        )
    return str(names[0])


def checked(out: Output, folder: Path, blueprint: "Blueprint") -> "Bundle":
    """Returns the bundle in a folder; prints all errors and raises CliError when it has some."""
    from paybill_definitions.agent_bundle import BundleFileError, read_bundle

    with with_errors(out, folder, "bundle", BundleFileError, ExitCode.FAILED):
        texts, flaws = files_of(folder)
        unread = {name: "" for name in flaws if name not in {RESOURCES, GRANTS}}
        try:
            return read_bundle(texts | unread, blueprint)
        except BundleFileError as error:
            # What is wrong in a file that has no text follows from that alone.
            found = [line for line in str(error).splitlines() if _file(line) not in flaws]
            found = sorted([*found, *(f"{name}:{flaw}" for name, flaw in flaws.items())], key=_file)
            raise BundleFileError("\n".join(f"{folder}/{line}" for line in found)) from None


def _file(flaw: str) -> str:
    return flaw.partition(":")[0]


def _summary(folder: Path, bundle: "Bundle") -> dict[str, Any]:
    from paybill_contracts.event import digest

    return {
        "folder": str(folder),
        "blueprint": f"{bundle.blueprint.name}@{bundle.blueprint.version}",
        "resources": len(bundle.resources),
        "grants": len(bundle.grants),
        "workflows": [each.name for each in bundle.workflows],
        "content_hash": digest(bundle),
    }
