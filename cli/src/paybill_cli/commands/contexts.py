"""`paybill context`: names of installations, so that a command needs no addresses."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

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
_SCHEMES = {"nats_url": ("nats", "tls", "ws", "wss")}
"""Schemes of addresses other than those of services."""
_HTTP = ("http", "https")
_OTHERS = 0o077
"""Mode bits with which others than the owner use a file."""


def add(
    out: Output,
    name: Name,
    data_dir: Annotated[Path | None, typer.Option(help="The data directory of its `paybill up`.")] = None,
    tenant_url: Annotated[str | None, typer.Option(help="URL of its tenant service.")] = None,
    billing_url: Annotated[str | None, typer.Option(help="URL of its billing service.")] = None,
    provisioner_url: Annotated[str | None, typer.Option(help="URL of its provisioner.")] = None,
    agent_gateway_url: Annotated[str | None, typer.Option(help="URL of its agent gateway.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with your API key there.")] = None,
    nats_url: Annotated[str | None, typer.Option(help="URL of its NATS.")] = None,
    nats_user: Annotated[str | None, typer.Option(help="Your NATS user.")] = None,
    nats_password_file: Annotated[Path | None, typer.Option(help="File with the password of this user.")] = None,
) -> None:
    """Remember an installation under a name.

    Commands use the first one until you choose another. Only paths of secrets are stored: URLs with credentials are
    refused. An existing context of this name is replaced.

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
        "agent_gateway_url": agent_gateway_url,
        "nats_url": nats_url,
        "nats_user": nats_user,
    }
    context |= {key: value for key, value in addresses.items() if value}
    for key, value in context.items():
        if key.endswith("_url"):
            _check_address(name, key, value)
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


def _check_address(name: str, key: str, url: str) -> None:
    """Raises CliError when `url` has a scheme of another protocol, or credentials: a context stores no secrets."""
    option, schemes = f"--{key.replace('_', '-')}", _SCHEMES.get(key, _HTTP)
    secret = "--nats-user NAME --nats-password-file FILE" if key == "nats_url" else "--api-key-file FILE"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise usage(f"the value of {option} is not a URL", why=str(error), next="paybill context add --help") from error
    if "@" in parts.netloc:
        address = shlex.quote(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
        raise usage(
            f"the URL of {option} contains credentials, and a context stores no secrets",
            next=f"paybill context add {name} {option} {address} {secret}",
        )
    if parts.scheme not in schemes or not host:
        begins = " or ".join(f"{scheme}://" for scheme in schemes)
        raise usage(f"the URL of {option} does not begin with {begins} and a host", next="paybill context add --help")


def _show(out: Output, known: contexts.Contexts, name: str) -> None:
    row = _row(known, name)
    out.record("context", row, [column for column in _COLUMNS if row[column]])
    for key in ("api_key_file", "nats_password_file"):
        file = Path(row[key] or "")
        if row[key] and file.exists() and file.stat().st_mode & _OTHERS:
            out.info(f"warning: other users can access {file}; next: chmod 600 {shlex.quote(str(file))}")


def _row(known: contexts.Contexts, name: str) -> dict[str, Any]:
    context = known.named(name)
    return {"current": name == known.current, "name": name} | {key: context.get(key) for key in contexts.FIELDS}
