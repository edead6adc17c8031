"""Nodes of the tree of commands."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """A command: `target` is `module:function`, `summary` the first line of the function's docstring."""

    target: str
    summary: str
    passes_on: bool = False
    """True when its arguments are passed to another program."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A group of commands."""

    summary: str
    commands: Mapping[str, "Leaf | Branch"]
