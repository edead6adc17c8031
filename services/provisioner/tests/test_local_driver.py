"""The local driver builds idempotently, concurrently and after any interruption."""

import asyncio
import hmac
import json
import re
import stat
from base64 import b64decode
from dataclasses import replace

import asyncpg
import pytest
from paybill_contracts.kinds import Column, Table
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.domain.building import progress_recorded
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.steps import diff
from paybill_provisioner.drivers import Site, scram
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_provisioner.execution import Execution, StepError
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets

PRESETS = list(Preset)
ADD = "INSERT INTO documents (id, body) VALUES ($1, $2)"


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_tenant_connects_with_its_endpoint_and_uses_its_tables(harness, preset) -> None:
    environment = await harness.ready(preset)

    async with harness.connect(environment) as connection:
        await connection.execute(ADD, "a", '{"n": 1}')
        rows = await connection.fetch("SELECT id, body::text FROM documents")

    assert [tuple(row) for row in rows] == [("a", '{"n": 1}')]


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_role_has_only_the_necessary_privileges(harness, preset) -> None:
    environment = await harness.ready(preset)
    found = await harness.privileges(environment)
    role = found["role"]

    assert (role["rolcanlogin"], role["rolconnlimit"]) == (True, 5)
    assert not any(role[f"rol{name}"] for name in ("super", "inherit", "createrole", "createdb", "replication"))
    assert not role["rolbypassrls"]
    ((creator, *options),) = found["members"]
    assert creator.startswith("provisioner_driver_creator_")
    assert options == [False, False, True]
    assert all(inherit and not (switch or admin) for _, inherit, switch, admin in found["groups"] or [])
    assert {owner for *_, owner in found["tables"].values()} == {"provisioner_driver"}
    for granted in (found["database"], found["schemas"]["public"]):
        assert not any(each.startswith("=") for each in granted.strip("{}").split(","))


async def test_a_pool_forces_row_level_security_on_every_table(harness) -> None:
    found = await harness.privileges(await harness.ready(Preset.POOLED))

    assert [values[1:3] for values in found["tables"].values()] == [[True, True]]
    assert [policy["policyname"] for policy in found["policies"]] == ["own_rows"]


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_second_build_changes_nothing(harness, preset) -> None:
    planned = harness.planned(preset)
    environment = await harness.build(planned)
    before = await harness.privileges(environment)

    other = harness.new_driver()
    again = await harness.build(planned, other)
    await other.close()

    assert await harness.privileges(again) == before
    assert again.connections[0] == environment.connections[0]
    assert await harness.can_write(again)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_new_table_and_column_are_added_to_an_existing_environment(harness, preset) -> None:
    old = await harness.ready(preset)
    (documents,) = harness.tables
    wider = documents.model_copy(update={"columns": (*documents.columns, Column(name="size", type="bigint"))})
    harness.tables = (wider, Table(name="notes", columns=(Column(name="id", type="uuid"),)))
    new = await harness.build(harness.planned(preset, old.tenant_id.removeprefix("ten_")))

    async with harness.connect(new) as connection:
        await connection.execute("INSERT INTO documents (id, size) VALUES ('a', 3)")
        await connection.execute("INSERT INTO notes (id) VALUES (gen_random_uuid())")

        assert await connection.fetchval("SELECT size FROM documents") == 3


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_required_column_refuses_null_until_it_is_optional(harness, preset) -> None:
    optional = harness.tables
    (documents,) = optional
    key, body = documents.columns
    harness.tables = (documents.model_copy(update={"columns": (key, body.model_copy(update={"required": True}))}),)
    environment = await harness.ready(preset)
    number = environment.tenant_id.removeprefix("ten_")
    async with harness.connect(environment) as connection:
        with pytest.raises(asyncpg.NotNullViolationError, match="body"):
            await connection.execute(ADD, "a", None)
        harness.tables = optional
        await harness.build(harness.planned(preset, number))
        await connection.execute(ADD, "a", None)

        assert await connection.fetchval("SELECT count(*) FROM documents") == 1


class CutConnection:
    """TCP proxy to PostgreSQL that forwards the nth statement and then closes, before any response."""

    def __init__(self, port: int, statements: int) -> None:
        self._port = port
        self._remaining = statements
        self.cut = False

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, client_in, client_out) -> None:
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._port)

        async def back() -> None:
            while not self.cut and (data := await server_in.read(65_536)):
                if not self.cut:
                    client_out.write(data)
            client_out.close()

        task = asyncio.create_task(back())
        try:
            while data := await client_in.read(65_536):
                self._remaining -= data[:1] in b"QPB"
                self.cut = self.cut or self._remaining < 0
                if self.cut and self._remaining < -1:
                    break
                server_out.write(data)
                if self.cut:
                    await server_out.drain()
                    break
        finally:
            server_out.close()
            client_out.close()
            await asyncio.wait([task])


async def build_with_retry(harness, planned):
    """Builds as the job worker does: a statement of the interrupted build may still conflict while it runs."""
    for _ in range(50):
        try:
            return await harness.build(planned)
        except StepError as error:
            conflicts = (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError)
            if not isinstance(error.cause, conflicts):
                raise
        await asyncio.sleep(0.2)
    return await harness.build(planned)


@pytest.mark.e2e
@pytest.mark.parametrize("preset", PRESETS)
async def test_a_build_interrupted_at_any_statement_is_finished_by_the_next(harness, preset) -> None:
    region, points = harness.region, 0
    reference = None
    while True:
        harness.region = f"{region}-{points}"
        planned = harness.planned(preset)
        proxy = CutConnection(harness.postgres.port, points)
        async with proxy as port:
            url = harness.postgres.url("provisioner_driver", "postgres").replace(str(harness.postgres.port), str(port))
            interrupted = LocalDriver(
                TenantServer(url, harness.postgres.password("provisioner_driver")), harness.directory, harness.secrets
            )
            try:
                async for _ in Execution(interrupted, planned, "job").run():
                    pass
            except RetryAfter:
                assert proxy.cut
            await interrupted.close()
        environment = await build_with_retry(harness, planned)

        assert await harness.can_write(environment)
        found = json.dumps(await harness.privileges(environment))
        for own in (environment.tenant_id.removeprefix("ten_"), harness.region.replace("-", "_")):
            found = found.replace(own, "")
        found = re.sub(r"creator_\d+", "creator", found)  # a full one is followed by another
        reference = reference or found
        assert found == reference
        if not proxy.cut:
            break
        points += 1
    assert points > 8


async def test_an_unavailable_server_is_retried_and_not_a_failure(harness) -> None:
    async with CutConnection(harness.postgres.port, 0) as port:
        url = f"postgresql://provisioner_driver@127.0.0.1:{port}/postgres"
    disconnected = LocalDriver(TenantServer(url, "any"), harness.directory, harness.secrets)
    planned = harness.planned(Preset.POOLED)

    for call in (
        disconnected.set_access(planned, Access.CLOSED),
        disconnected.export(planned),
        harness.build(planned, disconnected),
    ):
        with pytest.raises(RetryAfter, match="does not answer"):
            await call
    await disconnected.close()


async def test_concurrent_builds_of_several_processes_in_a_new_region_succeed(harness) -> None:
    planned = [harness.planned(preset) for preset in (Preset.POOLED, Preset.BRIDGE) for _ in range(6)]
    drivers = [harness.new_driver() for _ in range(3)]
    try:
        built = await asyncio.gather(*(harness.build(each, drivers[n % 3]) for n, each in enumerate(planned)))

        assert all(await asyncio.gather(*(harness.can_write(each) for each in built)))
    finally:
        for driver in drivers:
            await driver.close()


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_stale_executor_cannot_break_the_build_of_its_successor(harness, preset) -> None:
    planned = harness.planned(preset)
    await harness.secrets.put(f"environments/{planned.tenant_id.removeprefix('ten_')}/database", "a-password")
    late = harness.new_driver()
    try:
        results = await asyncio.gather(harness.build(planned), harness.build(planned, late), return_exceptions=True)

        errors = [getattr(each, "cause", each) for each in results if isinstance(each, BaseException)]
        assert all(isinstance(each, asyncpg.PostgresError | RetryAfter) for each in errors)
        assert await harness.can_write(await harness.build(planned))
    finally:
        await late.close()


async def test_a_pool_without_row_level_security_accepts_no_tenant(harness) -> None:
    first = await harness.ready(Preset.POOLED)
    database = first.connections[0].database
    for breach, repair in (
        ("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
        ("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"),
    ):
        await harness.as_driver(database, f"ALTER TABLE product.documents {breach}")
        with pytest.raises(StepError, match=r"schema\.main: tenants are not isolated in documents"):
            await harness.ready(Preset.POOLED)
        await harness.as_driver(database, f"ALTER TABLE product.documents {repair}")
    await harness.as_driver(database, "CREATE POLICY everything ON product.documents USING (true)")
    with pytest.raises(StepError):
        await harness.ready(Preset.POOLED)
    await harness.as_driver(database, "DROP POLICY everything ON product.documents")

    assert await harness.can_write(await harness.ready(Preset.POOLED))


async def test_a_database_opened_to_public_is_closed_again(harness) -> None:
    first = await harness.ready(Preset.BRIDGE)
    await harness.as_driver(
        first.connections[0].database, f'GRANT CONNECT ON DATABASE "{first.connections[0].database}" TO PUBLIC'
    )
    before = await harness.privileges(first)

    await harness.ready(Preset.BRIDGE)

    assert "{=" in before["database"] or ",=" in before["database"]
    after = (await harness.privileges(first))["database"]
    assert "{=" not in after
    assert ",=" not in after


async def test_the_stored_password_is_readable_by_the_operator(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    reference = environment.connections[0].secret
    operator = FileSecrets(
        harness.directory.parent / "secrets", Identity.load(harness.directory.parent / "identities", "operator")
    )

    assert await operator.get(reference) == await harness.secrets.get(reference)
    assert reference.startswith("secret://provisioner/environments/")


async def test_directories_of_tenants_are_private(harness) -> None:
    environment = await harness.ready(Preset.BRIDGE)
    path = harness.directory / "tenants" / environment.outputs["bucket.data"]["bucket"]

    assert path.is_dir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def removed(harness, environment):
    """Deletes everything that is the tenant's own, and returns the environment and the deleted resources."""
    steps = diff((), (each.resource for each in environment.built))
    plan = environment.plan.model_copy(update={"steps": steps})
    environment = replace(environment, status=Status.CHANGING, plan=plan)
    execution, deleted = Execution(harness.driver, environment, "job"), []
    async for progress in execution.run():
        deleted += progress.removed
        for event in progress_recorded(environment, environment.plan_hash, progress):
            environment = evolve(environment, event)
    return environment, deleted


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_deleted_environment_leaves_nothing_and_its_neighbour_everything(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    site = Site(pair.tenant, pair.tenant.resources, pair.tenant.outputs)
    environment, deleted = await removed(harness, pair.tenant)
    left = await harness.as_superuser(
        "postgres",
        "SELECT rolname::text FROM pg_roles WHERE rolname = $1"
        " UNION SELECT datname FROM pg_database WHERE datname = $2",
        pair.tenant_role,
        pair.tenant_role.replace("t_", "silo_"),
    )

    order = [each.address for each in deleted if each.layer in {"data", "identity"}]
    assert order == ["role.main", "schema.main", "database.main"][: len(order)]
    assert {each.address for each in deleted} == set(pair.tenant.resources) - (
        set() if preset is Preset.SILO else {"database.main"}
    )
    assert (left, environment.remaining) == ([], ())
    for resource in deleted:
        if not (resource.kind == "schema" and preset is Preset.POOLED):
            assert await harness.driver.find(resource, site) is None
    async with harness.connect(pair.neighbour) as connection:
        assert [tuple(row) for row in await connection.fetch("SELECT id FROM documents")] == [("theirs",)]


async def test_the_rows_of_a_deleted_tenant_are_gone_from_the_pool(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    await removed(harness, pair.tenant)
    database = pair.neighbour.connections[0].database

    rows = await harness.as_superuser(database, "SELECT tenant_id, id FROM product.documents")

    assert rows == [(pair.neighbour_id, "theirs")]


async def test_a_database_that_tenants_share_is_never_deleted(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    site = Site(environment, environment.resources, environment.outputs)

    with pytest.raises(Refused, match="is shared by tenants"):
        await harness.driver.delete(environment.resources["database.main"], site)


def test_a_verifier_equals_that_of_the_rfc_example() -> None:
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


async def test_credentials_are_unique_whether_precomputed_or_not() -> None:
    factory = scram.CredentialsFactory()
    factory.precompute()
    factory.precompute()

    made = [await factory.new(), await factory.new(), await factory.new()]
    factory.precompute()
    await factory.close()

    assert len({each.password for each in made}) == len({each.verifier for each in made}) == 3
    assert all(each.verifier.startswith("SCRAM-SHA-256$4096:") for each in made)


@pytest.mark.parametrize("password", ["naïve", "line\nbreak"])
def test_a_password_that_needs_saslprep_is_refused(password) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        scram.verifier(password, b"salt")


@pytest.mark.parametrize("url", ["", "mysql://x/y", "postgresql://host", "postgresql:///database"])
def test_a_url_without_host_or_database_is_refused(url) -> None:
    with pytest.raises(ConfigurationError, match="PAYBILL_LOCAL_DATABASE_URL"):
        TenantServer(url, "")
