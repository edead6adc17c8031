"""Reads the CSV file of a backfill: customers of a provider, and the tenants to create for them."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from paybill_contracts.inputs import Email, PlainText
from paybill_contracts.values import Key, ProviderId, Slug
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paybill_cli.client.next_steps import next_step
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode

COLUMNS = ("customer", "slug", "name", "email", "plan", "region")
MAX_BYTES = 32 * 1024 * 1024
MAX_ROWS = 100_000
MAX_ERRORS = 20

_EXPECTED = {
    "customer": "the customer's id at the provider, such as cus_Q1w2e3",
    "slug": "1 to 40 of a-z, 0-9 and dash, the first a letter",
    "name": "one line of at most 500 visible characters",
    "email": "an e-mail address",
    "plan": "a plan of the catalogue, such as starter",
    "region": "a region of the blueprint, such as eu-central",
}


class CustomerRow(BaseModel):
    """A line of the file. `email` is personal data: it is sent, and never printed."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    line: int
    customer: ProviderId
    slug: Slug
    name: PlainText
    email: Email = Field(repr=False)
    plan: Key
    region: Key


def read_customers(path: Path) -> list[CustomerRow]:
    """Reads all rows. Raises CliError with every error in the file, by line; sends nothing."""
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[CustomerRow] = []
    errors: list[str] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        if sorted(header) != sorted(COLUMNS):
            raise _invalid(path, [f"line 1: the columns are {_names(header)}; they must be {_names(COLUMNS)}"])
        for cells in lines:
            if not cells:
                continue
            if len(rows) >= MAX_ROWS:
                raise _invalid(path, [f"line {lines.line_num}: more than {MAX_ROWS} rows; split the file"])
            if len(cells) != len(header):
                errors.append(f"line {lines.line_num}: it has {len(cells)} columns instead of {len(header)}")
                continue
            row, row_errors = _row(lines.line_num, dict(zip(header, cells, strict=True)))
            errors += row_errors
            rows += [row] if row is not None else []
    except csv.Error as error:
        errors.append(f"line {lines.line_num}: {error}")
    errors += _duplicates(rows)
    if errors:
        raise _invalid(path, errors)
    if not rows:
        raise _invalid(path, ["it has no rows"])
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
        raise _invalid(path, [f"line {line}: it is not UTF-8"]) from None


def _row(line: int, cells: dict[str, str]) -> tuple[CustomerRow | None, list[str]]:
    """Returns the row, or its errors: column and expected form, without the personal content."""
    try:
        return CustomerRow(line=line, **{name: cell.strip() for name, cell in cells.items()}), []
    except ValidationError as error:
        names = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
        return None, [f"line {line}: {name} is wrong; expected: {_EXPECTED[name]}" for name in names]


def _duplicates(rows: list[CustomerRow]) -> Iterator[str]:
    for column in ("customer", "slug"):
        lines: dict[str, int] = {}
        for row in rows:
            value = getattr(row, column)
            if lines.setdefault(value, row.line) != row.line:
                yield f"line {row.line}: the {column} {value} is on line {lines[value]} already"


def _names(columns: object) -> str:
    return ", ".join(map(str, columns)) if isinstance(columns, list | tuple) and columns else "none"


def _invalid(path: Path, errors: list[str]) -> CliError:
    more = [f"and {len(errors) - MAX_ERRORS} more"] if len(errors) > MAX_ERRORS else []
    return CliError(
        "wrong_customers",
        f"{path} is refused, and nothing was sent: {errors[0]}",
        why="; ".join([*errors[1:MAX_ERRORS], *more]),
        next=next_step("invalid_request"),
        exit_code=ExitCode.USAGE,
    )
