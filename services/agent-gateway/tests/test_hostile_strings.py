"""PostgreSQL's own log holds only generated statements, whatever strings agents send.

PAYBILL_TEST_AGENT_STRINGS: number of strings; PAYBILL_TEST_AGENT_STRINGS_SEED: seed of a run to repeat.
"""

import asyncio
import os
import time
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from paybill_agent_gateway.domain.grants import RowCondition
from paybill_agent_gateway.effects.shapes import SHAPES
from paybill_agent_gateway.effects.tenant_databases import ActionKey, Changed, Refused, Rows, TenantDatabases
from paybill_agent_gateway.statements import compile_read, compile_write
from paybill_contracts.agent_bundles import CreateStep, DeleteStep, FixedValue, ReadStep, UpdateStep
from paybill_contracts.agent_expressions import ColumnValue, Comparator, Comparison, Constant
from paybill_embedded.postgres import PostgresServer
from tenant_pool import TenantPool, file_secrets, resource_of

STRINGS = int(os.environ.get("PAYBILL_TEST_AGENT_STRINGS", "5000"))
SEED = int(os.environ.get("PAYBILL_TEST_AGENT_STRINGS_SEED", "0")) or SystemRandom().randrange(1, 2**31)
NOTES = resource_of("notes", "id text", "body text")
CONDITION = RowCondition(
    {each.name: each for each in NOTES.columns},
    (Comparison(operator=Comparator.NOT_EQUAL, left=ColumnValue(name="id"), right=Constant(value="'; --")),),
    (),
    ("grant",),
)
ARGUMENT = FixedValue(value=None)
AT = {"next": "end", "irreversible": True, "resource": "notes"}
READ = compile_read(
    ReadStep(
        name="read", next="end", resource="notes", where={"id": ARGUMENT}, columns=("id", "body"), one=True, limit=1
    ),
    NOTES,
    CONDITION,
    "product",
)
CREATE, UPDATE, DELETE = (
    compile_write(step, NOTES, CONDITION, "product")
    for step in (
        CreateStep(name="create", set={"id": ARGUMENT, "body": ARGUMENT}, **AT),
        UpdateStep(name="update", set={"body": ARGUMENT}, where={"id": ARGUMENT}, limit=1, **AT),
        DeleteStep(name="delete", where={"id": ARGUMENT}, limit=1, **AT),
    )
)
PARTS = (
    "'", '"', "''", "\\'", "--", "/*", "*/", ";", "; DROP TABLE product.notes; --", "' OR 1=1 --", "COMMIT;", "$1",
    "$$", "); DELETE FROM product.notes; SELECT (", "/**/COMMIT; ", "E'\\x27'", "\\", "\x00", "\ud800", "\ufeff",
    "\u2019", "%s", "{}", "::text", "\n", "\r", "\t", "pg_sleep(9)", "set_config('role', 'postgres', true)",
    "UNION SELECT 1", "{{", "'; COPY product.notes TO PROGRAM 'true'; --", "\U0001f600", "", "NULL", "0", "-1",
    "1e999", "a", "\u202e", "\x1b[0m",
)  # fmt: skip


def hostile(random: Random) -> str:
    return "".join(random.choice(PARTS) for _ in range(random.randint(1, 6)))[:400]


def is_refused(text: str) -> bool:
    """Returns whether PostgreSQL has no such text."""
    return "\x00" in text or "\ud800" in text


async def test_the_log_of_postgresql_holds_only_generated_statements(tmp_path: Path) -> None:
    print(f"PAYBILL_TEST_AGENT_STRINGS_SEED={SEED} PAYBILL_TEST_AGENT_STRINGS={STRINGS}")  # noqa: T201  # the record
    with PostgresServer(tmp_path / "postgres", durable=False) as server:
        server.ensure_databases()
        pool = await TenantPool.create(server, file_secrets(tmp_path))
        await pool.create_table(NOTES)
        await pool.grant("notes", dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "*"))
        tenants = [await pool.tenant() for _ in range(2)]
        for setting in ("log_statement = 'all'", "log_line_prefix = '|%u|'"):
            await pool.execute(f"ALTER SYSTEM SET {setting}")
        await pool.fetch("SELECT pg_reload_conf()")
        databases = TenantDatabases(pool.secrets, time.monotonic)
        await asyncio.gather(*(_calls(databases, tenants[number % 2], number) for number in range(4)))
        databases.close()
        left = await pool.fetch("SELECT count(*) FROM product.notes")
        log = server.log.read_text(errors="replace")

    logged = [line.split("|", 2)[2] for line in log.splitlines() if line.startswith("|a_")]
    statements = {line.split(": ", 2)[2] for line in logged if ":  execute " in line}
    generated = {each.sql for each in (READ, CREATE, UPDATE, DELETE)} | {SHAPES}
    assert left == [(0,)]
    assert statements == generated
    assert len([line for line in logged if ":  execute " in line]) > STRINGS
    assert [line for line in logged if ":  statement: " in line] == []
    assert [line for line in logged if "ERROR" in line] == []


async def _calls(databases: TenantDatabases, tenant: Any, number: int) -> None:
    """Writes, changes, reads and deletes a row for each string: its key and its text are hostile."""
    random = Random(SEED + number)
    for seq in range(number, STRINGS, 4):
        key, body = f"{hostile(random)}{seq}", hostile(random)
        action = [ActionKey(f"run {body}" if not is_refused(body) else "run", 4 * seq + each, "d") for each in range(3)]
        made = await databases.write(tenant, CREATE, action[0], {"set.id": key, "set.body": body})
        if is_refused(key + body):
            assert made == Refused("value_refused")
            continue
        changed = await databases.write(tenant, UPDATE, action[1], {"where.id": key, "set.body": f"{body}'"})
        found = await databases.read(tenant, READ, {"where.id": key})
        deleted = await databases.write(tenant, DELETE, action[2], {"where.id": key})

        assert isinstance(made, Changed)
        assert isinstance(changed, Changed)
        assert found == Rows(({"id": key, "body": f"{body}'"},))
        assert isinstance(deleted, Changed)
