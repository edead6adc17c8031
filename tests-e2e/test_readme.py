"""Runs every command and every piece of Python in the README."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import clean_environment
import laptop_stack
import pytest
from paybill_stripe_fake.client import FakeControl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WITHIN_S = 60


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands():
    """Returns the lines of the console blocks without their comments."""
    lines = [line.partition("#")[0].strip() for block in _blocks("console") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Starts the stack of `make up`; returns its folder and the operator's key."""
    with laptop_stack.running(tmp_path_factory.mktemp("readme") / "data") as variables:
        yield variables


def _run(arguments, stack, folder):
    return subprocess.run(
        [sys.executable, "-m", "paybill_cli", *arguments],
        env=os.environ | stack,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


@pytest.fixture(scope="module")
def tenant_id(stack, tmp_path_factory):
    """Returns the tenant that the README creates, after paying at its checkout."""
    folder = tmp_path_factory.mktemp("create")
    line = next(line for line in _commands() if line.startswith("paybill tenant create"))
    done = _run([*shlex.split(line)[1:], "--json"], stack, folder)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)["data"]
    fake, _, checkout = made["checkout_url"].partition("/fake/checkout/")
    with FakeControl(fake, "no key is needed to pay") as control:
        control.pay_checkout(checkout)
    deadline = time.monotonic() + WITHIN_S
    while (
        time.monotonic() < deadline
        and _run(["tenant", "show", "acme"], stack, folder).stdout.find("status: active") < 0
    ):
        time.sleep(0.05)
    return made["id"]


def test_every_make_target_in_it_exists():
    named = {line.split()[1] for line in _commands() if line.startswith("make ")} | {"help"}
    there = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"demo", "up", "test"} <= named
    assert named <= there


def test_every_link_resolves():
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_paybill_command_runs(stack, tenant_id, tmp_path):
    usage = {"tenant_id": tenant_id, "meter": "calls", "quantity": 3, "occurred_at": _now()}
    (tmp_path / "usage.json").write_text(json.dumps(usage))
    lines = [line for line in _commands() if line.startswith("paybill ") and "tenant create" not in line]

    assert len(lines) >= 4
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[:2] == ["events", "tail"]:  # it follows the log without end
            arguments.append("--no-follow")
        done = _run(arguments, stack, tmp_path)
        assert done.returncode == 0, f"{line}: {done.stdout[-500:]} {done.stderr[-500:]}"


def test_the_python_programs_publish_and_subscribe_in_a_clean_environment(stack, tenant_id, tmp_path):
    create = next(line for line in _commands() if line.startswith("paybill subscriber create"))
    assert _run(shlex.split(create)[1:], stack, tmp_path).returncode == 0
    python = clean_environment.make(tmp_path / "environment", "paybill-client")
    (tmp_path / ".paybill").symlink_to(stack["PAYBILL_DATA_DIR"])
    publishing, subscribing = _blocks("python")
    before = _total(stack, tenant_id, tmp_path)
    (tmp_path / "publishing.py").write_text(publishing.replace("ten_…", tenant_id))
    (tmp_path / "subscribing.py").write_text(subscribing)

    subprocess.run([python, "-I", "publishing.py"], cwd=tmp_path, timeout=WITHIN_S, check=True)
    with subprocess.Popen(
        [python, "-I", "-u", "subscribing.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        printed = next((line for line in process.stdout if line.split()[1:] == ["calls", str(before + 12)]), "")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WITHIN_S)

    assert all(len([line for line in program.splitlines() if line]) <= 10 for program in (publishing, subscribing))
    assert printed, "the event of the published usage was not printed"
    assert (process.returncode, errors) == (0, ""), "Ctrl-C ends it quietly"
    assert _total(stack, tenant_id, tmp_path) == before + 12


def test_publishing_needs_few_packages(tmp_path):
    needed = clean_environment.requirements("paybill-client")

    assert {name for name in needed if name.startswith("paybill-")} == {
        "paybill-client",
        "paybill-contracts",
        "paybill-licence",
    }
    assert len(needed) <= 20


def test_the_table_of_documents_lists_every_one():
    assert [path.name for path in sorted((ROOT / "docs").glob("*.md")) if f"| [docs/{path.name}]" not in README] == []


def _total(stack, tenant_id, folder):
    """Returns the tenant's total usage in facts."""
    done = _run(["events", "tail", "--no-follow", "--tenant", tenant_id, "--json"], stack, folder)
    facts = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    return sum(fact["payload"]["quantity"] for fact in facts if fact["type"] == "billing.usage_recorded")


def _now():
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
