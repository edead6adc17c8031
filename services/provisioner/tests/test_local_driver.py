"""The local driver: what it builds, twice, at the same time, from every half-done point; closes, opens and exports."""

import asyncio
import gzip
import hashlib
import hmac
import json
import stat
from base64 import b64decode
from dataclasses import replace

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, Column, Step, StepAction, Table
from paybill_provisioner.drivers import scram
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.identity import Identity
from paybill_runtime.secrets import FileSecrets
from paybill_runtime.work import Refused

PRESETS = list(Preset)
ADD = "INSERT INTO documents (id, body) VALUES ($1, $2)"

RIGHTS = """
SELECT jsonb_build_object(
    'role', (SELECT to_jsonb(r) - 'oid' - 'rolpassword' FROM pg_roles AS r WHERE rolname = $1),
    'groups', (SELECT jsonb_agg(jsonb_build_array(g.rolname, m.inherit_option, m.set_option, m.admin_option) ORDER BY 1)
               FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
               WHERE r.rolname = $1),
    'members', (SELECT jsonb_agg(jsonb_build_array(r.rolname, m.inherit_option, m.set_option, m.admin_option))
                FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
                WHERE g.rolname = $1),
    'database', (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
    'settings', (SELECT jsonb_agg(setconfig) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
                 WHERE d.datname = current_database()),
    'schemas', (SELECT jsonb_object_agg(nspname, nspacl::text) FROM pg_namespace WHERE nspname !~ '^pg_'),
    'tables', (SELECT jsonb_object_agg(c.oid::regclass::text, jsonb_build_array(
                   (SELECT jsonb_agg(x::text ORDER BY x::text) FROM unnest(c.relacl) AS x), c.relrowsecurity,
                   c.relforcerowsecurity, pg_get_userbyid(c.relowner)))
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND n.nspname IN ('product', $1)),
    'policies', (SELECT jsonb_agg(to_jsonb(p) ORDER BY p.tablename) FROM pg_policies AS p)
)::text
"""


async def rights(site, environment):
    """Every right that has to do with a tenant, as the catalogues have it."""
    endpoint = environment.endpoint
    ((text,),) = await site.root(endpoint.database, RIGHTS, endpoint.username)
    return json.loads(text)


async def works(site, environment, key="works"):
    """The tenant gets in, writes and reads."""
    async with site.enter(environment) as connection:
        await connection.execute("DELETE FROM documents WHERE id = $1", key)
        await connection.execute(ADD, key, "{}")
        return await connection.fetchval("SELECT count(*) FROM documents WHERE id = $1", key) == 1


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_tenant_gets_in_with_its_endpoint_and_uses_its_tables(site, preset) -> None:
    environment = await site.ready(preset)

    async with site.enter(environment) as connection:
        await connection.execute(ADD, "a", '{"n": 1}')
        rows = await connection.fetch("SELECT id, body::text FROM documents")

    assert [tuple(row) for row in rows] == [("a", '{"n": 1}')]


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_role_has_no_more_rights_than_its_work_needs(site, preset) -> None:
    environment = await site.ready(preset)
    found = await rights(site, environment)
    role = found["role"]

    assert (role["rolcanlogin"], role["rolconnlimit"]) == (True, 5)
    assert not any(role[f"rol{name}"] for name in ("super", "inherit", "createrole", "createdb", "replication"))
    assert not role["rolbypassrls"]
    assert found["members"] == [["provisioner_driver", False, False, True]]
    assert all(inherit and not (switch or admin) for _, inherit, switch, admin in found["groups"] or [])
    assert {owner for *_, owner in found["tables"].values()} == {"provisioner_driver"}
    for granted in (found["database"], found["schemas"]["public"]):
        assert not any(each.startswith("=") for each in granted.strip("{}").split(","))


async def test_a_pool_forces_row_level_security_on_every_table(site) -> None:
    found = await rights(site, await site.ready(Preset.POOLED))

    assert [values[1:3] for values in found["tables"].values()] == [[True, True]]
    assert [policy["policyname"] for policy in found["policies"]] == ["own_rows"]


@pytest.mark.parametrize("preset", PRESETS)
async def test_building_twice_builds_once(site, preset) -> None:
    planned = site.planned(preset)
    environment = await site.build(planned)
    before = await rights(site, environment)

    other = site.new_driver()
    again = await site.build(planned, other)
    await other.close()

    assert await rights(site, again) == before
    assert again.endpoint == environment.endpoint
    assert await works(site, again)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_new_table_and_column_of_a_blueprint_reach_what_stands(site, preset) -> None:
    old = await site.ready(preset)
    (documents,) = site.tables
    wider = documents.model_copy(update={"columns": (*documents.columns, Column(name="size", type="bigint"))})
    site.tables = (wider, Table(name="notes", columns=(Column(name="id", type="uuid"),)))
    new = await site.build(site.planned(preset, old.tenant_id.removeprefix("ten_")))

    async with site.enter(new) as connection:
        await connection.execute("INSERT INTO documents (id, size) VALUES ('a', 3)")
        await connection.execute("INSERT INTO notes (id) VALUES (gen_random_uuid())")

        assert await connection.fetchval("SELECT size FROM documents") == 3


class CutWire:
    """A TCP proxy before PostgreSQL that passes the nth statement on and then dies, before any answer comes back."""

    def __init__(self, port: int, statements: int) -> None:
        self._port = port
        self._left = statements
        self.cut = False

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def back() -> None:
            while not self.cut and (data := await there_reader.read(65_536)):
                if not self.cut:
                    writer.write(data)
            writer.close()

        task = asyncio.create_task(back())
        try:
            while data := await reader.read(65_536):
                self._left -= data[:1] in b"QPB"
                self.cut = self.cut or self._left < 0
                if self.cut and self._left < -1:
                    break
                there_writer.write(data)
                if self.cut:
                    await there_writer.drain()
                    break
        finally:
            there_writer.close()
            writer.close()
            await asyncio.wait([task])


@pytest.mark.parametrize("preset", PRESETS)
async def test_whatever_statement_a_build_dies_at_the_next_one_finishes_it(site, preset) -> None:
    region, points = site.region, 0
    reference = None
    while True:
        site.region = f"{region}-{points}"
        planned = site.planned(preset)
        wire = CutWire(site.postgres.port, points)
        async with wire as port:
            url = site.postgres.url("provisioner_driver", "postgres").replace(str(site.postgres.port), str(port))
            doomed = LocalDriver(
                TenantServer(url, site.postgres.password("provisioner_driver")), site.directory, site.secrets
            )
            try:
                async for _ in doomed.build(planned, planned.remaining):
                    pass
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                assert wire.cut
            await doomed.close()
        environment = await site.build(planned)

        assert await works(site, environment)
        found = json.dumps(await rights(site, environment))
        for own in (environment.tenant_id.removeprefix("ten_"), site.region.replace("-", "_")):
            found = found.replace(own, "")
        reference = reference or found
        assert found == reference
        if not wire.cut:
            break
        points += 1
    assert points > 8


async def test_many_tenants_enter_a_new_region_at_the_same_time_from_several_processes(site) -> None:
    planned = [site.planned(preset) for preset in (Preset.POOLED, Preset.BRIDGE) for _ in range(6)]
    drivers = [site.new_driver() for _ in range(3)]
    try:
        built = await asyncio.gather(*(site.build(each, drivers[n % 3]) for n, each in enumerate(planned)))

        assert all(await asyncio.gather(*(works(site, each) for each in built)))
    finally:
        for driver in drivers:
            await driver.close()


@pytest.mark.parametrize("preset", PRESETS)
async def test_an_executor_that_is_late_cannot_spoil_what_its_successor_builds(site, preset) -> None:
    planned = site.planned(preset)
    await site.secrets.put(f"environments/{planned.tenant_id.removeprefix('ten_')}/database", "a-password")
    late = site.new_driver()
    try:
        results = await asyncio.gather(site.build(planned), site.build(planned, late), return_exceptions=True)

        assert all(isinstance(each, asyncpg.PostgresError) for each in results if isinstance(each, BaseException))
        assert await works(site, await site.build(planned))
    finally:
        await late.close()


async def test_a_pool_without_walls_takes_no_tenant(site) -> None:
    first = await site.ready(Preset.POOLED)
    database = first.endpoint.database
    for breach, repair in (
        ("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
        ("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"),
    ):
        await site.owner(database, f"ALTER TABLE product.documents {breach}")
        with pytest.raises(Refused, match="not kept apart in documents"):
            await site.ready(Preset.POOLED)
        await site.owner(database, f"ALTER TABLE product.documents {repair}")
    await site.owner(database, "CREATE POLICY everything ON product.documents USING (true)")
    with pytest.raises(Refused):
        await site.ready(Preset.POOLED)
    await site.owner(database, "DROP POLICY everything ON product.documents")

    assert await works(site, await site.ready(Preset.POOLED))


async def test_a_database_that_was_opened_to_everybody_is_closed_again(site) -> None:
    first = await site.ready(Preset.BRIDGE)
    await site.owner(first.endpoint.database, f'GRANT CONNECT ON DATABASE "{first.endpoint.database}" TO PUBLIC')
    before = await rights(site, first)

    await site.ready(Preset.BRIDGE)

    assert "{=" in before["database"] or ",=" in before["database"]
    after = (await rights(site, first))["database"]
    assert "{=" not in after
    assert ",=" not in after


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("way", [(Access.CLOSED,), (Access.READ_ONLY,), (Access.CLOSED, Access.READ_ONLY)])
async def test_closing_and_opening_restores_exactly_what_was(site, preset, way) -> None:
    environment = await site.ready(preset)
    before = await rights(site, environment)

    for access in (*way, *way, Access.OPEN, Access.OPEN):
        await site.driver.set_access(environment, access)

    assert await rights(site, environment) == before
    assert await works(site, environment)


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
    assert await works(site, environment, "kept")
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
    assert await works(site, environment)


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
    before = await rights(site, environment)
    await site.driver.export(environment)

    assert await rights(site, environment) == before
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


async def test_the_password_is_stored_before_it_is_used_and_the_operator_may_read_it(site) -> None:
    environment = await site.ready(Preset.POOLED)
    reference = environment.endpoint.secret
    operator = FileSecrets(
        site.directory.parent / "secrets", Identity.load(site.directory.parent / "identities", "operator")
    )

    assert await operator.get(reference) == await site.secrets.get(reference)
    assert reference.startswith("secret://provisioner/environments/")


async def test_folders_of_tenants_are_open_to_us_alone(site) -> None:
    environment = await site.ready(Preset.BRIDGE)
    path = site.directory / "tenants" / environment.outputs["folder.data"]["folder"]

    assert path.is_dir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def test_nothing_is_ever_removed(site) -> None:
    planned = site.planned(Preset.POOLED)
    doomed = [Step(action=StepAction.DELETE, resource=planned.remaining[0].resource)]

    with pytest.raises(Refused, match="removes nothing"):
        async for _ in site.driver.build(planned, doomed):
            pass


def test_a_verifier_is_what_the_server_would_have_computed() -> None:
    # The example of RFC 7677, section 3: its salt, iterations and server signature.
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    text = scram.verifier("pencil", salt)
    server_key = b64decode(text.rpartition(":")[2])
    message = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )

    signature = hmac.digest(server_key, message.encode(), "sha256")

    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert signature == b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize("password", ["naïve", "line\nbreak"])
def test_a_password_that_would_need_preparation_is_no_password_of_ours(password) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        scram.verifier(password, b"salt")


@pytest.mark.parametrize("url", ["", "mysql://x/y", "postgresql://host", "postgresql:///database"])
def test_an_address_without_host_or_database_is_refused(url) -> None:
    with pytest.raises(ConfigurationError, match="PAYBILL_LOCAL_DATABASE_URL"):
        TenantServer(url, "")
