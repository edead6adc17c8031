"""Shows that `make check` refuses forbidden imports, each added to a copy of the sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from boundaries import impure, network
from test_structure import PACKAGES, ROOT

VIOLATIONS = {
    "an HTTP client of the standard library in an API": (
        "services/tenant/src/paybill_tenant/api.py",
        "import urllib.request",
    ),
    "files and a database in a domain": (
        "services/tenant/src/paybill_tenant/domain/tenants.py",
        "import pathlib, sqlite3",
    ),
    "a provider's implementation in a consumer": (
        "services/billing/src/paybill_billing/consumer.py",
        "from paybill_billing.providers.stripe import provider",
    ),
    "a driver in a consumer": (
        "services/provisioner/src/paybill_provisioner/consumer.py",
        "from paybill_provisioner.drivers import local",
    ),
    "a webhook worker in an API": (
        "services/billing/src/paybill_billing/webhooks/api/messages.py",
        "from paybill_billing.webhooks import jobs",
    ),
}


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
    assert broken_contracts(copy) == []


@pytest.mark.parametrize(("path", "line"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_an_added_violation_is_refused(copy, path, line) -> None:
    module = copy / path
    text = module.read_text()
    module.write_text(f"{text}\n{line}\n")
    broken = broken_contracts(copy)
    module.write_text(text)
    dotted = ".".join(Path(path).with_suffix("").parts[3:])

    assert broken + impure(dotted, line) + network(dotted, line) != []


def broken_contracts(folder: Path) -> list[str]:
    """Returns the import contracts that the sources below `folder` break."""
    sources = [str(folder / member.relative_to(ROOT) / "src") for member in PACKAGES]
    check = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo"],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sources)},
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in check.stdout, check.stdout + check.stderr
    return [line for line in check.stdout.splitlines() if " BROKEN" in line]
