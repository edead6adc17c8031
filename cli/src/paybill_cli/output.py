"""Output of commands: data on stdout, messages on stderr; tables on a terminal, plain rows in a pipe, or JSON."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli.client.next_steps import next_step
from paybill_cli.errors import CliError, usage
from paybill_cli.formatting import readable
from paybill_cli.options import OptionGroup
from paybill_cli.stack_options import on_this_stack, with_stack

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 1
"""Version of the JSON envelope: a field may be added within a version, never removed or changed."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Row = Mapping[str, Any]


class OutputClosedError(Exception):
    """Raised when the program at the other end of the pipe has closed it."""


def is_plain(stream: IO[str]) -> bool:
    """Returns whether escape sequences are not allowed on `stream`."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"


def printable(value: Any) -> str:
    """Returns a value on one line, without characters that act on a terminal or start a new row."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def as_json(value: Any) -> str:
    """Returns JSON on one line; characters that act on a terminal are escaped."""
    return _escaped(json.dumps(value, ensure_ascii=False, default=str))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        raise OutputClosedError from error


class Output(OptionGroup):
    """Prints for all commands; a command gets the option `--json` with a parameter of this type."""

    def __init__(
        self,
        json: Annotated[
            bool,
            typer.Option("--json", help="Print JSON: one {version, kind, data} per line.", rich_help_panel="Output"),
        ] = False,
    ) -> None:
        self.json = json

    def rows(self, kind: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Prints a list; people get the fields of `columns`, programs all fields."""
        rows = [with_stack(dict(row)) for row in rows]
        if self.json:
            self._envelope(kind, rows)
        elif sys.stdout.isatty():
            self._table(rows, columns)
        else:
            _print("\t".join(columns))
            for row in rows:
                _print("\t".join(printable(readable(row.get(column))) for column in columns))

    def record(self, kind: str, data: Row, fields: Sequence[str] = ()) -> None:
        """Prints one object; people get `fields`, or all when none is named."""
        data = with_stack(dict(data))
        if self.json:
            self._envelope(kind, data)
            return
        names = list(fields) or list(data)
        width = max(map(len, names), default=0) if sys.stdout.isatty() else 0
        for name in names:
            _print(f"{name + ':':<{width + 1}} {printable(readable(data.get(name)))}")

    def document(self, kind: str, data: Any) -> None:
        """Prints a JSON document, such as a schema."""
        if self.json:
            self._envelope(kind, data)
        else:
            _print(_escaped(json.dumps(data, indent=2, ensure_ascii=False)))

    def line(self, kind: str, data: Row, text: str, *details: str) -> None:
        """Prints one event of a running command at once; people get `text`, and a line for each of the details."""
        if self.json:
            self._envelope(kind, dict(data))
            return
        for each in (text, *details):
            _print("\t".join(map(printable, each.split("\t"))))

    def styled(self, kind: str, data: Row, lines: Sequence[tuple[str, str]]) -> None:
        """Prints one object; people get lines, each with a style of rich on a terminal, and programs the object."""
        if self.json:
            self._envelope(kind, dict(data))
            return
        if is_plain(sys.stdout):
            for _, text in lines:
                _print(printable(text))
            return
        from rich.text import Text  # slow to import, and pipes do not need it

        console = _console(sys.stdout)
        for style, text in lines:
            console.print(Text(printable(text), style=style), soft_wrap=True)

    def early(self, kind: str, data: Row, text: str) -> None:
        """Prints data that cannot wait for the result, which may never come.

        With `--json` on stderr, because programs read the result from the first line of stdout.
        """
        if self.json:
            print(as_json({"version": VERSION, "kind": kind, "data": dict(data)}), file=sys.stderr, flush=True)
        else:
            self.line(kind, data, text)

    def info(self, text: str) -> None:
        """Prints a message on stderr: progress, hints, next steps. Never data."""
        print(_CONTROL.sub(" ", on_this_stack(text)), file=sys.stderr, flush=True)

    def more(self, limit: int) -> None:
        """Prints that a list was cut at `limit`."""
        self.info(f"there are more than {limit}; list more with --limit")

    def error(self, error: CliError) -> None:
        """Prints the error that ends the command."""
        error.next = on_this_stack(error.next)
        if self.json:
            envelope = {"version": VERSION, "kind": "error", "data": error.data()}
            print(as_json(envelope), file=sys.stderr, flush=True)
        else:
            text = "\n".join(_CONTROL.sub(" ", line) for line in error.text().split("\n"))
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, text: str) -> Iterator["Progress"]:
        """Shows progress while the block runs: a spinner on a terminal, else one line per change."""
        if is_plain(sys.stderr) or self.json:
            yield Progress(self, text)
            return
        with _console(sys.stderr).status(_CONTROL.sub(" ", text)) as status:
            yield Progress(self, text, status.update)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Returns if `yes`, or if the person at the terminal confirms; raises CliError otherwise."""
        if yes:
            return
        if not sys.stdin.isatty() or self.json:
            raise usage(
                f"{question} This needs a confirmation, and there is no terminal: add --yes",
                code="confirmation_needed",
                next=next_step("confirmation_needed"),
            )
        print(f"{_CONTROL.sub(' ', question)} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise CliError("not_confirmed", "nothing was done", next="answer y, or add --yes")

    def _envelope(self, kind: str, data: Any) -> None:
        _print(as_json({"version": VERSION, "kind": kind, "data": data}))

    def _table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        from rich.table import Table  # slow to import, and pipes do not need it
        from rich.text import Text  # as above

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(Text(column), overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(readable(row.get(column)))) for column in columns))
        _console(sys.stdout).print(table)


class Progress:
    """Progress of a wait; call `update` when it changes."""

    def __init__(self, out: Output, text: str, update: Any = None) -> None:
        self._out = out
        self._text = text
        self._update = update
        if update is None:
            out.info(text)

    def update(self, text: str) -> None:
        """Shows the new state, if it differs from the one before."""
        if text == self._text:
            return
        self._text = text
        if self._update is None:
            self._out.info(text)
        else:
            self._update(_CONTROL.sub(" ", text))


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console  # as above

    plain = is_plain(stream)
    return Console(
        file=stream, force_terminal=not plain, color_system=None if plain else "auto", highlight=False, markup=False
    )
