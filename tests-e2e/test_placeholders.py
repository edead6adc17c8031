"""Statements with placeholders ($1, $2…) use each value that their calls bind, and bind each that they use."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_structure import ROOT

METHODS = {"fetch", "fetchrow", "fetchval", "execute"}


def modules() -> list[tuple[str, Path]]:
    """Returns the modules of runtime and services that call asyncpg or `fetch_rows`, with their files."""
    sources = [*ROOT.glob("libs/runtime/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    return [
        (".".join(path.relative_to(next(p for p in path.parents if p.name == "src")).with_suffix("").parts), path)
        for path in sorted(sources)
        if re.search(r"\bfetch(row|val|_rows)?\(|\.execute\(", path.read_text())
        and not {"migrations", "testing", "__main__"} & {*path.parts, path.stem}
    ]


def calls(path: Path) -> Iterator[tuple[ast.expr, list[ast.expr]]]:
    """Yields the statement and the values of each call; calls with an unpacked list of values are left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and node.args:
            statement, values = node.args[0], node.args[1:]
        elif isinstance(node.func, ast.Name) and node.func.id == "fetch_rows":
            statement, values = node.args[1], node.args[2:]
        else:
            continue
        if not any(isinstance(value, ast.Starred) for value in values):
            yield statement, values


def wrong(module: object, path: Path) -> Iterator[str]:
    """Yields the calls with a constant statement whose placeholders are not those of its values."""
    for statement, values in calls(path):
        if isinstance(statement, ast.Name):
            text = getattr(module, statement.id, None)
        else:
            text = statement.value if isinstance(statement, ast.Constant) else None
        if isinstance(text, str):
            used = {int(number) for number in re.findall(r"\$(\d+)", text)}
            if used != set(range(1, len(values) + 1)):
                yield f"{path.name}:{statement.lineno} binds {len(values)} values and uses {sorted(used)}"


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda each: each if isinstance(each, str) else "")
def test_a_constant_statement_uses_exactly_the_values_of_its_call(module: str, path: Path) -> None:
    assert list(wrong(importlib.import_module(module), path)) == []


def test_a_value_that_is_not_used_is_found(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        'connection.fetch("SELECT $1", 1, 2)\nfetch_rows(connection, "SELECT $2", 1)\nc.fetch("SELECT $1", 1)'
    )

    assert list(wrong(None, path)) == [
        "sample.py:1 binds 2 values and uses [1]",
        "sample.py:2 binds 1 values and uses [2]",
    ]
