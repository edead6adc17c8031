"""The local driver closes, opens and exports environments idempotently."""

import asyncio
import gzip
import hashlib
import json
import stat
from dataclasses import replace

import asyncpg
import pytest
from paybill_contracts.kinds import Column, Table
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access

PRESETS = list(Preset)
ADD = "INSERT INTO documents (id, body) VALUES ($1, $2)"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", [(Access.CLOSED,), (Access.READ_ONLY,), (Access.CLOSED, Access.READ_ONLY)])
async def test_closing_and_opening_restores_the_same_privileges(harness, preset, steps) -> None:
    environment = await harness.ready(preset)
    before = await harness.privileges(environment)

    for access in (*steps, *steps, Access.OPEN, Access.OPEN):
        await harness.driver.set_access(environment, access)

    assert await harness.privileges(environment) == before
    assert await harness.can_write(environment)


@pytest.mark.parametrize("preset", PRESETS)
async def test_changes_of_privileges_at_the_same_time_take_turns(harness, preset) -> None:
    environment = await harness.ready(preset)

    for _ in range(10):
        await asyncio.gather(*(harness.driver.set_access(environment, Access.OPEN) for _ in range(4)))

    assert await harness.can_write(environment)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_blocked_tenant_is_disconnected_and_cannot_log_in(harness, preset) -> None:
    environment = await harness.ready(preset)
    async with harness.connect(environment) as connection:
        await harness.driver.set_access(environment, Access.CLOSED)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
            await connection.execute("SELECT 1")

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="not permitted to log in"):
        async with harness.connect(environment):
            pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_read_only_tenant_cannot_write_with_any_setting(harness, preset) -> None:
    environment = await harness.ready(preset)
    assert await harness.can_write(environment, "kept")
    async with harness.connect(environment) as writing:
        transaction = writing.transaction()
        await transaction.start()
        await writing.execute(ADD, "late", "{}")
        await harness.driver.set_access(environment, Access.READ_ONLY)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await transaction.commit()

    async with harness.connect(environment) as connection:
        await connection.execute("SET default_transaction_read_only = off")
        for statement in (
            "INSERT INTO documents (id) VALUES ('x')",
            "UPDATE documents SET body = NULL",
            "DELETE FROM documents",
            "TRUNCATE documents",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        assert [row[0] for row in await connection.fetch("SELECT id FROM documents")] == ["kept"]


async def test_closing_an_environment_that_was_never_built_succeeds(harness) -> None:
    planned = harness.planned(Preset.BRIDGE)

    await harness.driver.set_access(planned, Access.CLOSED)
    await harness.driver.set_access(replace(planned, plan=None), Access.CLOSED)


async def test_a_tenant_suspended_during_the_build_is_built_closed(harness) -> None:
    planned = replace(harness.planned(Preset.POOLED), target_access=Access.CLOSED)
    environment = await harness.build(planned)

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.connect(environment):
            pass
    await harness.driver.set_access(environment, Access.OPEN)
    assert await harness.can_write(environment)


@pytest.mark.parametrize("preset", PRESETS)
async def test_an_export_has_all_rows_of_the_tenant_and_no_others(harness, preset) -> None:
    harness.tables = (*harness.tables, Table(name="a-notes", columns=(Column(name="no", type="bigint"),)))
    mine, other = await harness.ready(preset), await harness.ready(preset)
    for environment, word in ((mine, "mine"), (other, "other")):
        async with harness.connect(environment) as connection:
            body = json.dumps({"z": word, "a": 'ü\n"'})
            await connection.executemany(ADD, [(f"{n:04}", body) for n in reversed(range(1201))])
            await connection.execute('INSERT INTO "a-notes" (no) VALUES (10), (9)')
    await harness.driver.set_access(mine, Access.CLOSED)

    export = await harness.driver.export(mine)
    again = await harness.driver.export(mine)

    path = harness.directory / export.location
    raw = path.read_bytes()
    lines = gzip.decompress(raw).splitlines()
    assert again == export
    assert (export.rows, export.size_bytes, export.sha256) == (1203, len(raw), hashlib.sha256(raw).hexdigest())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert lines[:2] == [b'{"row":{"no":9},"table":"a-notes"}', b'{"row":{"no":10},"table":"a-notes"}']
    documents = [json.loads(line) for line in lines[2:]]
    assert documents[0] == {"row": {"id": "0000", "body": {"z": "mine", "a": 'ü\n"'}}, "table": "documents"}
    assert [each["row"]["id"] for each in documents] == [f"{n:04}" for n in range(1201)]
    assert b"other" not in gzip.decompress(raw)


async def test_after_an_export_the_driver_cannot_become_the_tenant(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    before = await harness.privileges(environment)
    await harness.driver.export(environment)

    assert await harness.privileges(environment) == before
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await harness.as_driver(
            environment.connections[0].database, f'SET ROLE "{environment.connections[0].username}"'
        )


async def test_the_export_of_an_environment_that_was_never_built_is_empty(harness) -> None:
    planned = harness.planned(Preset.SILO)

    for environment in (planned, replace(planned, plan=None)):
        export = await harness.driver.export(environment)
        assert export.rows == 0
        assert gzip.decompress((harness.directory / export.location).read_bytes()) == b""


async def test_an_interrupted_export_leaves_no_final_file_and_the_next_one_is_complete(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    folder = harness.directory / "exports"
    folder.mkdir()
    (folder / f"{environment.id}.jsonl.draft").write_bytes(b"half of a file")

    export = await harness.driver.export(environment)

    assert gzip.decompress((harness.directory / export.location).read_bytes()) == b""
