"""The code base keeps its own promises: what ruff, mypy and the import rules cannot see."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = sorted(
    path.parent
    for pattern in ("libs/*", "services/*", "cli", "bench")
    for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))

MODULE_LINES = 400
FOLDERS = {".ci", "bench", "cli", "deploy", "docs", "libs", "services", "tests-e2e"}
LIBRARIES = {"contracts", "runtime", "embedded", "stripe-fake", "stack", "licence", "definitions"}
NAMELESS = {"utils", "util", "helpers", "common", "base", "manager", "managers", "service", "services", "misc"}
TWINS = {"unittest.mock", "mock", "pytest_mock", "sqlite3", "aiosqlite", "faststream.nats.testing", "TestNatsBroker"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


WORKSPACE = toml(ROOT / "pyproject.toml")


def python_files() -> list[Path]:
    folders = [*MEMBERS, ROOT / "tests-e2e"]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def committed_text() -> Iterator[tuple[str, str]]:
    """Every text file of ours outside the environment and the caches."""
    skipped = {".git", ".venv", ".paybill", "__pycache__", "node_modules"}
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and not any(
            part in skipped or part.endswith("_cache") for part in path.relative_to(ROOT).parts
        ):
            try:
                yield name(path), path.read_text()
            except UnicodeDecodeError:
                continue


def requirements(members: list[Path], groups: tuple[str, ...]) -> list[Requirement]:
    tables = [toml(member / "pyproject.toml")["project"] for member in members]
    texts = [text for table in tables for text in table.get("dependencies", [])]
    texts += [text for table in tables for extra in table.get("optional-dependencies", {}).values() for text in extra]
    texts += [text for group in groups for text in WORKSPACE["dependency-groups"][group]]
    return [Requirement(text) for text in texts if not text.startswith("paybill-")]


def pins(*locks: str) -> dict[str, tuple[str, int]]:
    """Returns version and number of hashes of every package in these locks."""
    entries = [entry for lock in locks for entry in re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())]
    heads = [re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry) for entry in entries]
    return {
        canonicalize_name(head[1]): (head[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)))
        for head, entry in zip(heads, entries, strict=True)
        if head
    }


def test_the_folders_at_the_top_are_the_ones_that_were_decided() -> None:
    found = {
        path.name for path in ROOT.iterdir() if path.is_dir() and path.name.startswith(".") is (path.name == ".ci")
    }

    assert found <= FOLDERS
    assert {path.name for path in (ROOT / "libs").iterdir()} == LIBRARIES


@pytest.mark.parametrize("member", MEMBERS, ids=name)
def test_a_member_of_the_workspace_is_typed_and_never_uploaded(member: Path) -> None:
    project = toml(member / "pyproject.toml")["project"]
    package = project["name"].replace("-", "_")

    assert project["name"] == f"paybill-{member.name}"
    assert project["license"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in project["classifiers"]
    assert (member / "src" / package / "py.typed").exists()


@pytest.mark.parametrize("member", MEMBERS, ids=name)
def test_a_member_of_the_workspace_is_known_to_every_tool(member: Path) -> None:
    tool = WORKSPACE["tool"]

    assert f"paybill_{member.name.replace('-', '_')}" in tool["importlinter"]["root_packages"]
    assert f"{name(member)}/src" in tool["mypy"]["mypy_path"]
    if member.name != "cli":
        assert tool["uv"]["sources"][f"paybill-{member.name}"] == {"workspace": True}


def test_every_service_is_held_to_the_shape_of_a_service() -> None:
    services = {f"paybill_{path.name.replace('-', '_')}" for path in (ROOT / "services").iterdir()}
    rules = {rule["id"]: rule for rule in WORKSPACE["tool"]["importlinter"]["contracts"]}

    assert {*rules["shape"]["containers"], *rules["contexts"]["containers"]} == services
    assert set(rules["spawned"]["forbidden_modules"]) == services
    assert services <= set(rules["no-calls"]["source_modules"])


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_a_module_is_short_and_named_after_what_it_does(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= MODULE_LINES, "a module past 400 lines is two modules"
    assert not {path.stem, path.parent.name} & NAMELESS


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_nothing_real_is_replaced_by_a_twin_or_a_patch(path: Path) -> None:
    if path == Path(__file__):
        return
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(alias.name for alias in node.names)}
    patched = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr" and not sets_a_constant(node)
    ]

    assert not imported & TWINS
    assert not patched


def sets_a_constant(call: ast.Call) -> bool:
    """A delay or a limit may be made small; behaviour may not be replaced."""
    return len(call.args) == 3 and isinstance(call.args[1], ast.Constant) and str(call.args[1].value).isupper()


def test_every_rule_that_is_switched_off_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    start = text.index("[tool.ruff.lint]\n")
    lists = text[start : text.index("\n[tool.mypy]")]
    entries = [line for line in lists.splitlines() if re.match(r'    "[A-Z]+[0-9]*",', line)]

    assert entries
    assert [line for line in entries if not re.search(r"# \w", line)] == []


PRODUCT_LOCK, DEV_LOCK = "requirements.lock", "requirements-dev.lock"
PRODUCT = [member for member in MEMBERS if member.name != "bench"]


@pytest.mark.parametrize(
    ("members", "groups", "locks"),
    [(PRODUCT, ("build",), (PRODUCT_LOCK,)), (MEMBERS, ("build", "dev"), (PRODUCT_LOCK, DEV_LOCK))],
    ids=["product", "all"],
)
def test_every_requirement_is_met_by_a_pin(
    members: list[Path], groups: tuple[str, ...], locks: tuple[str, ...]
) -> None:
    locked = pins(*locks)
    unmet = [
        str(need)
        for need in requirements(members, groups)
        if not need.specifier.contains(locked.get(canonicalize_name(need.name), ("", 0))[0] or "0")
    ]

    assert unmet == [], "run `make lock` and commit both locks"


def test_the_product_lock_contains_no_development_tool() -> None:
    tools = {canonicalize_name(need.name) for need in requirements([], ("dev",))} - {"pyyaml"}

    assert not (tools | {"dbos"}) & pins(PRODUCT_LOCK).keys()
    assert not pins(PRODUCT_LOCK).keys() & pins(DEV_LOCK).keys()


@pytest.mark.parametrize("lock", [PRODUCT_LOCK, DEV_LOCK])
def test_every_pin_has_a_hash(lock: str) -> None:
    assert pins(lock)
    assert [package for package, (_, hashes) in pins(lock).items() if not hashes] == []


def test_no_file_names_a_package_index_or_somebodys_machine() -> None:
    # Put together here, so that this file does not find itself.
    told = re.compile(
        "|".join(
            (
                "--(extra-)?index" + "-url",
                "--find" + "-links",
                "files.python" + "hosted",
                "/ho" + "me/[a-z]",
                "/ro" + "ot/",
            )
        )
    )
    found = [f"{file}: {match[0]}" for file, text in committed_text() for match in told.finditer(text)]

    assert found == []
    assert not (ROOT / "uv.lock").exists()


def test_every_target_of_the_makefile_has_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()

    assert [target for target in targets if not re.search(rf"^{target}:.*## \w", text, re.MULTILINE)] == []


def test_the_index_of_decisions_lists_them_all() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    listed = re.findall(r"^\| \[(\d{4})\]\(([\w-]+\.md)\)", index, re.MULTILINE)

    assert [file for _, file in listed] == [path.name for path in RECORDS]
    assert all(file.startswith(number) for number, file in listed)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_decision_is_one_page_with_a_line_to_quote_and_a_check(record: Path) -> None:
    text = record.read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    enforced = text.split("## Enforced by\n")[-1]
    paths = [path for path in re.findall(r"`([^`\s]+)`", enforced) if "/" in path or "." in path]
    decision = text.split("## Decision\n")[-1].split("\n\n")[0]

    assert text.startswith(f"# {record.name[:4]}: ")
    assert headings == ["Context", "Decision", "Consequences", "Enforced by"]
    assert len(text.splitlines()) <= 60
    assert len(re.findall(r"[.!?](?:\s|$)", decision)) <= 2
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
