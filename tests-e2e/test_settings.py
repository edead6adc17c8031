"""The names of settings that are accepted are those that something reads."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from paybill_contracts.settings import SETTINGS
from paybill_stack.environment import POLICIES
from paybill_stack.layout import SERVICES

ROOT = Path(__file__).parents[1]
SOURCES = [
    *ROOT.glob("cli/src/**/*.py"), *ROOT.glob("libs/stack/src/**/*.py"), *ROOT.glob("libs/runtime/src/**/streams.py"),
]  # fmt: skip

DECIDED_BY_STACK = {
    *("API_KEYS_FILE", "BLUEPRINTS_FILE", "CATALOGUE_FILE", "DATABASE_PASSWORD_FILE", "DATABASE_URL"),
    *(
        "SIGNED_FROM_SEQUENCE",
        "DEFAULT_PROVIDER",
        "HTTP_HOST",
        "HTTP_PORT",
        "IDENTITY_DIR",
        "LOCAL_DATABASE_PASSWORD_FILE",
    ),
    *("LOCAL_DATABASE_URL", "LOCAL_DIR", "LOG_LEVEL", "NATS_PASSWORD_FILE", "NATS_URL", "NATS_USER", "PROVIDERS"),
    *("PUBLISHERS_FILE", "SECRETS_DIR", "STRIPE_ACCOUNT", "STRIPE_API_BASE", "STRIPE_API_KEY_FILE"),
    *("STRIPE_EVENTS_EVERY_S", "STRIPE_LIVEMODE", "STRIPE_WEBHOOK_SECRETS_FILE"),
}
"""Addresses, files, secrets and providers, which the stack or its options set; the log level is inherited anyway."""


def fields_of_services():
    return {
        name.upper()
        for each in SERVICES
        for name in import_module(f"paybill_{each.replace('-', '_')}.settings").Settings.model_fields
    }


def test_a_stack_passes_on_every_rule_and_time_of_its_services():
    assert {name.removeprefix("PAYBILL_") for name in POLICIES} == fields_of_services() - DECIDED_BY_STACK


def test_every_setting_is_read_by_a_service_or_a_command():
    fields = fields_of_services()
    read = {name for path in SOURCES for name in re.findall(r'"PAYBILL_([A-Z_]+[A-Z])"', path.read_text())}

    assert fields | read == SETTINGS


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_refuses_an_unknown_setting_at_its_start(service):
    command = [sys.executable, "-P", "-m", f"paybill_{service.replace('-', '_')}"]
    done = subprocess.run(command, env={"PAYBILL_LEASES": "10"}, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "PAYBILL_LEASES is no setting; did you mean PAYBILL_LEASE_S?" in done.stderr
