"""`paybill demo`: a customer journey end to end, as a newcomer runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from paybill_bench.process_statistics import process_tree
from paybill_stack.layout import SERVICES

WITHIN_S = 150
TARGET_S = 30
CUSTOMERS = ("acme", "aria", "bolt", "birch", "crane")
ONBOARDING = (
    "tenant.tenant_requested",
    "billing.account_opened",
    "billing.subscription_activated",
    "billing.entitlements_set",
    "provisioner.environment_planned",
    "provisioner.environment_ready",
    "tenant.tenant_activated",
)
AGENT = (
    "agent-gateway.agent_registered",
    "agent-gateway.run_started",
    "agent-gateway.action_done",
    "agent-gateway.run_ended",
    "agent-gateway.approval_requested",
    "agent-gateway.approval_granted",
    "agent-gateway.action_done",
    "agent-gateway.action_refused",
)
FAILED_PAYMENT = (
    "billing.subscription_grace_started",
    "billing.subscription_suspended",
    "tenant.tenant_suspended",
    "provisioner.access_closed",
    "billing.subscription_recovered",
    "tenant.tenant_reactivated",
    "provisioner.access_opened",
)
OFFBOARDING = (
    "billing.subscription_ended",
    "tenant.offboarding_scheduled",
    "tenant.offboarding_started",
    "provisioner.environment_retained",
    "tenant.tenant_retained",
    "billing.checkout_opened",
    "tenant.return_started",
    "provisioner.restoration_started",
    "provisioner.environment_ready",
    "tenant.tenant_activated",
)


@contextmanager
def demo(tmp_path, *arguments):
    """Starts a demo; its temporary folder is created below `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "paybill_cli", "demo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process):
    """Returns exit code, output and error output."""
    output, errors = process.communicate(timeout=WITHIN_S)
    return process.returncode, output, errors


def _have_ended(pids, within_s=10):
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _types(facts, slug):
    return [fact["subject"].split(".", 3)[3].rpartition(".")[0] for fact in facts if fact["tenant"] == slug]


def _in_order(expected, actual):
    left = iter(actual)
    return all(each in left for each in expected)


def test_the_demo_shows_the_main_job_and_observes_every_step(tmp_path):
    began = time.monotonic()
    with demo(tmp_path, "--json") as process:
        code, output, errors = ended(process)
    took_s = time.monotonic() - began

    lines = [json.loads(line) for line in output.splitlines()]
    facts = [line["data"] for line in lines if line["kind"] == "fact"]
    checks = [line["data"]["what"] for line in lines if line["kind"] == "check"]
    assert code == 0, errors
    assert [line["data"]["number"] for line in lines if line["kind"] == "chapter"] == list(range(1, 10))
    for slug in CUSTOMERS:
        assert _in_order(ONBOARDING, _types(facts, slug)), slug
        assert f"{slug} reads its own documents and no others" in checks
    assert _in_order(FAILED_PAYMENT, _types(facts, "bolt"))
    assert _in_order(OFFBOARDING, _types(facts, "crane"))
    assert {"billing.usage_recorded"} <= set(_types(facts, "acme"))
    assert _in_order(AGENT, _types(facts, "acme"))
    assert sum(check.endswith("tables are equal to the log") for check in checks) == len(SERVICES)
    assert all(len(fact["trace_id"]) == 32 and fact["cause"] for fact in facts)
    assert [fact["sequence"] for fact in facts] == list(range(1, len(facts) + 1))
    assert lines[-1]["kind"] == "summary"
    assert lines[-1]["data"]["facts"] == len(facts)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("paybill-demo-")]
    if len(os.sched_getaffinity(0)) > 1 and os.getloadavg()[0] < 2:
        assert took_s < TARGET_S


def test_a_folder_of_an_earlier_demo_can_be_reused(tmp_path):
    for suffix in ("", "-2"):
        with demo(tmp_path, "--data-dir", tmp_path / "data") as process:
            code, output, errors = ended(process)

        assert code == 0, errors
        assert f"ok crane{suffix} is retained" in output
        assert "\x1b" not in output + errors
        assert (tmp_path / "data" / "plans.yaml").exists()


def test_a_missing_event_is_named_and_the_logs_are_kept(tmp_path):
    with demo(tmp_path, "--json") as process:
        line = ""
        while '"number": 3' not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
        [folder] = [path for path in tmp_path.iterdir() if path.name.startswith("paybill-demo-")]
        stack = json.loads((folder / "stack.json").read_text())
        os.kill(stack["services"]["provisioner"]["pid"], signal.SIGSTOP)
        processes = process_tree(process.pid)[1:]
        code, _, errors = ended(process)
    error = json.loads(next(line for line in errors.splitlines() if '"error"' in line))["data"]

    assert code == 1
    assert error["code"] == "not_observed"
    assert "provisioner.environment_planned" in error["what"]
    assert "billing.entitlements_set" in error["why"]
    assert str(folder / "logs") in error["next"]
    assert (folder / "logs" / "provisioner.log").exists()
    assert _have_ended(processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path, number):
    with demo(tmp_path) as process:
        while "== 2" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        processes = process_tree(process.pid)[1:]
        process.send_signal(number)
        code, _, _ = ended(process)

    assert code == 130
    assert len(processes) > 6
    assert _have_ended(processes)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("paybill-demo-")]
