"""Reads the CSV of a backfill: customers that a provider has, and the tenants that they become."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from paybill_contracts.values import Key, ProviderId, Slug, Text
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode

COLUMNS = ("customer", "slug", "name", "email", "plan", "region")
MAX_BYTES = 32 * 1024 * 1024
MAX_ROWS = 100_000
SHOWN = 20

_WANTED = {
    "customer": "the customer's id at the provider, such as cus_Q1w2e3",
    "slug": "1 to 40 of a-z, 0-9 and dash, the first a letter",
    "name": "one line of at most 500 characters",
    "email": "an address, with one @",
    "plan": "a plan of the catalogue, such as starter",
    "region": "a region of the blueprint, such as eu-central",
}


class CustomerRow(BaseModel):
    """A line of the file. `email` is personal: it is sent, and never shown."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    line: int
    customer: ProviderId
    slug: Slug
    name: Text
    email: str = Field(repr=False, max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$")
    plan: Key
    region: Key


def read_customers(path: Path) -> list[CustomerRow]:
    """All rows of the file. Raises CliError with every flaw that it has, by line, and sends nothing."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[CustomerRow] = []
    flaws: list[str] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            raise _flawed(path, [f"line 1: the columns are {_named(header)}; they have to be {_named(COLUMNS)}"])
        for cells in reader:
            if not cells:
                continue
            if len(rows) >= MAX_ROWS:
                raise _flawed(path, [f"line {reader.line_num}: more than {MAX_ROWS} rows; split the file"])
            if len(cells) != len(header):
                flaws.append(f"line {reader.line_num}: it has {len(cells)} columns instead of {len(header)}")
                continue
            row, wrong = _row(reader.line_num, dict(zip(header, cells, strict=True)))
            flaws += wrong
            rows += [row] if row is not None else []
    except csv.Error as error:
        flaws.append(f"line {reader.line_num}: {error}")
    flaws += _twice(rows)
    if flaws:
        raise _flawed(path, flaws)
    if not rows:
        raise _flawed(path, ["it has no rows"])
    return rows


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise usage(f"{path} cannot be read", why=error.strerror or "", next="check the path") from error
    if len(content) > MAX_BYTES:
        raise usage(f"{path} is larger than {MAX_BYTES // 1024 // 1024} MiB", next="split the file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _flawed(path, [f"line {line}: it is no UTF-8"]) from None


def _row(line: int, cells: dict[str, str]) -> tuple[CustomerRow | None, list[str]]:
    """The row, or what is wrong with it: the column and what is wanted, and never what is there."""
    try:
        return CustomerRow(line=line, **{name: cell.strip() for name, cell in cells.items()}), []
    except ValidationError as error:
        names = dict.fromkeys(str(flaw["loc"][0]) for flaw in error.errors(include_input=False))
        return None, [f"line {line}: {name} is wrong; wanted is {_WANTED[name]}" for name in names]


def _twice(rows: list[CustomerRow]) -> Iterator[str]:
    for column in ("customer", "slug"):
        first: dict[str, int] = {}
        for row in rows:
            value = getattr(row, column)
            if first.setdefault(value, row.line) != row.line:
                yield f"line {row.line}: the {column} {value} is on line {first[value]} already"


def _named(columns: object) -> str:
    return ", ".join(map(str, columns)) if isinstance(columns, list | tuple) and columns else "none"


def _flawed(path: Path, flaws: list[str]) -> CliError:
    more = [f"and {len(flaws) - SHOWN} more"] if len(flaws) > SHOWN else []
    return CliError(
        "wrong_customers",
        f"{path} is refused, and nothing was sent: {flaws[0]}",
        why="; ".join([*flaws[1:SHOWN], *more]),
        next="correct the file, then the same command again",
        exit_code=ExitCode.USAGE,
    )
