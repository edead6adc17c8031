"""The entry point: finds the command, runs it, and turns whatever goes wrong into words and an exit code."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import MarkupMode, TyperCommand, TyperGroup
from typer.main import get_install_completion_arguments
from typing_extensions import override

from paybill_cli.command import command_of
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode, table
from paybill_cli.output import Output, ReaderGoneError, is_plain
from paybill_cli.tree import TREE, Branch, Leaf


class LazyGroup(TyperGroup):
    """A branch of the tree: its commands are known by name and summary, and imported when one is chosen."""

    def __init__(self, branch: Branch, name: str, **more: Any) -> None:
        """Describe every command without importing it."""
        markup: MarkupMode = None if is_plain(sys.stdout) else "rich"
        stubs = {
            key: TyperCommand(key, help=node.summary, rich_markup_mode=markup) for key, node in branch.commands.items()
        }
        super().__init__(
            name=name,
            help=branch.summary,
            commands=dict(stubs),
            no_args_is_help=True,
            rich_markup_mode=markup,
            **more,
        )
        self._branch = branch

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that the arguments name, imported now."""
        name, _, rest = super().resolve_command(ctx, args)
        node = self._branch.commands[name or ""]
        command = LazyGroup(node, name or "") if isinstance(node, Branch) else load(node, name or "")
        return name, command, rest


def load(leaf: Leaf, name: str) -> Any:
    """The command behind a leaf of the tree."""
    module, _, function = leaf.target.partition(":")
    return command_of(getattr(import_module(module), function), name, passes_on=leaf.passes_on)


def program() -> LazyGroup:
    """The whole command."""
    codes = f"Exit codes: {table()}."
    root = LazyGroup(TREE, "paybill", epilog=codes)
    root.params.extend(get_install_completion_arguments())
    return root


def run() -> NoReturn:
    """Do what the command line says, and exit."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    out = Output(json="--json" in arguments)
    try:
        outcome = program().main(arguments, prog_name="paybill", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        out.error(error)
        return int(error.exit_code)
    except typer.TyperException as error:
        return _misused(out, error)
    except (KeyboardInterrupt, typer.Abort):
        return int(ExitCode.INTERRUPTED)
    except (ReaderGoneError, BrokenPipeError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as error:  # noqa: BLE001  # the one place where nothing is left to catch it
        return _broken(out, error)
    return outcome if isinstance(outcome, int) else int(ExitCode.OK)


def _misused(out: Output, error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "paybill"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return int(ExitCode.USAGE)
    out.error(usage(error.format_message(), next=f"{path} --help"))
    return int(ExitCode.USAGE)


def _broken(out: Output, error: Exception) -> int:
    if os.environ.get("PAYBILL_DEBUG"):
        traceback.print_exception(error)
    out.error(
        CliError(
            "internal_error",
            f"{type(error).__name__}: {error}",
            why="this is a fault of ours",
            next="set PAYBILL_DEBUG=1 and run it again to see where",
        )
    )
    return int(ExitCode.FAILED)
