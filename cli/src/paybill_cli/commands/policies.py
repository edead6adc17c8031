"""`paybill policy`: checks, publishes and shows what plans of environments may change unattended."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.definition_files import publication_of, publish_previewed, text_of, with_errors
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_definitions.policy_file import PolicyFile

PATH = "/v1/policies"
COLUMNS = ("policy", "in_force", "content_hash")
CHANGES = ("rule", "before", "after")

File = Annotated[Path, typer.Argument(help="Policy, such as policy.yaml.", metavar="FILE")]


def lint(out: Output, file: File) -> None:
    """Check a policy without a running stack; exit code 1 when it has errors.

    Each error is a line: file, line and reason.

    Example: paybill policy lint policy.yaml
    """
    from paybill_contracts.event import digest

    content = _checked(out, file, ExitCode.FAILED).content
    summary = {
        "file": str(file),
        "policy": f"{content.name}@{content.version}",
        "cost_limit": content.cost_limit.monthly.text if content.cost_limit else None,
        "content_hash": digest(content),
    }
    out.record("policy.lint", summary)


def publish(out: Output, stack: Stack, options: ConfirmedOptions, file: File) -> None:
    """Publish a policy: plans are handled by it from now on.

    Example: paybill policy publish policy.yaml
    """
    _checked(out, file)
    with Service(stack, "provisioner") as provisioner:
        found = publication_of(provisioner, PATH, file)
        if out.json:
            out.record("policy.publication", found)
        else:
            out.rows("policy.publication", found["differences"], CHANGES)
        effect = "Plans that it allows unattended are applied at once."
        publish_previewed(out, provisioner, options, PATH, file, found, kind="policy", effect=effect)


def list_all(out: Output, stack: Stack) -> None:
    """List the policy in force and the earlier versions.

    Example: paybill policy list
    """
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(PATH)["policies"]
    out.rows("policy.list", [{"policy": f"{each['name']}@{each['version']}", **each} for each in found], COLUMNS)


def show(
    out: Output,
    stack: Stack,
    name: Annotated[str, typer.Argument(help="Name of the policy.", metavar="NAME")],
) -> None:
    """Show the rules of the policy in force.

    Example: paybill policy show standard
    """
    from paybill_cli import formatting

    with Service(stack, "provisioner") as provisioner:
        shown = provisioner.get(f"{PATH}/{name}")
    if out.json:
        out.record("policy", shown)
        return
    content = dict(shown["content"])
    limit = content.pop("cost_limit")
    times = {name: formatting.duration(content.pop(f"{name}_s")) for name in ("approval_valid", "change_within")}
    fields = {"policy": f"{content.pop('name')}@{content.pop('version')}", "content_hash": shown["content_hash"]}
    cost_limit = f"{formatting.money(limit['monthly'])}: {limit['handling']}" if limit else None
    out.record("policy", {**fields, **content, "cost_limit": cost_limit, **times})


def _checked(out: Output, file: Path, exit_code: ExitCode = ExitCode.USAGE) -> "PolicyFile":
    """Returns the policy in a file; prints all errors and raises CliError when it has some."""
    from paybill_definitions.policy_file import PolicyFileError, read_policy

    with with_errors(out, file, "policy", PolicyFileError, exit_code):
        return read_policy(text_of(file), str(file))
