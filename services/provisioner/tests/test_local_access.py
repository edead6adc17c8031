"""The local driver closes, opens and exports what stands, again and again with the same result."""

import gzip
import hashlib
import json
import stat
from dataclasses import replace

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, Column, Table

PRESETS = list(Preset)
ADD = "INSERT INTO documents (id, body) VALUES ($1, $2)"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("way", [(Access.CLOSED,), (Access.READ_ONLY,), (Access.CLOSED, Access.READ_ONLY)])
async def test_closing_and_opening_restores_exactly_what_was(site, preset, way) -> None:
    environment = await site.ready(preset)
    before = await site.rights(environment)

    for access in (*way, *way, Access.OPEN, Access.OPEN):
        await site.driver.set_access(environment, access)

    assert await site.rights(environment) == before
    assert await site.works(environment)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_blocked_tenant_is_thrown_out_and_stays_out(site, preset) -> None:
    environment = await site.ready(preset)
    async with site.enter(environment) as connection:
        await site.driver.set_access(environment, Access.CLOSED)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
            await connection.execute("SELECT 1")

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="not permitted to log in"):
        async with site.enter(environment):
            pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_read_only_tenant_reads_and_cannot_write_whatever_it_sets(site, preset) -> None:
    environment = await site.ready(preset)
    assert await site.works(environment, "kept")
    async with site.enter(environment) as writing:
        transaction = writing.transaction()
        await transaction.start()
        await writing.execute(ADD, "late", "{}")
        await site.driver.set_access(environment, Access.READ_ONLY)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await transaction.commit()

    async with site.enter(environment) as connection:
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


async def test_access_of_what_was_never_built_is_closed_already(site) -> None:
    planned = site.planned(Preset.BRIDGE)

    await site.driver.set_access(planned, Access.CLOSED)
    await site.driver.set_access(replace(planned, plan=None), Access.CLOSED)


async def test_a_tenant_that_was_suspended_while_it_was_built_is_built_closed(site) -> None:
    planned = replace(site.planned(Preset.POOLED), wanted=Access.CLOSED)
    environment = await site.build(planned)

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with site.enter(environment):
            pass
    await site.driver.set_access(environment, Access.OPEN)
    assert await site.works(environment)


@pytest.mark.parametrize("preset", PRESETS)
async def test_an_export_has_all_rows_of_the_tenant_and_of_nobody_else(site, preset) -> None:
    site.tables = (*site.tables, Table(name="a-notes", columns=(Column(name="no", type="bigint"),)))
    mine, other = await site.ready(preset), await site.ready(preset)
    for environment, word in ((mine, "mine"), (other, "other")):
        async with site.enter(environment) as connection:
            body = json.dumps({"z": word, "a": 'ü\n"'})
            await connection.executemany(ADD, [(f"{n:04}", body) for n in reversed(range(1201))])
            await connection.execute('INSERT INTO "a-notes" (no) VALUES (10), (9)')
    await site.driver.set_access(mine, Access.CLOSED)

    export = await site.driver.export(mine)
    again = await site.driver.export(mine)

    path = site.directory / export.location
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


async def test_an_export_leaves_the_driver_without_the_right_to_be_the_tenant(site) -> None:
    environment = await site.ready(Preset.POOLED)
    before = await site.rights(environment)
    await site.driver.export(environment)

    assert await site.rights(environment) == before
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await site.owner(environment.endpoint.database, f'SET ROLE "{environment.endpoint.username}"')


async def test_the_export_of_what_was_never_built_is_empty(site) -> None:
    planned = site.planned(Preset.SILO)

    for environment in (planned, replace(planned, plan=None)):
        export = await site.driver.export(environment)
        assert export.rows == 0
        assert gzip.decompress((site.directory / export.location).read_bytes()) == b""


async def test_an_export_that_died_leaves_no_file_of_that_name_and_the_next_one_is_whole(site) -> None:
    environment = await site.ready(Preset.POOLED)
    folder = site.directory / "exports"
    folder.mkdir()
    (folder / f"{environment.id}.jsonl.draft").write_bytes(b"half of a file")

    export = await site.driver.export(environment)

    assert gzip.decompress((site.directory / export.location).read_bytes()) == b""
