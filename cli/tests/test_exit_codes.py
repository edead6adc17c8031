"""Tests of the table of exit codes, with a command for each code."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from paybill_cli.exit_codes import ExitCode, table

REQUIRED = ("--plan", "starter", "--region", "eu-central", "--email", "ops@acme.example")


def interrupted(stack) -> int:
    command = [sys.executable, "-m", "paybill_cli", "events", "tail"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=stack.environment) as process:
        assert process.stderr.readline()
        process.send_signal(signal.SIGINT)
        return process.wait(10)


def differing(on_stack, stack) -> int:
    """Returns the exit code of a replay while a table has a row that no event explains."""

    async def execute(statement: str) -> None:
        server = json.loads((stack.data_dir / "stack.json").read_text())["postgres"]
        connection = await asyncpg.connect(
            f"postgresql://tenant@{server['host']}:{server['port']}/tenant",
            password=(stack.data_dir / "credentials" / "pg-tenant").read_text().strip(),
        )
        await connection.execute(statement)
        await connection.close()

    row = "SELECT 'injected', 1, state FROM offerings LIMIT 1"
    asyncio.run(execute(f"INSERT INTO offerings (id, revision, state) {row}"))
    try:
        return on_stack("replay", "--service", "tenant").code
    finally:
        asyncio.run(execute("DELETE FROM offerings WHERE id = 'injected'"))


def changed(on_stack, _: object) -> int:
    """Returns the exit code of a comparison of a bundle that was never published."""
    with tempfile.TemporaryDirectory() as folder:
        agents = Path(folder) / "agents"
        assert on_stack("agent", "init", agents).code == ExitCode.OK
        grant = 'permit(principal in Role::"staff", action == Action::"read", resource is documents);'
        (agents / "grants.cedar").write_text(f'@id("reads") @columns("*") {grant}\n')
        (agents / "read.yaml").write_text(
            "workflow: read\nrole: staff\ninput: {document: documents.id}\nlimits: {calls: 2, rows: 2, minutes: 5}\n"
            "steps:\n  document: {read: documents, where: {id: input.document}, one: true}\n"
        )
        assert on_stack("agent", "diff", agents).code == ExitCode.OK
        return int(on_stack("agent", "diff", agents, "--exit-code").code)


REACHED: dict[ExitCode, Callable[..., int]] = {
    ExitCode.OK: lambda run, _: run("version").code,
    ExitCode.FAILED: lambda run, _: run("doctor", "--billing-url", "http://127.0.0.1:9").code,
    ExitCode.USAGE: lambda run, _: run("tenant", "lst").code,
    ExitCode.CHANGES: changed,
    ExitCode.NOT_FOUND: lambda run, _: run("tenant", "show", "nobody").code,
    ExitCode.DENIED: lambda run, _: run("tenant", "list", PAYBILL_API_KEY="pbk_op1_" + "x" * 43).code,
    ExitCode.CONFLICT: lambda run, _: [run("tenant", "create", "taken", *REQUIRED).code for _ in range(2)][1],
    ExitCode.TIMEOUT: lambda run, _: run("tenant", "create", "patient", *REQUIRED, "--wait", "--timeout", "0.3").code,
    ExitCode.VERIFICATION_FAILED: differing,
    ExitCode.UNREACHABLE: lambda run, _: run("tenant", "list", "--tenant-url", "http://127.0.0.1:9").code,
    ExitCode.INTERRUPTED: lambda _, stack: interrupted(stack),
}


def test_the_codes_are_the_published_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "CHANGES": 3,
        "NOT_FOUND": 4,
        "DENIED": 5,
        "CONFLICT": 6,
        "TIMEOUT": 8,
        "VERIFICATION_FAILED": 9,
        "UNREACHABLE": 10,
        "INTERRUPTED": 130,
    }
    assert all(f"{int(code)} {code.meaning}" in table() for code in ExitCode)


def test_every_code_has_a_command() -> None:
    assert set(REACHED) == set(ExitCode)


@pytest.mark.parametrize("code", REACHED, ids=lambda code: code.name)
def test_a_command_ends_with_its_code(on_stack, real_stack, code: ExitCode) -> None:
    assert REACHED[code](on_stack, real_stack) == code
