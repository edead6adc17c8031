"""Finds the command that the arguments name, runs it, and maps errors to messages and exit codes."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from paybill_contracts.settings import unknown_settings
from paybill_stack.errors import StackError
from typer.core import MarkupMode, TyperCommand, TyperGroup
from typer.main import get_install_completion_arguments
from typing_extensions import override

from paybill_cli.command import convert_lazily, load
from paybill_cli.errors import CliError, cli_error, usage
from paybill_cli.exit_codes import ExitCode, table
from paybill_cli.output import Output, OutputClosedError, is_plain
from paybill_cli.tree import TREE, Branch, Leaf


class LazyGroup(TyperGroup):
    """A branch of the tree: lists its commands by name and summary, and imports a command when it is chosen."""

    def __init__(self, branch: Branch, name: str, **more: Any) -> None:
        """Describes every command without importing it."""
        markup: MarkupMode = None if is_plain(sys.stdout) else "rich"
        stubs = {
            # A `short_help` is wrapped where a `help` would be cut.
            key: TyperCommand(key, help=node.summary, short_help=node.summary, rich_markup_mode=markup)
            for key, node in branch.commands.items()
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
    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters; only values that are used are converted."""
        return convert_lazily(super().get_params(ctx))

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Imports the command that the arguments name."""
        name, _, rest = super().resolve_command(ctx, args)
        node = self._branch.commands[name or ""]
        command = LazyGroup(node, name or "") if isinstance(node, Branch) else load(node, name or "")
        return name, command, rest


def program() -> LazyGroup:
    """Builds the whole command."""
    root = LazyGroup(TREE, "paybill", epilog=f"Exit codes: {table()}.")
    root.params.extend(get_install_completion_arguments())
    return root


def main(arguments: Sequence[str]) -> int:
    """Runs the command that the arguments name; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    out = Output(json="--json" in arguments)
    if unknown := unknown_settings(os.environ):
        return _failed(out, usage(unknown, code="unknown_setting", next=f"unset {unknown.split()[0]}"))
    try:
        outcome = program().main(arguments, prog_name="paybill", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
    except CliError as error:
        return _failed(out, error)
    except StackError as error:
        return _failed(out, cli_error(error))
    except typer.TyperException as error:
        return _misused(out, error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return int(ExitCode.INTERRUPTED)
    except (OutputClosedError, BrokenPipeError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as error:  # noqa: BLE001  # the outermost handler
        return _crashed(out, error)
    return outcome if isinstance(outcome, int) else int(ExitCode.OK)


def _failed(out: Output, error: CliError) -> int:
    if not out.json:
        from paybill_cli.client.tenants import with_named_slugs  # not needed for `--help`

        error.message, error.why = with_named_slugs(error.message), with_named_slugs(error.why)
    out.error(error)
    return int(error.exit_code)


def _misused(out: Output, error: typer.TyperException, arguments: Sequence[str]) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else _named(arguments)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return int(ExitCode.USAGE)
    message = error.format_message().replace(": Value error, ", ": ")  # pydantic's name of the kind of error
    return _failed(out, usage(message, next=f"{path} --help"))


def _named(arguments: Sequence[str]) -> str:
    """Returns the command that the arguments begin with: the parser's errors about options do not name it."""
    node: Branch | Leaf = TREE
    words = ["paybill"]
    for word in arguments:
        if not isinstance(node, Branch) or word not in node.commands:
            break
        node = node.commands[word]
        words.append(word)
    return " ".join(words)


def _crashed(out: Output, error: Exception) -> int:
    if os.environ.get("PAYBILL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    crash = CliError(
        "internal_error",
        f"{type(error).__name__}: {error}",
        why="this is a bug in paybill",
        next="set PAYBILL_DEBUG=1 and run the command again to see the traceback",
    )
    return _failed(out, crash)
