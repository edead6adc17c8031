"""A customer installs the library without any other package of Paybill."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import orjson
import paybill_licence
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_licence import base64url, jwk

PACKAGE = Path(paybill_licence.__file__).parent
PROJECT = PACKAGE.parents[1]
ALLOWED = {"cryptography", "orjson", "pydantic"}


def imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_it_imports_only_itself_and_its_declared_dependencies() -> None:
    found = set().union(*(imported(path.read_text()) for path in PACKAGE.rglob("*.py")))
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert found - set(sys.stdlib_module_names) <= ALLOWED | {"paybill_licence"}
    assert {name.partition(">")[0] for name in declared} == ALLOWED


def test_the_readme_example_runs_without_other_packages_of_paybill(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    (tmp_path / "license-keys.json").write_bytes(orjson.dumps({"keys": [jwk(base64url(key))]}))
    (tmp_path / "acme.licence").write_text("altered")
    example = (PROJECT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("paybill_") and not name.startswith("paybill_licence"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
{example}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("licence_malformed ")
