"""What a command prints: data on stdout, talk on stderr; tables for people, plain rows for pipes, JSON for programs."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli.errors import CliError, usage

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 1
"""Of the JSON envelope: a field may be added within a version, never removed or changed."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Row = Mapping[str, Any]


class ReaderGoneError(Exception):
    """Whoever read our output has enough of it."""


def is_plain(stream: IO[str]) -> bool:
    """Whether no escape sequence may be written to `stream`."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"


def shown(value: Any) -> str:
    """A value on one line, without characters that could move a terminal's cursor or start a new row."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def as_json(value: Any) -> str:
    """JSON on one line; what could act on a terminal is escaped."""
    return _escaped(json.dumps(value, ensure_ascii=False, default=str))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _put(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        raise ReaderGoneError from error


class Output:
    """The one way in which commands print; a command gets `--json` by having a parameter of this type."""

    def __init__(
        self,
        json: Annotated[
            bool, typer.Option("--json", help="Print JSON: one {version, kind, data} a line.", rich_help_panel="Output")
        ] = False,
    ) -> None:
        self.json = json

    def rows(self, kind: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """A list of things; `columns` are the fields that people see, programs get all."""
        if self.json:
            self._envelope(kind, list(rows))
        elif sys.stdout.isatty():
            self._table(rows, columns)
        else:
            _put("\t".join(columns))
            for row in rows:
                _put("\t".join(shown(row.get(column)) for column in columns))

    def record(self, kind: str, data: Row, fields: Sequence[str] = ()) -> None:
        """One thing; `fields` are those that people see, all when none is named."""
        if self.json:
            self._envelope(kind, dict(data))
            return
        names = list(fields) or list(data)
        width = max(map(len, names), default=0) if sys.stdout.isatty() else 0
        for name in names:
            _put(f"{name + ':':<{width + 1}} {shown(data.get(name))}")

    def document(self, kind: str, data: Any) -> None:
        """What is a JSON document by itself, such as a schema."""
        if self.json:
            self._envelope(kind, data)
        else:
            _put(_escaped(json.dumps(data, indent=2, ensure_ascii=False)))

    def line(self, kind: str, data: Row, text: str) -> None:
        """One of many that come while the command runs: `text` for people, at once."""
        if self.json:
            self._envelope(kind, dict(data))
        else:
            _put("\t".join(map(shown, text.split("\t"))))

    def say(self, text: str) -> None:
        """Talk: what happens, hints, next steps. Never data."""
        print(_CONTROL.sub(" ", text), file=sys.stderr, flush=True)

    def error(self, error: CliError) -> None:
        """Why the command ends."""
        if self.json:
            envelope = {"version": VERSION, "kind": "error", "data": error.data()}
            print(as_json(envelope), file=sys.stderr, flush=True)
        else:
            text = "\n".join(_CONTROL.sub(" ", line) for line in error.text().split("\n"))
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, text: str) -> Iterator["Progress"]:
        """While something takes long: a spinner on a terminal, else one line for each thing that is new."""
        if is_plain(sys.stderr) or self.json:
            yield Progress(self, text)
            return
        with _console(sys.stderr).status(_CONTROL.sub(" ", text)) as status:
            yield Progress(self, text, status.update)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the person at the terminal agrees, or said `--yes` before."""
        if yes:
            return
        if not sys.stdin.isatty() or self.json:
            raise usage(
                "this needs a confirmation, and there is nobody to ask",
                code="confirmation_needed",
                next="look at it with --dry-run, then add --yes",
            )
        print(f"{_CONTROL.sub(' ', question)} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise CliError("not_confirmed", "nothing was done", next="answer y, or add --yes")

    def _envelope(self, kind: str, data: Any) -> None:
        _put(as_json({"version": VERSION, "kind": kind, "data": data}))

    def _table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        from rich.table import Table  # pipes do not pay for it
        from rich.text import Text  # as above

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(Text(column), overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(row.get(column))) for column in columns))
        _console(sys.stdout).print(table)


class Progress:
    """A wait that is shown; say what is new with `now`."""

    def __init__(self, out: Output, text: str, update: Any = None) -> None:
        self._out = out
        self._text = text
        self._update = update
        if update is None:
            out.say(text)

    def now(self, text: str) -> None:
        """What it waits for at this moment."""
        if text == self._text:
            return
        self._text = text
        if self._update is None:
            self._out.say(text)
        else:
            self._update(_CONTROL.sub(" ", text))


def _console(stream: IO[str]) -> "Console":
    from rich.console import Console  # as above

    plain = is_plain(stream)
    return Console(
        file=stream, force_terminal=not plain, color_system=None if plain else "auto", highlight=False, markup=False
    )
