"""Guarantees of the whole stack: no address is stored in clear text, and one trace spans all services."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHIN_S = 150
ADDRESSES = [f"billing@{slug}.example".encode() for slug in ("acme", "aria", "bolt", "birch", "crane")]


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory):
    """Runs a demo; returns its folder and the facts that it showed."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    run = subprocess.run(
        [sys.executable, "-m", "paybill_cli", "demo", "--json", "--data-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        env=os.environ | {"PAYBILL_LOG_LEVEL": "DEBUG"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return folder, [line["data"] for line in lines if line["kind"] == "fact"]


def _files(folder: Path, *parts: str) -> list[Path]:
    return [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]


@pytest.mark.parametrize("part", ["nats", "postgres", "logs", "local", "secrets"])
def test_no_address_is_stored_in_clear_text(demo_output, part) -> None:
    folder, _ = demo_output
    files = _files(folder, part)

    assert files
    for path in files:
        content = path.read_bytes()
        for address in ADDRESSES:
            assert address not in content, f"{path.relative_to(folder)} holds an address in clear"
            assert address.hex().encode() not in content, f"{path.relative_to(folder)} holds an address as hex"


def test_the_search_finds_clear_text(demo_output) -> None:
    """The provider's database holds the address, and the stream and tables hold the slug: the search can fail."""
    folder, _ = demo_output

    assert any(ADDRESSES[0] in path.read_bytes() for path in _files(folder, "stripe-fake"))
    for part in ("nats", "postgres"):
        assert any(b"aria" in path.read_bytes() for path in _files(folder, part))


def test_no_secret_is_in_a_log_or_in_the_stream(demo_output) -> None:
    folder, _ = demo_output
    secrets = {path.read_text().strip() for path in _files(folder, "credentials")}
    lines = {line for secret in secrets for line in secret.splitlines() if len(line) > 12}

    assert len(lines) > 10
    for path in _files(folder, "logs", "nats/jetstream"):
        content = path.read_text(errors="replace")
        assert not [line for line in lines if line in content], f"{path.relative_to(folder)} holds a secret"


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("tenant.tenant_requested", "billing.account_opened"),
        ("billing.subscription_activated", "tenant.tenant_activated"),
        ("billing.subscription_recovered", "provisioner.access_opened"),
        ("billing.subscription_ended", "tenant.offboarding_scheduled"),
        ("tenant.offboarding_started", "tenant.tenant_retained"),
    ],
)
def test_one_trace_spans_a_request_and_its_last_fact(demo_output, first, last) -> None:
    _, facts = demo_output
    trace_ids = {
        name: {fact["trace_id"] for fact in facts if fact["subject"].split(".", 3)[3].startswith(f"{name}.v")}
        for name in (first, last)
    }

    assert trace_ids[last]
    assert trace_ids[last] <= trace_ids[first]
