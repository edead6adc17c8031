"""What only the whole stack can show: no address stands in clear anywhere, and one trace runs through every service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHIN_S = 150
ADDRESSES = [f"billing@{slug}.example".encode() for slug in ("acme", "aria", "bolt", "birch", "crane")]


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """What a demo left: its folder, and the facts that it showed."""
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
def test_an_address_stands_nowhere_in_clear(after, part) -> None:
    folder, _ = after
    files = _files(folder, part)

    assert files
    for path in files:
        content = path.read_bytes()
        for address in ADDRESSES:
            assert address not in content, f"{path.relative_to(folder)} holds an address in clear"
            assert address.hex().encode() not in content, f"{path.relative_to(folder)} holds an address as hex"


def test_the_search_does_find_what_is_in_clear(after) -> None:
    """The provider's own books hold the address, and the stream and tables hold the slug: the search can fail."""
    folder, _ = after

    assert any(ADDRESSES[0] in path.read_bytes() for path in _files(folder, "stripe-fake"))
    for part in ("nats", "postgres"):
        assert any(b"aria" in path.read_bytes() for path in _files(folder, part))


def test_no_secret_stands_in_a_log_or_in_the_stream(after) -> None:
    folder, _ = after
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
        ("billing.subscription_ended", "tenant.tenant_retained"),
    ],
)
def test_one_trace_runs_from_what_came_in_to_the_last_fact(after, first, last) -> None:
    _, facts = after
    traces = {
        name: {fact["trace_id"] for fact in facts if fact["subject"].split(".", 3)[3].startswith(f"{name}.v")}
        for name in (first, last)
    }

    assert traces[last]
    assert traces[last] <= traces[first]
