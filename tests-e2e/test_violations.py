"""Shows which rule of `make check` refuses a forbidden import, each added to a copy of the sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from boundaries import dotted, dynamic, impure, network
from test_boundaries import sql
from test_structure import PACKAGES, ROOT, WORKSPACE

CHECKS = {"domain": impure, "network": network, "dynamic": dynamic, "sql": sql}
TENANT, BILLING, PROVISIONER = (f"services/{name}/src/paybill_{name}" for name in ("tenant", "billing", "provisioner"))
RUNTIME, CONTRACTS, LICENCE, STACK = (
    f"libs/{name}/src/paybill_{name}" for name in ("runtime", "contracts", "licence", "stack")
)
VIOLATIONS = {
    "an HTTP client of the standard library in an API": (
        "network",
        {f"{TENANT}/api/__init__.py": "import urllib.request"},
    ),
    "a network module through its parent": (
        "network",
        {f"{TENANT}/api/__init__.py": "import http\nhttp.client.HTTPConnection"},
    ),
    "a socket in the runtime": ("network", {f"{RUNTIME}/clock.py": "import socket"}),
    "TLS in the licence library": ("network", {f"{LICENCE}/token.py": "import ssl"}),
    "an HTTP client in the event definitions": ("network", {f"{CONTRACTS}/values.py": "from http import client"}),
    "files and a database in a domain": ("domain", {f"{TENANT}/domain/tenants.py": "import pathlib, sqlite3"}),
    "an import by name": (
        "dynamic",
        {f"{BILLING}/consumer.py": "import importlib\nimportlib.import_module('paybill_billing.providers.stripe')"},
    ),
    "an import by the built-in function": ("dynamic", {f"{BILLING}/consumer.py": "__import__('stripe')"}),
    "a provider's implementation in a consumer": (
        "entry-points implementations",
        {f"{BILLING}/consumer.py": "from paybill_billing.providers.stripe import provider"},
    ),
    "a provider's implementation through the package of all providers": (
        "entry-points implementations",
        {
            f"{BILLING}/providers/__init__.py": "from paybill_billing.providers.stripe.provider import Stripe",
            f"{BILLING}/consumer.py": "from paybill_billing.providers import Stripe",
        },
    ),
    "a provider's implementation in a job": (
        "implementations",
        {f"{BILLING}/webhooks/jobs/sync.py": "from paybill_billing.providers.stripe import provider"},
    ),
    "the registry of providers in a job": (
        "registry",
        {f"{BILLING}/webhooks/jobs/sync.py": "from paybill_billing.providers import registry"},
    ),
    "one provider in another": (
        "contexts",
        {f"{BILLING}/providers/stripe/prices.py": "from paybill_billing.providers.manual import tables"},
    ),
    "a context in the lower modules of the providers": (
        "contexts",
        {f"{BILLING}/providers/errors.py": "from paybill_billing.subscriptions import tables"},
    ),
    "a driver in a consumer": (
        "entry-points",
        {f"{PROVISIONER}/consumer.py": "from paybill_provisioner.drivers import local"},
    ),
    "a driver through the package of the service": (
        "entry-points",
        {
            f"{PROVISIONER}/__init__.py": "from paybill_provisioner.drivers import local",
            f"{PROVISIONER}/consumer.py": "from paybill_provisioner import local",
        },
    ),
    "effects through the tables of a higher context": (
        "entry-points",
        {f"{BILLING}/webhooks/tables.py": "from paybill_billing.licences import effects"},
    ),
    "a webhook worker in an API": (
        "context-shape entry-points",
        {f"{BILLING}/webhooks/api/messages.py": "from paybill_billing.webhooks import jobs"},
    ),
    "a service in the stack": ("spawned", {f"{STACK}/health.py": "from paybill_tenant import settings"}),
    "a service in a benchmark": (
        "spawned",
        {"bench/src/paybill_bench/facts.py": "from paybill_billing.usage import tables"},
    ),
    "the pytest plugin in a service": ("testing", {f"{TENANT}/app.py": "from paybill_runtime.testing import until"}),
    "a library of Paybill in the Stripe fake": (
        "strangers",
        {"libs/stripe-fake/src/paybill_stripe_fake/events.py": "from paybill_licence import base64url"},
    ),
    "a write of another context's table": (
        "sql",
        {f"{BILLING}/subscriptions/jobs/accounts.py": "STATEMENT = 'UPDATE webhooks SET target = NULL'"},
    ),
    "a query of another context's table": (
        "sql",
        {f"{BILLING}/webhooks/tables.py": "QUERY = 'SELECT id FROM accounts'"},
    ),
    "a query that combines a table with one of a higher context": (
        "sql",
        {f"{BILLING}/subscriptions/tables.py": "QUERY = 'SELECT id FROM accounts JOIN webhooks USING (customer)'"},
    ),
    "a write of a table of the runtime in another module": (
        "sql",
        {f"{RUNTIME}/jobs/worker.py": "STATEMENT = 'delete from chassis.job'"},
    ),
    "a query of the outbox in a service": (
        "sql",
        {f"{TENANT}/tables.py": "QUERY = 'SELECT count(*) FROM chassis.outbox'"},
    ),
    "a write of a table whose name is a value": (
        "sql",
        {f"{TENANT}/tables.py": "STATEMENT = f'DELETE FROM {TENANTS.table.name}'"},
    ),
    "a write without text": ("sql", {f"{TENANT}/api/__init__.py": "from sqlalchemy import update"}),
}
"""Lines that are added to modules, after the only rules that refuse them: import contracts and checks of the source."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Copies the settings and every package's sources."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for member in PACKAGES:
        shutil.copytree(
            member / "src", folder / member.relative_to(ROOT) / "src", ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def test_the_sources_break_no_contract(copy) -> None:
    assert broken_contracts(copy) == set()


@pytest.mark.parametrize(("rules", "added"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_an_added_violation_is_refused(copy, rules, added) -> None:
    before = {path: (copy / path).read_text() for path in added}
    for path, lines in added.items():
        (copy / path).write_text(f"{before[path]}\n{lines}\n")
    broken = broken_contracts(copy)
    for path, text in before.items():
        (copy / path).write_text(text)
    found = {
        name for name, check in CHECKS.items() for path, lines in added.items() if check(dotted(Path(path)), lines)
    }

    assert broken | found == set(rules.split())


def broken_contracts(folder: Path) -> set[str]:
    """Returns the ids of the import contracts that the sources below `folder` break."""
    sources = [str(folder / member.relative_to(ROOT) / "src") for member in PACKAGES]
    check = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo"],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sources), "COLUMNS": "200"},  # each contract on one line
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in check.stdout, check.stdout + check.stderr
    contracts = WORKSPACE["tool"]["importlinter"]["contracts"]
    return {contract["id"] for contract in contracts if f"\n{contract['name']} BROKEN" in check.stdout}
