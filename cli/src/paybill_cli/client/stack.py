"""The stack that a command uses: addresses of its services, the API key, and NATS."""

import json
import os
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from typing_extensions import override

from paybill_cli.client import contexts
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import OptionGroup

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
STACK_FILE = "stack.json"
_PANEL = "Stack to use"

DataDirectory = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="PAYBILL_DATA_DIR", help="The data directory of `paybill up`.", rich_help_panel=_PANEL
    ),
]
ContextName = Annotated[
    str | None,
    typer.Option(
        "--context",
        envvar="PAYBILL_CONTEXT",
        help="An installation of `paybill context`; by default the current one.",
        rich_help_panel=_PANEL,
    ),
]
Url = str | None


@dataclass(frozen=True)
class LocalStack(OptionGroup):
    """A stack on this machine, running or stopped; a command gets these options with a parameter of this type."""

    data_dir: DataDirectory = Path(".paybill")
    context: ContextName = None

    @classmethod
    @override
    def of(cls, values: Mapping[str, Any], given: Collection[str]) -> Self:
        """Takes the folder of the context: of the named one, or of the current one when no folder is given."""
        name = values["context"]
        if name is None and "data_dir" in given:
            return cls(**values)
        known = contexts.load()
        name = name or known.current
        if name is None or "data_dir" in given:
            return cls(**values)
        folder = known.named(name).get("data_dir")
        if folder is None:
            raise usage(f"the context {name} names no data directory", next="paybill context list")
        return cls(**{**values, "data_dir": Path(folder)})


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """URL and credentials of one NATS user."""

    url: str
    user: str
    password: str


@dataclass(frozen=True)
class Stack(OptionGroup):
    """A running stack; a command gets these options with a parameter of this type."""

    data_dir: DataDirectory = Path(".paybill")
    tenant_url: Annotated[
        Url,
        typer.Option(
            "--tenant-url", envvar="PAYBILL_TENANT_URL", help="URL of the tenant service.", rich_help_panel=_PANEL
        ),
    ] = None
    billing_url: Annotated[
        Url,
        typer.Option(
            "--billing-url", envvar="PAYBILL_BILLING_URL", help="URL of the billing service.", rich_help_panel=_PANEL
        ),
    ] = None
    provisioner_url: Annotated[
        Url,
        typer.Option(
            "--provisioner-url",
            envvar="PAYBILL_PROVISIONER_URL",
            help="URL of the provisioner.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    agent_gateway_url: Annotated[
        Url,
        typer.Option(
            "--agent-gateway-url",
            envvar="PAYBILL_AGENT_GATEWAY_URL",
            help="URL of the agent gateway.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            envvar="PAYBILL_API_KEY_FILE",
            help="File with your API key; by default PAYBILL_API_KEY contains it.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    nats_url: Annotated[
        Url,
        typer.Option(
            "--nats-url",
            envvar="PAYBILL_NATS_URL",
            help="URL of NATS.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    nats_user: Annotated[
        str | None,
        typer.Option("--nats-user", envvar="PAYBILL_NATS_USER", help="Your NATS user.", rich_help_panel=_PANEL),
    ] = None
    nats_password_file: Annotated[
        Path | None,
        typer.Option(
            "--nats-password-file",
            envvar="PAYBILL_NATS_PASSWORD_FILE",
            help="File with the password of this user.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    context: ContextName = None

    @classmethod
    @override
    def of(cls, values: Mapping[str, Any], given: Collection[str]) -> Self:
        """Adds what the context sets: the named one, or the current one when no address is given."""
        name = values["context"]
        addresses = {"data_dir", *(key for key in contexts.FIELDS if key.endswith("_url"))}
        if name is None and not addresses.isdisjoint(given):
            return cls(**values)
        known = contexts.load()
        name = name or known.current
        if name is None:
            return cls(**values)
        more: dict[str, Any] = {key: value for key, value in known.named(name).items() if key not in given}
        if os.environ.get("PAYBILL_API_KEY"):
            more.pop("api_key_file", None)
        more |= {key: Path(more[key]) for key in more if key.endswith(("_dir", "_file"))}
        return cls(**{**values, **more})

    def url(self, service: str) -> str:
        """Returns the base URL of a service."""
        url: str | None = getattr(self, f"{service.replace('-', '_')}_url")
        if url:
            return url.rstrip("/")
        services = self.running().get("services", {})
        try:
            return str(services[service]["url"]).rstrip("/")
        except (KeyError, TypeError) as error:
            raise self._not_running(f"{STACK_FILE} does not name the {service} service") from error

    def api_key(self) -> str:
        """Returns the caller's API key."""
        if self.api_key_file is not None:
            return _secret(self.api_key_file)
        key = os.environ.get("PAYBILL_API_KEY", "").strip()
        if not key:
            raise CliError(
                "no_key",
                "an API key is missing",
                why="services answer authenticated callers only",
                next="export PAYBILL_API_KEY=pbk_… (`paybill up` prints one when it creates it), or use --api-key-file",
                exit_code=ExitCode.DENIED,
            )
        return key

    def nats(self, user: str = "operator") -> NatsAccess:
        """Returns the NATS access of `user`: with the named password file, else from the data directory."""
        url = self.nats_url or str(self.running().get("nats", {}).get("url", ""))
        if not url:
            raise self._not_running(f"{STACK_FILE} does not name NATS")
        if self.nats_password_file is not None:
            return NatsAccess(url, self.nats_user or user, _secret(self.nats_password_file))
        return NatsAccess(url, user, _secret(self.data_dir / "credentials" / f"nats-{user}"))

    def running(self) -> dict[str, Any]:
        """Reads the file that a running `paybill up` keeps in its data directory."""
        path = self.data_dir / STACK_FILE
        try:
            stack = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise self._not_running(f"{path} does not exist") from error
        except (OSError, ValueError) as error:
            raise self._not_running(f"{path} cannot be read: {error}") from error
        if not isinstance(stack, dict) or stack.get("version") != 1:
            raise self._not_running(f"{path} was written by another version of paybill")
        return stack

    def _not_running(self, why: str) -> CliError:
        return CliError(
            "stack_not_running",
            f"no stack runs on {self.data_dir}",
            why=f"{why}; --data-dir or --context names another stack",
            next=shlex.join(["paybill", "up", "--data-dir", str(self.data_dir)]),
            exit_code=ExitCode.UNREACHABLE,
        )


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise usage(
            f"the secret file {path} cannot be read",
            code="secret_unreadable",
            why=reason,
            next="check its path and owner",
        ) from error
    if not secret:
        raise usage(f"the secret file {path} is empty", code="secret_unreadable", next="write the secret into it")
    return secret
