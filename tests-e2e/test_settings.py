"""The names of settings that are accepted are those that something reads."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from paybill_contracts.settings import SETTINGS
from paybill_stack.layout import SERVICES

ROOT = Path(__file__).parents[1]
SOURCES = [
    *ROOT.glob("cli/src/**/*.py"), *ROOT.glob("libs/stack/src/**/*.py"), *ROOT.glob("libs/runtime/src/**/streams.py"),
]  # fmt: skip


def test_every_setting_is_read_by_a_service_or_a_command():
    fields = {
        name.upper() for each in SERVICES for name in import_module(f"paybill_{each}.settings").Settings.model_fields
    }
    read = {name for path in SOURCES for name in re.findall(r'"PAYBILL_([A-Z_]+[A-Z])"', path.read_text())}

    assert fields | read == SETTINGS


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_refuses_an_unknown_setting_at_its_start(service):
    command = [sys.executable, "-P", "-m", f"paybill_{service}"]
    done = subprocess.run(command, env={"PAYBILL_LEASES": "10"}, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "PAYBILL_LEASES is no setting; did you mean PAYBILL_LEASE_S?" in done.stderr
