"""Services keep their boundaries: pure domains, no network outside effects, and contracts that name every module."""

import tomllib
from functools import partial
from pathlib import Path

import pytest
from boundaries import (
    CHASSIS_OWNERS,
    DYNAMIC_USERS,
    NAMED_TABLE_WRITERS,
    NETWORK_USERS,
    dotted,
    dynamic,
    foreign_sql,
    impure,
    network,
    table_owners,
)
from test_structure import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
SERVICES = sorted(path for path in (ROOT / "services").glob("*/src/*") if path.is_dir())
MODULES = sorted(path for service in SERVICES for path in service.rglob("*.py"))
SOURCES = {dotted(path): path.read_text() for member in PACKAGES for path in sorted((member / "src").rglob("*.py"))}
BILLING = ROOT / "services/billing/src/paybill_billing"
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
OWNERS = table_owners(SOURCES)
sql = partial(foreign_sql, owners=OWNERS, layers=CONTRACTS["contexts"]["layers"])
EFFECTS = {"effects", "drivers", "jobs", "work"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_domain_imports_only_pure_modules(path: Path) -> None:
    assert impure(dotted(path), path.read_text()) == []


def test_network_modules_of_the_standard_library_are_used_by_effects_alone() -> None:
    assert {name: network(name, text) for name, text in SOURCES.items() if network(name, text)} == {}


def test_modules_are_imported_by_their_names() -> None:
    assert {name: dynamic(name, text) for name, text in SOURCES.items() if dynamic(name, text)} == {}


def test_every_exception_is_needed() -> None:
    assert [name for name in NETWORK_USERS if not network("other", SOURCES[name])] == []
    assert [name for name in DYNAMIC_USERS if not dynamic("other", SOURCES[name])] == []
    assert [name for name in NAMED_TABLE_WRITERS if not sql("other", SOURCES[name])] == []


def test_the_sql_of_a_table_is_in_the_module_that_owns_it() -> None:
    sources = {name: text for name, text in SOURCES.items() if ".migrations" not in name}

    assert {name: sql(name, text) for name, text in sources.items() if sql(name, text)} == {}


def test_every_table_of_the_runtime_has_an_owner() -> None:
    tables = {name for name, module in OWNERS.items() if module == "paybill_runtime.database.tables"}

    assert {name.replace("paybill_runtime", "chassis") for name in tables} == CHASSIS_OWNERS.keys()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paybill_tenant.domain.tenants", "def f():\n    import pathlib\n"),
        ("paybill_tenant.domain.tenants", "from os import environ"),
        ("paybill_billing.usage.domain", "from paybill_runtime import clock"),
        ("paybill_billing.usage.domain.usage", "from paybill_billing.usage.tables import METERS"),
        ("paybill_billing.providers.port", "import httpx"),
        ("paybill_billing.usage.domain", "from . import tables"),
        ("paybill_billing.usage.domain", "AT = datetime.now(UTC)"),
        ("paybill_billing.usage.domain", "FILE = open('plans.yaml')"),
    ],
)
def test_an_impure_domain_is_found(module: str, source: str) -> None:
    assert impure(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paybill_tenant.api", "import urllib.request"),
        ("paybill_tenant.api", "from urllib import request"),
        ("paybill_billing.consumer", "from http.client import HTTPConnection"),
        ("paybill_billing.webhooks.jobs", "def f():\n    import socket\n"),
        ("paybill_tenant.api", "import http\nhttp.client.HTTPConnection('h')"),
        ("paybill_tenant.api", "import urllib.parse\nurllib.request.urlopen('u')"),
        ("paybill_tenant.api", "import http as h"),
    ],
)
def test_a_network_module_outside_effects_is_found(module: str, source: str) -> None:
    assert network(module, source)


@pytest.mark.parametrize(
    "source",
    [
        "from importlib import import_module",
        "import importlib",
        "import importlib.util as u",
        "from importlib.metadata import entry_points",
        "import runpy",
        "from pkgutil import resolve_name",
        "__import__('stripe')",
        "load = __builtins__.__import__",
    ],
)
def test_a_dynamic_import_is_found(source: str) -> None:
    assert dynamic("paybill_tenant.api", source)


def test_every_context_of_billing_is_in_the_contracts() -> None:
    contexts = {dotted(path.parent) for path in BILLING.rglob("tables.py") if path.parent != BILLING}
    layers = {name.strip() for layer in CONTRACTS["contexts"]["layers"] for name in layer.split("|")}
    top = {path.stem for path in BILLING.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    parts = {
        f"providers.{path.stem}"
        for path in (BILLING / "providers").iterdir()
        if path.stem not in ("__init__", "__pycache__")
    }

    assert set(CONTRACTS["context-shape"]["containers"]) == contexts - {"paybill_billing.providers"}
    assert layers == (top - {"__init__", "providers"}) | parts
    assert "ignore_imports" not in CONTRACTS["contexts"]


def test_every_provider_is_protected() -> None:
    protected = {".".join(name.split(".")[:3]) for name in CONTRACTS["implementations"]["protected_modules"]}
    packages = {dotted(path.parent) for path in (BILLING / "providers").glob("*/__init__.py")}

    assert protected == packages - {"paybill_billing.providers.port"}


def test_every_module_of_effects_drivers_and_jobs_is_forbidden_to_entry_points() -> None:
    forbidden = CONTRACTS["entry-points"]["forbidden_modules"]
    found = {
        dotted(path)
        for service in SERVICES
        for path in service.rglob("*")
        if path.stem in EFFECTS and path.parent.name not in EFFECTS and path.suffix in {"", ".py"}
    }

    assert found
    assert [name for name in sorted(found) if not any(_matches(name, pattern) for pattern in forbidden)] == []


def test_every_api_and_consumer_module_is_an_entry_point() -> None:
    sources = CONTRACTS["entry-points"]["source_modules"]
    found = {dotted(path) for service in SERVICES for path in service.rglob("*") if path.stem in {"api", "consumer"}}

    assert [name for name in sorted(found) if not any(_matches(name, pattern) for pattern in sources)] == []


def _matches(name: str, pattern: str) -> bool:
    parts, wild = name.split("."), pattern.split(".")
    return len(parts) == len(wild) and all(each in ("*", part) for part, each in zip(parts, wild, strict=True))
