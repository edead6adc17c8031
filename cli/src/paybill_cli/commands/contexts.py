"""`paybill context`: names of installations, so that a command needs no addresses."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client import contexts
from paybill_cli.errors import usage
from paybill_cli.output import Output

_COLUMNS = ("current", "name", *contexts.FIELDS)
Name = Annotated[
    str,
    typer.Argument(
        help="Name of the installation, such as laptop.", metavar="NAME", autocompletion=completion.contexts
    ),
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def add(
    out: Output,
    name: Name,
    data_dir: Annotated[Path | None, typer.Option(help="The data directory of its `paybill up`.")] = None,
    tenant_url: Annotated[str | None, typer.Option(help="URL of its tenant service.")] = None,
    billing_url: Annotated[str | None, typer.Option(help="URL of its billing service.")] = None,
    provisioner_url: Annotated[str | None, typer.Option(help="URL of its provisioner.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with your API key there.")] = None,
    nats_url: Annotated[str | None, typer.Option(help="URL of its NATS.")] = None,
    nats_user: Annotated[str | None, typer.Option(help="Your NATS user.")] = None,
    nats_password_file: Annotated[Path | None, typer.Option(help="File with the password of this user.")] = None,
) -> None:
    """Remember an installation under a name.

    Commands use the first one until you choose another. Only paths of secrets are stored. An existing context of
    this name is replaced.

    Example: paybill context add laptop --data-dir .paybill --api-key-file key.txt
    """
    if _NAME.fullmatch(name) is None:
        raise usage(
            f"{name!r} is not a name: write letters, digits, dot, dash and underscore",
            next="paybill context add --help",
        )
    paths = {"data_dir": data_dir, "api_key_file": api_key_file, "nats_password_file": nats_password_file}
    context = {key: str(path.absolute()) for key, path in paths.items() if path is not None}
    addresses = {
        "tenant_url": tenant_url,
        "billing_url": billing_url,
        "provisioner_url": provisioner_url,
        "nats_url": nats_url,
        "nats_user": nats_user,
    }
    context |= {key: value for key, value in addresses.items() if value}
    if "data_dir" not in context and not any(key.endswith("_url") for key in context):
        raise usage("a context needs --data-dir or addresses", next=f"paybill context add {name} --data-dir .paybill")
    changed = contexts.load().with_context(name, context)
    contexts.store(changed)
    _show(out, changed, name)


def use(out: Output, name: Name) -> None:
    """Choose the installation that commands use from now on.

    Example: paybill context use cluster
    """
    known = contexts.load()
    known.named(name)
    changed = contexts.Contexts(name, known.contexts)
    contexts.store(changed)
    _show(out, changed, name)


def remove(out: Output, name: Name) -> None:
    """Forget an installation; nothing of the installation itself changes.

    Example: paybill context remove laptop
    """
    changed = contexts.load().without(name)
    contexts.store(changed)
    out.info(f"{name} is removed from {contexts.path()}")


def list_all(out: Output) -> None:
    """List the installations and which of them commands use.

    Example: paybill context list
    """
    known = contexts.load()
    rows = [_row(known, name) for name in sorted(known.contexts)]
    used = [column for column in _COLUMNS if any(row[column] for row in rows)]
    out.rows("context.list", rows, used or ("current", "name"))
    if not rows:
        out.info("there are no contexts; add one: paybill context add laptop --data-dir .paybill")


def _show(out: Output, known: contexts.Contexts, name: str) -> None:
    row = _row(known, name)
    out.record("context", row, [column for column in _COLUMNS if row[column]])


def _row(known: contexts.Contexts, name: str) -> dict[str, Any]:
    context = known.named(name)
    return {"current": name == known.current, "name": name} | {key: context.get(key) for key in contexts.FIELDS}
