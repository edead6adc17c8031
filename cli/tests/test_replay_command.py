"""Tests of `paybill replay`: equal tables pass, and each difference is named."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys

import asyncpg
import pytest
from paybill_cli.commands.replay import MEANINGS, advice
from paybill_cli.exit_codes import ExitCode

pytestmark = pytest.mark.e2e


async def as_service(data_dir, service: str, statement: str) -> None:
    server = json.loads((data_dir / "stack.json").read_text())["postgres"]
    connection = await asyncpg.connect(
        f"postgresql://{service}@{server['host']}:{server['port']}/{service}",
        password=(data_dir / "credentials" / f"pg-{service}").read_text().strip(),
    )
    changed = await connection.execute(statement)
    await connection.close()
    assert not changed.endswith(" 0")


def test_a_stack_whose_tables_equal_the_log_passes(on_stack, customers) -> None:
    customers.sign_up()

    plain, programs = on_stack("replay"), on_stack("replay", "--verify", "--service", "billing", "--json")

    assert (plain.code, programs.code) == (ExitCode.OK, ExitCode.OK)
    services = ("tenant", "billing", "provisioner", "agent-gateway")
    assert [row[:2] for row in plain.rows] == [[name, "equal"] for name in services]
    assert "every table is equal to the log" in plain.err
    assert programs.data["equal"] is True
    assert all(service["facts"] > 0 for service in programs.data["services"])


def test_a_wrong_byte_in_a_table_is_found_and_named(on_stack, real_stack, customers) -> None:
    tenant = customers.sign_up()
    edit = "UPDATE tenants SET state = jsonb_set(state, '{{name}}', '\"{}\"') WHERE id = '{}'"
    asyncio.run(as_service(real_stack.data_dir, "tenant", edit.format("Mallory", tenant["id"])))

    plain, programs = (on_stack("replay", "--service", "tenant", *more) for more in ((), ("--json",)))
    asyncio.run(as_service(real_stack.data_dir, "tenant", edit.format(tenant["name"], tenant["id"])))
    restored = on_stack("replay", "--service", "tenant")

    assert restored.code == ExitCode.OK, restored.err
    assert (plain.code, programs.code, restored.code) == (
        ExitCode.VERIFICATION_FAILED,
        ExitCode.VERIFICATION_FAILED,
        ExitCode.OK,
    )
    assert f"a table differs from the log: tenant/{tenant['id']}" in plain.out
    assert "Mallory" not in plain.out + plain.err
    assert programs.error["code"] == "verification_failed"
    [fault] = programs.data["services"][0]["faults"]
    assert (fault["kind"], fault["where"]) == ("different_state", f"tenant/{tenant['id']}")
    assert fault["kind"] in MEANINGS


def test_tables_of_running_services_are_not_rebuilt(on_stack) -> None:
    done = on_stack("replay", "--rebuild", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.CONFLICT, "stack_runs")


def test_an_unknown_service_and_a_folder_without_a_stack_are_refused(paybill, tmp_path) -> None:
    unknown = paybill("replay", "--service", "console", "--json")
    nowhere = paybill("replay", "--data-dir", tmp_path, "--json")

    assert (unknown.code, unknown.error["code"]) == (ExitCode.USAGE, "unknown_service")
    assert "choose one of tenant, billing, provisioner, agent-gateway" in unknown.error["what"]
    assert (nowhere.code, nowhere.error["code"]) == (ExitCode.UNREACHABLE, "stack_not_running")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "crashed"])
def test_a_stack_that_stopped_or_crashed_is_verified_and_rebuilt(paybill, tmp_path, number: int) -> None:
    command = [sys.executable, "-m", "paybill_cli", "up", "--json", "--data-dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYBILL_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        key = json.loads(process.stdout.readline())["data"]["operator_key"]
        create = ["tenant", "create", "acme", "--plan", "starter", "--region", "eu-central", "--email", "a@b.example"]
        created = paybill(*create, "--data-dir", tmp_path, PAYBILL_API_KEY=key)
        asyncio.run(as_service(tmp_path, "tenant", "DELETE FROM tenants"))
        process.send_signal(number)
        process.communicate()

    different, rebuilt, equal = (
        paybill("replay", "--data-dir", tmp_path, "--service", "tenant", "--json", verb)
        for verb in ("--verify", "--rebuild", "--verify")
    )

    assert created.code == ExitCode.OK
    assert different.code == ExitCode.VERIFICATION_FAILED
    assert {fault["kind"] for fault in different.data["services"][0]["faults"]} == {"missing_row"}
    assert (rebuilt.code, equal.code) == (ExitCode.OK, ExitCode.OK)
    assert {service["rebuilt"] for service in rebuilt.data["services"]} == {True}
    assert equal.data["equal"] is True


CHANGES = {
    "tenant": [("UPDATE tenants SET state = jsonb_set(state, '{name}', '\"Mallory\"')", "different_state")],
    "billing": [
        (
            "DELETE FROM chassis.outbox WHERE position = (SELECT max(position) FROM chassis.outbox)",
            "missing_outbox_row",
        ),
        (
            "UPDATE chassis.outbox SET payload = payload || ' ' WHERE subject LIKE '%catalogue_published%'",
            "altered_outbox",
        ),
    ],
    "provisioner": [("DELETE FROM chassis.inbox", "wrong_inbox")],
    "agent-gateway": [("UPDATE chassis.position SET sequence = sequence + 1000 WHERE sequence > 0", "wrong_position")],
}


def test_doctor_finds_changes_of_databases_and_its_advice_repairs_them(run_stack, paybill, tmp_path) -> None:
    data_dir, copy = tmp_path / "stack", tmp_path / "copy"
    data_dir.mkdir()
    create = ["tenant", "create", "acme", "--plan", "starter", "--region", "eu-central", "--email", "a@b.example"]
    with run_stack(data_dir) as first:
        environment = first.environment
        assert paybill(*create, **environment).code == ExitCode.OK
        before = paybill("doctor", "--deep", "--json", **environment)
    shutil.copytree(data_dir, copy, symlinks=True)
    with run_stack(data_dir):
        for service, changes in CHANGES.items():
            for statement, _ in changes:
                asyncio.run(as_service(data_dir, service, statement))
        changed = paybill("doctor", "--deep", "--json", **environment)
    shutil.rmtree(data_dir)
    copy.rename(data_dir)
    with run_stack(data_dir):
        after = paybill("doctor", "--deep", "--json", **environment)

    assert {row["part"] for row in before.data if row["check"] == "log" and row["state"] == "ok"} == CHANGES.keys()
    assert before.code == after.code == ExitCode.OK, (before.data, after.data)
    assert changed.code == ExitCode.FAILED
    found = {(row["part"], row["check"]): row for row in changed.data}
    for service, kind in ((service, kind) for service, changes in CHANGES.items() for _, kind in changes):
        assert found[service, kind]["state"] == "failed", changed.data
        assert ("--rebuild" in found[service, kind]["fix"]) == (service == "tenant")
    assert "so the outbox was changed" in found["billing", "altered_outbox"]["found"]
    assert "the outbox of billing lacks sequence" in found["billing", "missing_outbox_row"]["found"]


@pytest.mark.parametrize(
    ("kinds", "rebuilds"),
    [
        (("different_state", "missing_row"), True),
        (("different_state", "missing_outbox_row"), False),
        (("wrong_position",), False),
        (("unknown_fact", "different_state"), False),
    ],
)
def test_a_rebuild_is_advised_only_when_nothing_but_tables_differs(kinds, rebuilds) -> None:
    reports = [
        {"service": "tenant", "faults": [{"kind": kind} for kind in kinds]},
        {"service": "billing", "faults": []},
    ]

    step = advice(reports)

    assert ("paybill replay --rebuild" in step) is rebuilds
    assert ("restoring.md" in step) is not rebuilds
