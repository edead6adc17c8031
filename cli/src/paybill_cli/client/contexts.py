"""Named installations (laptop, compose, cluster): where their services, bus and API key are. Keys stay in files."""

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode

FIELDS = (
    "data_dir", "tenant_url", "billing_url", "provisioner_url", "agent_gateway_url", "api_key_file", "nats_url",
    "nats_user", "nats_password_file",
)  # fmt: skip
"""Options of `Stack` that a context may set."""

Context = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts, and the name of the one that commands use by default."""

    current: str | None = None
    contexts: Mapping[str, Context] = field(default_factory=dict)

    def named(self, name: str) -> Context:
        """Returns a context. Raises CliError context_not_found."""
        try:
            return self.contexts[name]
        except KeyError:
            raise CliError(
                "context_not_found",
                f"there is no context {name}",
                why=f"known: {', '.join(sorted(self.contexts)) or 'none'}",
                next="paybill context list",
                exit_code=ExitCode.NOT_FOUND,
            ) from None

    def with_context(self, name: str, context: Context) -> "Contexts":
        """Returns the contexts with one more, or with another content for this name; the first one is current."""
        return replace(self, current=self.current or name, contexts={**self.contexts, name: context})

    def without(self, name: str) -> "Contexts":
        """Returns the contexts without this one."""
        self.named(name)
        others = {other: context for other, context in self.contexts.items() if other != name}
        return Contexts(None if self.current == name else self.current, others)


def path() -> Path:
    """Returns the file of the contexts, in the person's configuration folder."""
    return Path(typer.get_app_dir("paybill"), "contexts.json")


def load() -> Contexts:
    """Reads the contexts; none when the file does not exist. Raises CliError contexts_unreadable."""
    try:
        content = json.loads(path().read_bytes())
        return Contexts(content["current"], {name: _checked(each) for name, each in content["contexts"].items()})
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        file = shlex.quote(str(path()))
        raise usage(
            f"{path()} cannot be read",
            code="contexts_unreadable",
            why=f"{type(error).__name__}: {error}",
            next=f"mv {file} {file}.broken, then: paybill context add laptop --data-dir .paybill",
        ) from error


def store(contexts: Contexts) -> None:
    """Writes the contexts, whole or not at all, readable only by their owner."""
    folder = path().parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content: dict[str, Any] = {"current": contexts.current, "contexts": dict(contexts.contexts)}
    descriptor, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
    Path(name).replace(path())


def _checked(context: dict[str, Any]) -> Context:
    if unknown := context.keys() - set(FIELDS):
        raise ValueError(f"unknown entries: {', '.join(sorted(unknown))}")
    if wrong := [name for name, value in context.items() if not isinstance(value, str)]:
        raise TypeError(f"no text: {', '.join(sorted(wrong))}")
    return context
