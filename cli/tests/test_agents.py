"""Tests of `paybill agent` and of approvals of agents' calls, on the stack of the example."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from paybill_cli.commands.agent_runs import action_lines, attempt_lines
from paybill_cli.example.agent_client import AgentClient, Reply
from paybill_cli.exit_codes import ExitCode
from paybill_embedded.postgres import SUPERUSER
from paybill_runtime.http.auth import Role
from paybill_stack.operator_key import temporary_key
from polling import until

pytestmark = pytest.mark.e2e

NUMBERS = count(1000)
FOLDER = Path(__file__).parents[2] / "examples" / "support-agent" / "agents"


@dataclass(frozen=True)
class Example:
    """The running example: its stack, and the first agent."""

    environment: dict[str, str]
    data_dir: Path
    address: str
    key: str


@pytest.fixture(scope="module")
def example(run_stack, tmp_path_factory) -> Iterator[Example]:
    """Runs `paybill up --example support-agent` once for the module."""
    data_dir = tmp_path_factory.mktemp("example")
    with run_stack(data_dir, "--example", "support-agent") as stack:
        url = json.loads((data_dir / "stack.json").read_text())["services"]["agent-gateway"]["url"]
        key = (data_dir / "clients" / "helpdesk.key").read_text().strip()
        yield Example(stack.environment, data_dir, f"{url}/mcp", key)


@pytest.fixture
def run(paybill, example):
    """Runs a command on the example, as its operator."""
    return lambda *arguments, **environment: paybill(*arguments, **(example.environment | environment))


@pytest.fixture
def call(example):
    """Calls a tool as the agent, or as the one with another key."""

    def call_tool(tool: str, arguments: dict[str, Any], key: str = "") -> Reply:
        async def send() -> Reply:
            async with httpx.AsyncClient(trust_env=False) as http:
                return await AgentClient(http, example.address, key or example.key).call(tool, arguments)

        return asyncio.run(send())

    return call_tool


@pytest.fixture
def superuser(run, example):
    """Runs a script in the database of the first tenant, past the provisioner."""

    def execute(script: str) -> None:
        revealed = run("environment", "credentials", "acme", "--reveal", "--json").data[0]
        at = {name: revealed[name] for name in ("host", "port", "database")}
        password = (example.data_dir / "credentials" / "postgres-superuser").read_text().strip()

        async def send() -> None:
            import asyncpg

            connection = await asyncpg.connect(**at, user=SUPERUSER, password=password)
            await connection.execute(script)
            await connection.close()

        asyncio.run(send())

    return execute


@pytest.fixture
def ticket(run, example):
    """Writes another ticket of an order of 45.00, and returns its id."""

    def write(id_: str) -> str:
        revealed = run("environment", "credentials", "acme", "--reveal", "--json").data[0]

        async def insert() -> None:
            import asyncpg

            names = ("host", "port", "database", "user", "password")
            connection = await asyncpg.connect(**{name: revealed[name] for name in names})
            values = "VALUES ($1, 'o-2', 'c-2', 'Subject', 'Text', 'open')"
            await connection.execute(
                f"INSERT INTO tickets (id, order_id, customer_id, subject, body, status) {values}", id_
            )
            await connection.close()

        asyncio.run(insert())
        return id_

    return lambda: write(f"t-{next(NUMBERS)}")


def proposal(started: Reply, amount: int, reason: str = "broken") -> dict[str, Any]:
    assert started.refused is None, started.text
    return {"run": started.content["run"], "seq": started.content["seq"], "amount": amount, "reason": reason}


def test_a_run_is_listed_shown_and_explained(run, call) -> None:
    done = call("refund__propose", proposal(call("refund", {"ticket": "t-17"}), 1200))
    assert done.refused is None, done.text
    id_ = done.content["run"]

    listed = run("agent", "runs", "--tenant", "acme", "--workflow", "refund", "--json").data
    shown = run("agent", "show", id_)
    record = run("agent", "show", id_, "--json").data
    explained = run("agent", "explain", "--run", id_, "--seq", record["actions"][-1]["seq"], "--json").data

    assert [(each["id"], each["ended"]) for each in listed if each["id"] == id_] == [(id_, "finished")]
    assert "propose  done  create of refunds" in shown.out
    assert 'reason "broken"' in shown.out
    assert "@example.com" not in shown.out
    assert explained["grants"] == ["refunds up to 50.00"]


def test_the_bundle_of_the_grants_is_shown_when_it_is_not_that_of_the_run() -> None:
    action = {
        "seq": 1, "step": "propose", "status": "done", "verb": "create", "resource": "refunds", "chosen": None,
        "code": None, "rule": None, "grants": ["refunds"], "arguments": {}, "at": "2026-11-30T12:00:00Z",
    }  # fmt: skip
    hashes = ("a" * 64, "b" * 64, None)
    lines = list(
        action_lines({"bundle_hash": "a" * 64, "actions": [{**action, "grants_hash": each} for each in hashes]})
    )

    assert ["under bundle" in text for _, text in lines] == [False, True, False]
    assert f"by refunds  under bundle {'b' * 14}  " in lines[1][1]


def test_every_attempt_of_a_number_is_a_line_with_its_decision() -> None:
    at = "2026-11-30T12:00:00Z"
    refused = {"step": "propose", "allowed": False, "code": "invalid_input", "rule": "amount is missing", "grants": []}
    done = {"step": "propose", "allowed": True, "code": None, "rule": "permitted", "grants": ["refunds"]}

    lines = list(attempt_lines([refused | {"at": at}, done | {"at": at}]))

    assert [style for style, _ in lines] == ["red", "green"]
    assert "attempt 1  propose  invalid_input: amount is missing  " in lines[0][1]
    assert "attempt 2  propose  allowed  by refunds  " in lines[1][1]


def test_a_call_that_is_made_up_is_explained_by_its_rule(run) -> None:
    arguments = ("agent", "explain", "--tenant", "acme", "--role", "support", "--step", "refund.propose", "--json")

    allowed = run(*arguments, "--values", '{"amount": 1200, "reason": "broken"}').data
    refused = run(*arguments, "--values", '{"amount": 9000, "reason": "broken"}')
    denied = refused.data

    assert (allowed["allowed"], allowed["grants"]) == (True, ["refunds up to 50.00"])
    assert (denied["allowed"], denied["grants"]) == (False, [])
    assert denied["rule"]
    assert [each["id"] for each in denied["nearest"]] == ["refunds up to 50.00"]
    assert refused.code == ExitCode.CONFLICT


def test_a_call_above_the_limit_is_approved_by_another_person(run, call, example) -> None:
    call_ = proposal(call("refund", {"ticket": "t-18"}), 3000, reason="two weeks\x1b[31m late")
    waiting = call("refund__propose", call_)
    id_ = waiting.content["approval"]["id"]

    listed = run("approval", "list", "--status", "requested", "--json").data
    shown = run("approval", "show", id_)
    preview = run("approval", "approve", id_, "--dry-run")
    unconfirmed = run("approval", "approve", id_)
    with temporary_key(
        example.data_dir / "api-keys.json", "ada", Role.APPROVER, ("*",), timedelta(minutes=5), "user:ada"
    ) as key:
        approved = run("approval", "approve", id_, "--yes", PAYBILL_API_KEY=key)
    done = call("refund__propose", call_)
    again = run("approval", "approve", id_, "--yes")

    assert waiting.refused == "approval_required"
    assert [(each["id"], each["service"]) for each in listed] == [(id_, "agent-gateway")]
    assert "+ refunds" in shown.out
    assert "amount  3000" in shown.out
    assert "\x1b" not in shown.out
    assert "would record" in preview.out
    assert unconfirmed.code == ExitCode.USAGE
    assert "confirmation_needed" in unconfirmed.err
    assert "+ refunds" in approved.out
    assert "decided_by: user:ada" in approved.out
    assert (done.refused, done.content["ended"]) == (None, "finished")
    assert again.code == ExitCode.CONFLICT


def test_a_rejected_call_is_never_executed(run, call, ticket) -> None:
    call_ = proposal(call("refund", {"ticket": ticket()}), 4000)
    id_ = call("refund__propose", call_).content["approval"]["id"]

    rejected = run("approval", "reject", id_, "--reason", "too much", "--json")
    after = call("refund__propose", call_)

    assert rejected.code == ExitCode.OK, rejected.err
    assert after.refused == "approval_denied"


def test_an_approver_of_calls_alone_decides_without_the_other_service(run, call, ticket, example) -> None:
    call_ = proposal(call("refund", {"ticket": ticket()}), 4000)
    id_ = call("refund__propose", call_).content["approval"]["id"]
    scopes = ("agent-gateway:read", "agent-gateway:write")

    with temporary_key(
        example.data_dir / "api-keys.json", "eve", Role.APPROVER, scopes, timedelta(minutes=5), "user:eve"
    ) as key:
        own = {"PAYBILL_API_KEY": key}
        listed = run("approval", "list", "--status", "requested", "--json", **own)
        unknown = run("approval", "show", "apr_" + "0" * 32, **own)
        rejected = run("approval", "reject", id_, "--reason", "too much", **own)
    denied = run("approval", "list", "--status", "denied", "--json").data
    wrong = run("approval", "list", PAYBILL_API_KEY="pbk_wrong_key")
    shown = run("agent", "show", call_["run"])

    assert id_ in [each["id"] for each in listed.data], listed.err
    assert "left out" in listed.err
    assert (unknown.code, "your key may not read all" in unknown.err) == (ExitCode.NOT_FOUND, True)
    assert rejected.code == ExitCode.OK, rejected.err
    assert "rejection: too much" in rejected.out
    assert "ended:" not in rejected.out
    assert id_ in [each["id"] for each in denied]
    assert wrong.code == ExitCode.DENIED
    assert f"approval {id_}  rejected" in shown.out
    assert 'decided by user:eve: "too much"' in shown.out


def test_an_expiry_beyond_the_maximum_names_the_option(run) -> None:
    refused = run("agent", "new", "old", "--tenant", "acme", "--role", "support", "--expires", "9999d")

    assert refused.code == ExitCode.USAGE
    assert "--expires: 9999d is longer than 366d" in refused.err


def test_an_unknown_approval_and_run_are_not_found(run) -> None:
    assert run("approval", "show", "apr_" + "0" * 32).code == ExitCode.NOT_FOUND
    assert run("agent", "show", "run_" + "0" * 32).code == ExitCode.NOT_FOUND
    assert run("agent", "show", "t-17").code == ExitCode.USAGE


def test_an_agent_is_registered_listed_and_ended(run, call) -> None:
    preview = run("agent", "new", "night", "--tenant", "acme", "--role", "support", "--dry-run")
    made = run("agent", "new", "night", "--tenant", "acme", "--role", "support", "--expires", "1h", "--json").data
    listed = run("agent", "list", "--tenant", "acme", "--json").data
    started = call("refund", {"ticket": "t-19"}, key=made["key"])
    ended = run("agent", "end", "night", "--yes", "--json").data
    again = run("agent", "end", "night", "--yes")
    runs = run("agent", "runs", "--agent", "night", "--json").data

    assert "would record: agent night registered" in preview.out
    assert made["address"].endswith("/mcp")
    assert [each["status"] for each in listed if each["id"] == made["id"]] == ["active"]
    assert "key" not in listed[0]
    assert started.refused is None, started.text
    assert (ended["id"], ended["status"]) == (made["id"], "ended")
    assert again.code == ExitCode.NOT_FOUND
    assert "1 with this name have ended" in again.err
    assert [each["id"] for each in runs] == [started.content["run"]]


def test_the_name_of_several_agents_is_refused_with_their_ids(run) -> None:
    region = run("tenant", "show", "acme", "--json").data["region"]
    options = ("--plan", "starter", "--region", region, "--email", "ops@bolt.example")
    assert run("tenant", "create", "bolt", *options).code == ExitCode.OK
    tenants = ("acme", "bolt")
    new = ("agent", "new", "shared", "--role", "support", "--json", "--tenant")
    until(lambda: run(*new, "bolt", "--dry-run").code == ExitCode.OK)
    made = [run(*new, tenant).data["id"] for tenant in tenants]
    taken = run(*new, "acme")
    refused = [
        run("agent", *command)
        for command in (
            ("end", "shared", "--yes"),
            ("runs", "--agent", "shared"),
            ("freeze", "--agent", "shared", "--reason", "x", "--yes"),
        )
    ]
    unknown = run("agent", "end", "nobody", "--yes")
    ended = [run("agent", "end", "shared", "--tenant", tenants[0], "--yes", "--json").data["id"]]
    ended.append(run("agent", "end", "shared", "--yes", "--json").data["id"])

    assert (taken.code, "agent_name_taken" in taken.err) == (ExitCode.CONFLICT, True)
    assert [each.code for each in refused] == [ExitCode.USAGE] * 3
    assert all(f"{id_} of {tenant}" in each.err for each in refused for id_, tenant in zip(made, tenants, strict=True))
    assert unknown.code == ExitCode.NOT_FOUND
    assert ended == made


@pytest.mark.parametrize("scope", ["everything", "tenant", "agent", "workflow"])
def test_a_freeze_stops_calls_until_it_is_thawed(run, call, ticket, scope: str) -> None:
    target = {
        "everything": ("--everything",),
        "tenant": ("--tenant", "acme"),
        "agent": ("--agent", "helpdesk"),
        "workflow": ("--workflow", "refund"),
    }[scope]
    call_ = proposal(call("refund", {"ticket": ticket()}), 100)

    frozen = run("agent", "freeze", *target, "--reason", "a check", "--yes")
    listed = run("agent", "freezes", "--json").data
    refused = call("refund__propose", call_)
    thawed = run("agent", "thaw", *target, "--yes")

    assert (frozen.code, thawed.code) == (ExitCode.OK, ExitCode.OK), frozen.err + thawed.err
    assert [each["reason"] for each in listed] == ["a check"]
    assert refused.refused == "frozen"
    assert "is thawed" in thawed.err
    assert run("agent", "freezes", "--json").data == []
    assert call("refund__propose", call_ | {"seq": refused.content["seq"]}).refused is None


def test_a_trigger_in_a_live_table_is_drift_until_it_is_removed(run, superuser) -> None:
    before = run("agent", "check", FOLDER, "--json")

    superuser(
        "CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        " CREATE TRIGGER t AFTER INSERT ON product.refunds FOR EACH ROW EXECUTE FUNCTION product.f();"
    )
    try:
        found = run("agent", "check", FOLDER, "--json")
        previewed = run("agent", "publish", FOLDER, "--dry-run")
    finally:
        superuser("DROP FUNCTION product.f CASCADE")
    after = run("agent", "check", FOLDER, "--json")

    assert (before.code, before.data["drift"]) == (ExitCode.OK, []), before.err
    reason = "refunds has a trigger, and the bundle declares no `also_changes`"
    assert found.code == ExitCode.FAILED
    assert {"where": "tenant acme", "table": "refunds", "difference": reason} in found.data["drift"]
    assert f"drift: tenant acme, table refunds: {reason}" in previewed.err
    assert (after.code, after.data["drift"]) == (ExitCode.OK, []), after.err


def test_an_example_brings_its_own_catalogue_and_starts_no_other_product(paybill, run_stack, tmp_path: Path) -> None:
    plans = Path(__file__).parents[2] / "examples" / "support-agent" / "plans.yaml"
    refused = paybill("up", "--example", "support-agent", "--catalogue", plans, "--data-dir", tmp_path)
    with run_stack(tmp_path):
        pass
    command = [sys.executable, "-m", "paybill_cli", "up", "--example", "support-agent", "--data-dir", tmp_path]
    other = subprocess.run(command, capture_output=True, text=True, check=False)

    assert refused.code == ExitCode.USAGE
    assert "--example brings its own catalogue" in refused.err
    assert other.returncode == ExitCode.CONFLICT
    assert "error[another_product]" in other.stderr


def test_one_thing_is_frozen_at_once(run) -> None:
    assert run("agent", "freeze", "--reason", "x", "--yes").code == ExitCode.USAGE
    assert run("agent", "freeze", "--everything", "--workflow", "refund", "--reason", "x").code == ExitCode.USAGE


def test_agents_facts_are_sentences_in_the_log(run, call) -> None:
    call("refund", {"ticket": "t-17"})
    call("refund__propose", {"run": "run_" + "0" * 32, "seq": 1, "amount": 1, "reason": "x"})

    def published() -> str:
        text: str = run("events", "tail", "--no-follow", "--tenant", "acme", "--type", "agent-gateway.").out
        return text if " refused: run_not_found" in text else ""

    lines = until(published)
    bundles = run("events", "tail", "--no-follow", "--type", "agent-gateway.bundle").out

    assert "of refund started by agent:" in lines
    assert f"act refund.propose of run_{'0' * 32} by agent:agt_" in lines
    assert "bundle " in bundles
    assert "agent helpdesk registered" in lines
