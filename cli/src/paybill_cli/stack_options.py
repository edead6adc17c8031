"""Adds to a printed command the options with which the running command named its stack."""

import re
import shlex
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

from paybill_cli.tree import TREE, Branch, Leaf

FIELDS = frozenset({"command", "fix", "next"})
"""Fields of the output that hold a command."""
_LISTS = frozenset({"because"})
"""Fields of the output that hold texts with commands."""
_COMMAND = re.compile(
    r"""(?<![\w./`-])paybill\ [a-z]  # in backticks a command is only mentioned
        (?:"[^"]*"|'[^']*'|[^\s,;`()"']|[,;](?=\S)|\ (?=[^\s(]))*""",
    re.VERBOSE,
)

_given: ContextVar[Mapping[str, str]] = ContextVar("given", default={})  # noqa: B039  # never changed


def remember_stack(given: Mapping[str, str]) -> None:
    """Stores the options of the command line that name the stack, such as `--data-dir`, with their values."""
    _given.set(dict(given))


def on_this_stack(text: str) -> str:
    """Returns a text whose commands name the stack as the running command did."""
    return _COMMAND.sub(lambda match: _named(match[0]), text) if _given.get() else text


def with_stack(value: Any) -> Any:
    """Returns data for the output; its fields that hold commands name the stack."""
    if not _given.get():
        return value
    match value:
        case dict():
            return {key: _field(key, each) for key, each in value.items()}
        case list():
            return [with_stack(each) for each in value]
        case _:
            return value


def _field(key: str, value: Any) -> Any:
    if key in FIELDS and isinstance(value, str):
        return on_this_stack(value)
    if key in _LISTS and isinstance(value, list | tuple):
        return [on_this_stack(each) for each in value]
    return with_stack(value)


def _named(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if "--help" in words:
        return command
    options = _options_of(words)
    missing = [(option, value) for option, value in _given.get().items() if option in options and option not in words]
    return " ".join([command, *(f"{option} {shlex.quote(value)}" for option, value in missing)])


def _options_of(words: list[str]) -> frozenset[str]:
    """Returns the options of the command that the words begin with; none when there is no such command."""
    node: Branch | Leaf | None = TREE
    name = ""
    for word in words[1:]:
        if not isinstance(node, Branch):
            break
        name, node = word, node.commands.get(word)
    return _options(node, name) if isinstance(node, Leaf) else frozenset()


@cache
def _options(leaf: Leaf, name: str) -> frozenset[str]:
    from paybill_cli.command import load  # imports this module

    return frozenset(option for parameter in load(leaf, name).params for option in parameter.opts)
