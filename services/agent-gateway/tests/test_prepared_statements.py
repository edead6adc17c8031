"""Only prepared statements reach tenants' databases: the simple protocol accepts several statements in one text."""

import ast
from pathlib import Path

import pytest
from paybill_agent_gateway import effects

PACKAGE = Path(effects.__file__).parents[1]
FORBIDDEN = {"execute", "executemany", "transaction", "cursor", "add_query_logger", "reset", "set_type_codec"}
"""Methods of asyncpg that send text by the simple protocol, or change the connection."""


def faults(source: str, path: str) -> list[str]:
    """Returns calls that may send text by the simple protocol, and texts of SQL that are built at the call."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name in FORBIDDEN or name.startswith("copy_"):
            found.append(f"{path}:{node.lineno}: {name}() may use the simple protocol; use fetch()")
        elif name in {"fetch", "fetchrow", "fetchval", "prepare"} and not is_fixed(node.args[0]):
            found.append(f"{path}:{node.lineno}: the text of {name}() is built here; name a statement")
    return found


def is_fixed(text: ast.expr) -> bool:
    """Returns whether a text is a constant, a name or an attribute."""
    if isinstance(text, ast.IfExp):
        return is_fixed(text.body) and is_fixed(text.orelse)
    return isinstance(text, ast.Constant | ast.Name | ast.Attribute)


def test_the_effects_use_prepared_statements_alone() -> None:
    paths = sorted((PACKAGE / "effects").glob("*.py"))

    assert [fault for path in paths for fault in faults(path.read_text(), path.name)] == []


def test_only_the_effects_use_the_driver() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "import asyncpg" in path.read_text()
    }

    assert users == {"effects"}


@pytest.mark.parametrize(
    "call",
    [
        "await connection.execute('BEGIN')",
        "await connection.executemany(SQL, rows)",
        "async with connection.transaction(): pass",
        "await connection.fetch(f'SELECT {name}')",
        "await connection.fetch('SELECT ' + name)",
        "await connection.fetch(SQL.format(name))",
        "await connection.copy_to_table('t')",
    ],
)
def test_a_call_that_may_use_the_simple_protocol_is_found(call) -> None:
    assert len(faults(f"async def f():\n    {call}", "f.py")) == 1
