"""Checks of the code base that ruff, mypy and the import contracts cannot express."""

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
PACKAGES = sorted(
    path.parent
    for pattern in ("libs/*", "services/*", "cli", "bench")
    for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))

MODULE_LINES = 400
FOLDERS = {".ci", "bench", "cli", "deploy", "docs", "examples", "libs", "services", "tests-e2e"}
LIBRARIES = {"client", "contracts", "runtime", "embedded", "stripe-fake", "stack", "licence", "definitions"}
UNSPECIFIC = {"utils", "util", "helpers", "common", "base", "manager", "managers", "service", "services", "misc"}
SUBSTITUTES = {
    "unittest.mock",
    "mock",
    "pytest_mock",
    "sqlite3",
    "aiosqlite",
    "faststream.nats.testing",
    "TestNatsBroker",
}

FORBIDDEN_WORDS = {
    "react to an event: subscribe, handle": "hear hears heard hearing hearings hearer hearers",
    "record or publish an event: emit, record, publish": "say says said saying tell tells told telling",
    "read the provider's object: fetch, sync, snapshot": "look looks looked looking seen following traces",
    "state that someone asked for: desired, target": "wanted wish wishes wished",
    "entry to the bus: ingress, intake": "offer offers offered offering offerings",
    "message that keeps failing: retry queue, dead letter": "park parks parked parking parkings",
    "consumer of the log: consumer, ordered consumer": "feed feeds feeding reader readers listening",
    "one transaction for many decisions: group commit": "besides also",
    "optimistic concurrency: expected revision, precondition": "insist insists insisted",
    "ownership of a partition: lease, epoch, fencing token": "duty duties member members bury buries buried",
    "concurrent requests: admission control, concurrency limit": "places busy door doors",
    "log and database belong together: restore guard": "agreement agreements lineage lineages",
    "payment reminders and access limits: dunning, grace period": "silence silences lapse lapses lapsed lapsing",
    "customers on another plan version: plan migration": "move moves moved moving mover movers",
    "subscription that gives access: entitling subscription": "giving standing standings",
    "separation of tenants: isolation, row-level security": "wall walls trick tricks",
    "test double of Stripe: fake": "standin standins",
    "crash tests: fault injection, failpoint, invariant": "nursery nurseries books plant plants planted planting",
}
"""The right column of the glossary (docs/glossary.md), word forms by the concept and the words to use instead."""

FORBIDDEN = {form: concept for concept, forms in FORBIDDEN_WORDS.items() for form in forms.split()}
ALLOWED = {
    "an event class or its field, published in a schema": """
        LicenceLapsing ManualOfferMade ManualOfferWithdrawn MoveStarted MoveProgressed MovePaused MoveResumed
        MoveFinished Offer OfferingNoted UsageMemberCounted UsageWatermarkMoved WantedChange
        also_changes looked member members_id move_id moved offer offering offerings seen_at wanted
    """,
    "published over HTTP": "LAPSING access_wanted",
    "an offer is a quotation of the provider `manual`": """
        NoValidOfferError OFFER_VALID OFFERS OfferBody OfferPage _HAS_OFFER _offer_url offer_url offers show_offers
    """,
    "a setting, PAYBILL_MANUAL_OFFER_URL": "manual_offer_url",
    "a price book, the word of the field": "price_books",
    "a rule of the policy, published in a schema": "moves_data",
    "a tenant on another placement, the word of the published command": """
        Move MoveBody MoveRequested is_moving move moved_from moves with_move
    """,
    "a class of drift, published in a schema": "MOVED",
    "a column of a table": "look",
    "a migration that was published": "0001_tenants_and_offerings 0002_leases_of_members 0003_insist",
    "csv.reader of the standard library": "reader",
}
"""Identifiers with a forbidden word, by the reason why they keep it: published, or another ordinary meaning."""

BAD_DOCSTRING = re.compile(r"(What|Who|Whoever|How|Where|Whether)\b")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


WORKSPACE = toml(ROOT / "pyproject.toml")


def python_files() -> list[Path]:
    folders = [*PACKAGES, ROOT / "tests-e2e"]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def committed_text() -> Iterator[tuple[str, str]]:
    """Yields the name and text of every text file outside the environment and the caches."""
    skipped = {".git", ".venv", ".paybill", "__pycache__", "node_modules"}
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and not any(
            part in skipped or part.endswith("_cache") for part in path.relative_to(ROOT).parts
        ):
            try:
                yield name(path), path.read_text()
            except UnicodeDecodeError:
                continue


def requirements(packages: list[Path], groups: tuple[str, ...]) -> list[Requirement]:
    tables = [toml(member / "pyproject.toml")["project"] for member in packages]
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


def test_the_top_level_folders_are_those_of_the_decision() -> None:
    found = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and path.name.startswith(".") is (path.name == ".ci") and path.name != "__pycache__"
    }

    assert found <= FOLDERS
    assert {path.name for path in (ROOT / "libs").iterdir()} == LIBRARIES


@pytest.mark.parametrize("member", PACKAGES, ids=name)
def test_a_package_is_typed_and_never_uploaded(member: Path) -> None:
    project = toml(member / "pyproject.toml")["project"]
    package = project["name"].replace("-", "_")

    assert project["name"] == f"paybill-{member.name}"
    assert project["license"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in project["classifiers"]
    assert (member / "src" / package / "py.typed").exists()


@pytest.mark.parametrize("member", PACKAGES, ids=name)
def test_a_package_is_known_to_every_tool(member: Path) -> None:
    tool = WORKSPACE["tool"]

    assert f"paybill_{member.name.replace('-', '_')}" in tool["importlinter"]["root_packages"]
    assert f"{name(member)}/src" in tool["mypy"]["mypy_path"]
    if member.name != "cli":
        assert tool["uv"]["sources"][f"paybill-{member.name}"] == {"workspace": True}


def test_every_service_is_in_the_contracts_about_services() -> None:
    services = {f"paybill_{path.name.replace('-', '_')}" for path in (ROOT / "services").iterdir()}
    rules = {rule["id"]: rule for rule in WORKSPACE["tool"]["importlinter"]["contracts"]}

    assert {*rules["shape"]["containers"], *rules["contexts"]["containers"]} == services
    assert set(rules["spawned"]["forbidden_modules"]) == services
    assert services <= set(rules["no-calls"]["source_modules"])


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_a_module_is_short_and_has_a_specific_name(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= MODULE_LINES, "a module past 400 lines is two modules"
    assert not {path.stem, path.parent.name} & UNSPECIFIC


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_no_test_patches_our_code_or_uses_an_in_memory_substitute(path: Path) -> None:
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

    assert not imported & SUBSTITUTES
    assert not patched


def sets_a_constant(call: ast.Call) -> bool:
    """Returns True if a call of monkeypatch replaces a delay or a limit, which is allowed; behaviour is not."""
    return len(call.args) == 3 and isinstance(call.args[1], ast.Constant) and str(call.args[1].value).isupper()


def test_every_disabled_rule_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    start = text.index("[tool.ruff.lint]\n")
    lists = text[start : text.index("\n[tool.mypy]")]
    entries = [line for line in lists.splitlines() if re.match(r'    "[A-Z]+[0-9]*",', line)]

    assert entries
    assert [line for line in entries if not re.search(r"# \w", line)] == []


PRODUCT_LOCK, DEV_LOCK = "requirements.lock", "requirements-dev.lock"
PRODUCT = [member for member in PACKAGES if member.name != "bench"]


@pytest.mark.parametrize(
    ("packages", "groups", "locks"),
    [(PRODUCT, ("build",), (PRODUCT_LOCK,)), (PACKAGES, ("build", "dev"), (PRODUCT_LOCK, DEV_LOCK))],
    ids=["product", "all"],
)
def test_every_requirement_is_met_by_a_pin(
    packages: list[Path], groups: tuple[str, ...], locks: tuple[str, ...]
) -> None:
    locked = pins(*locks)
    unmet = [
        str(need)
        for need in requirements(packages, groups)
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


def test_no_file_names_a_package_index_or_a_path_of_a_machine() -> None:
    # The parts are joined here, so that this file does not match.
    pattern = re.compile(
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
    found = [f"{file}: {match[0]}" for file, text in committed_text() for match in pattern.finditer(text)]

    assert found == []
    assert not (ROOT / "uv.lock").exists()


def test_every_target_of_the_makefile_has_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()

    assert [target for target in targets if not re.search(rf"^{target}:.*## \w", text, re.MULTILINE)] == []


def test_the_index_lists_every_decision() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    listed = re.findall(r"^\| \[(\d{4})\]\(([\w-]+\.md)\)", index, re.MULTILINE)

    assert [file for _, file in listed] == [path.name for path in RECORDS]
    assert all(file.startswith(number) for number, file in listed)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_decision_is_one_page_with_a_short_decision_and_a_check(record: Path) -> None:
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


def words(identifier: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def defined_identifiers(path: Path) -> Iterator[str]:
    """Yields the names that a module defines, its own name included; names of libraries are only used."""
    yield from (path.stem, path.parent.name)
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.alias(asname=str(alias)):
                yield alias


def forbidden_identifiers() -> dict[str, str]:
    """Returns every identifier with a forbidden word, and the first file that defines it."""
    found: dict[str, str] = {}
    for path in python_files():
        for identifier in defined_identifiers(path):
            if words(identifier) & FORBIDDEN.keys():
                found.setdefault(identifier, name(path))
    return found


def test_identifiers_use_the_words_of_the_glossary() -> None:
    found = forbidden_identifiers()
    allowed = {identifier for identifiers in ALLOWED.values() for identifier in identifiers.split()}
    remedies = {
        f"{identifier} in {file}": [FORBIDDEN[word] for word in sorted(words(identifier) & FORBIDDEN.keys())]
        for identifier, file in found.items()
        if identifier not in allowed
    }

    assert remedies == {}
    assert sorted(allowed - found.keys()) == [], "allowed, but nowhere defined"


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_docstrings_start_with_a_verb_or_a_noun(path: Path) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)
    ]

    assert [text.splitlines()[0] for text in docstrings if BAD_DOCSTRING.match(text)] == []
