"""Calls of agents as lines for people: arguments, and every row before and after.

Texts come from customers and models: they are quoted, cut, and `Output` escapes characters that act on a terminal.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Line = tuple[str, str]
"""Style and text of a line; the style is empty for plain text."""

MAX_TEXT = 200
_SIGNS = {"create": ("green", "+"), "update": ("yellow", "~"), "delete": ("red", "-")}


def quoted(value: Any) -> str:
    """Returns a value of a row: a text in quotes, cut at MAX_TEXT characters; a sealed one as such."""
    match value:
        case None:
            return "NULL"
        case str():
            cut = f"{value[:MAX_TEXT]}…" if len(value) > MAX_TEXT else value
            return json.dumps(cut, ensure_ascii=False)
        case Mapping():
            return "(sealed)"
        case _:
            return json.dumps(value)


def fields_text(fields: Mapping[str, Any]) -> str:
    """Returns fields on one line."""
    return ", ".join(f"{name} {quoted(value)}" for name, value in fields.items()) or "none"


def rows_lines(resource: str, images: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """Yields the lines of rows before and after a write."""
    for image in images:
        before, after = image["before"] or {}, image["after"] or {}
        style, sign = _SIGNS["update" if before and after else "delete" if before else "create"]
        yield style, f"  {sign} {resource}"
        for name in dict.fromkeys((*before, *after)):
            values = [quoted(row[name]) for row in (before, after) if name in row]
            yield "", f"      {name}  {' -> '.join(dict.fromkeys(values))}"


def call_lines(call: Mapping[str, Any]) -> Iterator[Line]:
    """Yields the lines of a call that waits for an approval, or waited for one."""
    yield "bold", f"{call['slug']}  {call['workflow']}, step {call['step']}: {call['verb']} of {call['resource']}"
    yield "", f"run {call['run_id']}  seq {call['seq']}  hash {call['subject_hash']}"
    yield "", f"arguments  {fields_text(call['arguments'])}"
    yield from rows_lines(call["resource"], call["rows"])
    for table, count in call["other_rows"].items():
        yield _SIGNS["update"][0], f"  {table}: {count} {'row changes' if count == 1 else 'rows change'}"
    if not call["rows"]:
        yield "", "  no row would change"
