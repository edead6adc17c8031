"""Differences between what is paid for and what is built, on a real stack: environment, tenant, doctor and why."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from paybill_cli.branches import Branch
from paybill_cli.exit_codes import ExitCode
from paybill_cli.tree import TREE
from paybill_embedded.ports import LOOPBACK
from paybill_embedded.postgres import SUPERUSER
from polling import until


def sql(stack: Any, statement: str) -> None:
    """Runs a statement as the superuser of the stack's PostgreSQL."""

    async def run() -> None:
        password = (stack.data_dir / "credentials" / "postgres-superuser").read_text().strip()
        port = json.loads((stack.data_dir / "stack.json").read_text())["postgres"]["port"]
        connection = await asyncpg.connect(
            host=LOOPBACK, port=port, user=SUPERUSER, password=password, database="postgres"
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def real_stack(tmp_path_factory: pytest.TempPathFactory, run_stack: Any) -> Iterator[Any]:
    """Runs a stack of its own, because the exit code of doctor is about the whole stack."""
    with run_stack(tmp_path_factory.mktemp("paid")) as stack:
        yield stack


@contextmanager
def without_rights(stack: Any) -> Iterator[None]:
    """Takes the rights of the role of the provisioner's driver."""
    sql(stack, "ALTER ROLE provisioner_driver NOCREATEDB NOCREATEROLE")
    try:
        yield
    finally:
        sql(stack, "ALTER ROLE provisioner_driver CREATEDB CREATEROLE")


def environments(on_stack: Any) -> tuple[int, list[dict[str, str]]]:
    """Returns the exit code of doctor, and what it says about environments."""
    done = on_stack("doctor", "--json")
    return done.code, [each for each in done.data if each["check"] == "environments"]


def active(on_stack: Any, customers: Any, plan: str = "starter") -> str:
    """Returns the slug of a new tenant that is active."""
    tenant = customers.sign_up(plan)
    customers.pay(tenant["checkout_url"])
    until(lambda: on_stack("tenant", "show", tenant["slug"], "--json").data["status"] == "active")
    return str(tenant["slug"])


def test_a_paid_change_that_is_not_built_is_shown_everywhere(on_stack, customers) -> None:
    """Fault 1: thirteen minutes after the change nothing showed it, and doctor reported nothing."""
    slug = active(on_stack, customers)
    before = environments(on_stack)
    changed = on_stack("subscription", "change", slug, "--plan", "team", "--reason", "growth", "--yes")
    found = until(lambda: on_stack("environment", "show", slug, "--json").data["pending"])
    until(lambda: "plan: team" in on_stack("tenant", "show", slug).out)

    environment, tenant = on_stack("environment", "show", slug), on_stack("tenant", "show", slug)
    document = on_stack("tenant", "show", slug, "--json").data["change"]
    why = on_stack("why", slug, "--json")
    code, [noted] = environments(on_stack)

    assert before == (ExitCode.OK, [{**before[1][0], "state": "ok"}])
    assert "isolation stays pooled until moved" in changed.err
    assert (found["from_tier"], found["from_preset"], found["tier"], found["preset"]) == (
        *("starter", "pooled"),
        *("team", "bridge"),
    )
    assert (found["approval_status"], found["cost"]["after"]) == ("requested", None)
    for text in (
        "desired: team (bridge)",
        "planned: starter (pooled)",
        "pending: starter (pooled) -> team (bridge) since ",
        "the plan team needs team (bridge)",
        f"waits for: the approval {found['approval']} by another person",
        f"pending plan: {found['plan_hash']}",
        "pending cost: unknown",
        f"pending approval: {found['approval']} (requested)",
    ):
        assert text in environment.out, text
    assert f"next: paybill approval show {found['approval']}" in environment.err
    assert "change: starter (pooled) -> team (bridge) since " in tenant.out
    assert f"change approval: {found['approval']} (requested)" in tenant.out
    assert f"change waits for: the approval {found['approval']} by another person" in tenant.out
    assert not {"waits_for: -", "approval: -"} & set(tenant.out.splitlines())
    assert document == found
    assert (why.code, why.data["causes"][0]["kind"]) == (ExitCode.FAILED, "approval_requested")
    assert why.data["next"] == f"paybill approval show {found['approval']}"
    assert (code, noted["state"], noted["fix"]) == (ExitCode.OK, "noted", f"paybill approval show {found['approval']}")
    assert noted["found"].startswith(
        f"{slug}: starter (pooled) is built, and team (bridge) is entitled: "
        f"the plan {found['plan_hash'][:12]}… waits for the approval {found['approval']} by another person"
    )


def test_a_driver_without_rights_is_named_and_the_build_continues_when_they_are_back(
    on_stack, real_stack, customers
) -> None:
    """Fault 17: the tenant was provisioning without a failure, and doctor passed."""
    with without_rights(real_stack):
        tenant = customers.sign_up("business")
        customers.pay(tenant["checkout_url"])
        slug = tenant["slug"]
        wait = until(lambda: on_stack("environment", "show", slug, "--json").data.get("wait"))
        shown = on_stack("environment", "show", slug)
        why = on_stack("why", slug, "--json")
        code, rows = environments(on_stack)
        watch = watching(real_stack, slug)
        first = watch.stdout.readline()
    out, _ = watch.communicate(timeout=60)
    states = [json.loads(line)["data"] for line in [first, *out.splitlines()]]

    assert "permission denied" in wait["reason"]
    assert f"wait: {wait['step']}, tried " in shown.out
    assert "next: paybill jobs retry " in shown.err
    assert why.data["causes"][0]["kind"] == "build"
    assert "permission denied" in why.data["causes"][0]["summary"]
    assert "the next attempt is at " in why.data["causes"][0]["because"][0]
    assert code == ExitCode.FAILED
    assert [each["found"].partition(":")[0] for each in rows if each["state"] == "failed"] == [slug]
    assert watch.returncode == 0
    assert (states[0]["wait"]["step"], states[-1]["wait"]) == (wait["step"], None)
    assert (states[-1]["status"], states[-1]["access"]) == ("ready", "open")
    assert all(each["done"] for each in states[-1]["plan"]["steps"])
    assert states == [each for each, last in zip(states, [None, *states], strict=False) if each != last]
    assert [each for each in environments(on_stack)[1] if each["state"] == "failed"] == []


def watching(stack: Any, slug: str) -> "subprocess.Popen[str]":
    """Starts a command that watches an environment, one object a line."""
    command = [sys.executable, "-m", "paybill_cli", "environment", "show", slug, "--watch", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYBILL_")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment | stack.environment)


def test_both_nouns_retry_by_one_action(on_stack, customers) -> None:
    slug = active(on_stack, customers)
    refusals = [on_stack(noun, "retry", slug, "--json") for noun in ("tenant", "environment")]

    tenant, environment = TREE.commands["tenant"], TREE.commands["environment"]
    assert isinstance(tenant, Branch)
    assert isinstance(environment, Branch)
    assert tenant.commands["retry"] == environment.commands["retry"]
    assert [(each.code, each.error["code"]) for each in refusals] == [(ExitCode.CONFLICT, "environment_not_failed")] * 2


def test_a_quarantine_is_the_cause_until_its_own_end(on_stack, customers) -> None:
    slug = active(on_stack, customers)
    done = on_stack("tenant", "quarantine", slug, "--reason", "leaked password", "--yes")
    assert done.code == ExitCode.OK, done.err
    held = on_stack("why", slug, "--json")
    on_stack("tenant", "end-quarantine", slug)
    until(lambda: on_stack("why", slug, "--json").code == ExitCode.OK)

    assert held.data["causes"][0]["kind"] == "quarantine"
    assert held.data["causes"][0]["summary"] == "it is quarantined: leaked password"
    assert held.data["causes"][0]["because"][0].endswith(f"paybill tenant end-quarantine {slug}")
