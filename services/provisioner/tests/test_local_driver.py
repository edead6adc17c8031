"""The local driver: what it builds, twice, at the same time, and from every half-done point."""

import asyncio
import hmac
import json
import stat
from base64 import b64decode

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, Column, Step, StepAction, Table
from paybill_provisioner.drivers import scram
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import Refused, RetryAfter
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets

PRESETS = list(Preset)
ADD = "INSERT INTO documents (id, body) VALUES ($1, $2)"


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
    found = await site.rights(environment)
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
    found = await site.rights(await site.ready(Preset.POOLED))

    assert [values[1:3] for values in found["tables"].values()] == [[True, True]]
    assert [policy["policyname"] for policy in found["policies"]] == ["own_rows"]


@pytest.mark.parametrize("preset", PRESETS)
async def test_building_twice_builds_once(site, preset) -> None:
    planned = site.planned(preset)
    environment = await site.build(planned)
    before = await site.rights(environment)

    other = site.new_driver()
    again = await site.build(planned, other)
    await other.close()

    assert await site.rights(again) == before
    assert again.endpoint == environment.endpoint
    assert await site.works(again)


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


async def tried_again(site, planned):
    """Build as the work loop does: what still runs of the dead build may be met once, and not twice."""
    try:
        return await site.build(planned)
    except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        await asyncio.sleep(0.2)
        return await site.build(planned)


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
            except RetryAfter:
                assert wire.cut
            await doomed.close()
        environment = await tried_again(site, planned)

        assert await site.works(environment)
        found = json.dumps(await site.rights(environment))
        for own in (environment.tenant_id.removeprefix("ten_"), site.region.replace("-", "_")):
            found = found.replace(own, "")
        reference = reference or found
        assert found == reference
        if not wire.cut:
            break
        points += 1
    assert points > 8


async def test_a_server_that_is_away_is_waited_for_and_no_failure(site) -> None:
    async with CutWire(site.postgres.port, 0) as port:
        url = f"postgresql://provisioner_driver@127.0.0.1:{port}/postgres"
    away = LocalDriver(TenantServer(url, "any"), site.directory, site.secrets)
    planned = site.planned(Preset.POOLED)

    for call in (away.set_access(planned, Access.CLOSED), away.export(planned), anext(away.build(planned, ()))):
        with pytest.raises(RetryAfter, match="does not answer"):
            await call
    await away.close()


async def test_many_tenants_enter_a_new_region_at_the_same_time_from_several_processes(site) -> None:
    planned = [site.planned(preset) for preset in (Preset.POOLED, Preset.BRIDGE) for _ in range(6)]
    drivers = [site.new_driver() for _ in range(3)]
    try:
        built = await asyncio.gather(*(site.build(each, drivers[n % 3]) for n, each in enumerate(planned)))

        assert all(await asyncio.gather(*(site.works(each) for each in built)))
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
        assert await site.works(await site.build(planned))
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

    assert await site.works(await site.ready(Preset.POOLED))


async def test_a_database_that_was_opened_to_everybody_is_closed_again(site) -> None:
    first = await site.ready(Preset.BRIDGE)
    await site.owner(first.endpoint.database, f'GRANT CONNECT ON DATABASE "{first.endpoint.database}" TO PUBLIC')
    before = await site.rights(first)

    await site.ready(Preset.BRIDGE)

    assert "{=" in before["database"] or ",=" in before["database"]
    after = (await site.rights(first))["database"]
    assert "{=" not in after
    assert ",=" not in after


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


async def test_no_two_tenants_get_one_login_whether_it_was_made_ahead_or_not() -> None:
    logins = scram.Logins()
    logins.prepare()
    logins.prepare()

    made = [await logins.new(), await logins.new(), await logins.new()]
    logins.prepare()
    await logins.close()

    assert len({login.password for login in made}) == len({login.verifier for login in made}) == 3
    assert all(login.verifier.startswith("SCRAM-SHA-256$4096:") for login in made)


@pytest.mark.parametrize("password", ["naïve", "line\nbreak"])
def test_a_password_that_would_need_preparation_is_no_password_of_ours(password) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        scram.verifier(password, b"salt")


@pytest.mark.parametrize("url", ["", "mysql://x/y", "postgresql://host", "postgresql:///database"])
def test_an_address_without_host_or_database_is_refused(url) -> None:
    with pytest.raises(ConfigurationError, match="PAYBILL_LOCAL_DATABASE_URL"):
        TenantServer(url, "")
