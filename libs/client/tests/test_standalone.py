"""Another service installs the library with contracts, nats-py and FastStream, and nothing else of Paybill."""

import ast
import sys
import tomllib
from pathlib import Path

import paybill_client

PACKAGE = Path(paybill_client.__file__).parent
PROJECT = PACKAGE.parents[1]
NEEDED = {"cryptography", "faststream", "nats", "paybill_contracts", "pydantic", "typing_extensions"}
OPTIONAL = {"postgres.py": {"asyncpg"}, "tracing.py": {"opentelemetry"}}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"paybill_client"}


def test_it_imports_only_what_it_declares() -> None:
    found = {path.name: _imported(path) - OPTIONAL.get(path.name, set()) for path in PACKAGE.rglob("*.py")}
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert {name: extra for name, names in found.items() if (extra := names - NEEDED)} == {}
    assert {
        name.partition(">")[0].partition("[")[0].removesuffix("-py").replace("-", "_") for name in declared
    } == NEEDED
