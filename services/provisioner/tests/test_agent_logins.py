"""The login of agents on a real PostgreSQL: only its tenant's rows, only granted columns, and no other role."""

import json
from dataclasses import replace
from itertools import permutations

import asyncpg
import pytest
from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.domain import building
from paybill_provisioner.domain.agent_logins import SETTINGS
from paybill_provisioner.domain.drift import differences
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.steps import diff
from paybill_provisioner.drivers import Scope, Site
from paybill_provisioner.drivers.namespaces import ACTIONS, ACTIONS_POLICY_EXPRESSION
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets, SecretForbiddenError

PRESETS = list(Preset)
READS = TableRights(table="documents", select=("id", "body"))
WRITES = TableRights(table="documents", select=("id",), insert=("id", "body"), update=("body",))
ACT = f"INSERT INTO {ACTIONS} (run, seq, digest, outcome) VALUES ($1, $2, 'd', 'done')"
REFUSED = asyncpg.InsufficientPrivilegeError


async def with_agents(harness, preset, *rights):
    """Returns a new tenant with a row of its own, whose agents have these rights."""
    environment = await harness.ready(preset, agents=True)
    async with harness.connect(environment) as connection:
        await connection.execute("INSERT INTO documents (id, body) VALUES ($1, '1')", environment.tenant_id)
    await harness.driver.grant_agent_rights(environment, rights)
    return environment


@pytest.mark.parametrize("preset", PRESETS)
async def test_agents_read_and_change_only_rows_of_their_tenant_in_granted_columns(harness, preset) -> None:
    mine, theirs = [await with_agents(harness, preset, WRITES) for _ in range(2)]
    async with harness.as_agents(mine) as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM documents")] == [mine.tenant_id]
        assert await connection.execute("INSERT INTO documents (id, body) VALUES ('new', '2')") == "INSERT 0 1"
        assert await connection.execute("UPDATE documents SET body = '3' WHERE id = 'new'") == "UPDATE 1"
        assert await connection.execute("UPDATE documents SET body = '3' WHERE id = $1", theirs.tenant_id) == "UPDATE 0"
        for statement in (
            "SELECT body FROM documents",
            "SELECT * FROM documents",
            "SELECT tenant_id FROM documents",
            "UPDATE documents SET id = 'other'",
            "UPDATE documents SET body = body",
            f"INSERT INTO documents (tenant_id, id) VALUES ('{theirs.tenant_id}', 'forged')",
            "INSERT INTO documents (id) VALUES ('x') RETURNING body",
            "DELETE FROM documents",
            "TRUNCATE documents",
            "CREATE TABLE documents_2 (id text)",
            "CREATE TEMPORARY TABLE documents_2 (id text)",
        ):
            with pytest.raises(REFUSED):
                await connection.execute(statement)

    async with harness.connect(theirs) as connection:
        assert [tuple(row) for row in await connection.fetch("SELECT id, body::text FROM documents")] == [
            (theirs.tenant_id, "1")
        ]


@pytest.mark.parametrize("preset", PRESETS)
async def test_rights_are_exactly_those_of_the_last_grant(harness, preset) -> None:
    gone = TableRights(table="missing", select=("id",), delete=True)
    absent = TableRights(table="documents", select=("id", "absent"), delete=True)
    environment = await with_agents(harness, preset, READS)
    async with harness.as_agents(environment) as connection:
        assert await connection.fetchval("SELECT body FROM documents") == "1"
        with pytest.raises(REFUSED):
            await connection.execute("DELETE FROM documents")

        await harness.driver.grant_agent_rights(environment, [gone, absent])
        with pytest.raises(REFUSED):
            await connection.fetchval("SELECT body FROM documents")
        assert await connection.fetchval("SELECT id FROM documents") == environment.tenant_id
        assert await connection.execute("DELETE FROM documents") == "DELETE 1"

        schema = environment.connections[0].schema_name
        grantee = environment.tenant_id.replace("ten_", "a_")
        await harness.as_driver(
            environment.connections[0].database, f'GRANT SELECT, TRUNCATE ON "{schema}".documents TO "{grantee}"'
        )
        await harness.driver.grant_agent_rights(environment, [])
        if preset is not Preset.POOLED:
            with pytest.raises(REFUSED):
                await connection.fetchval("SELECT id FROM documents")


@pytest.mark.parametrize("preset", PRESETS)
async def test_actions_are_the_tenants_and_the_tenant_itself_cannot_use_them(harness, preset) -> None:
    mine, theirs = [await with_agents(harness, preset) for _ in range(2)]
    for environment in (mine, theirs):
        async with harness.as_agents(environment) as connection:
            await connection.execute(ACT, "run_1", 1)
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute(ACT, "run_1", 1)
            rows = await connection.fetch(f"SELECT tenant, run, seq, digest, outcome FROM {ACTIONS}")
            other = {mine.tenant_id, theirs.tenant_id}.difference({environment.tenant_id}).pop()
            for statement in (
                f"UPDATE {ACTIONS} SET outcome = 'void'",
                f"DELETE FROM {ACTIONS}",
                f"INSERT INTO {ACTIONS} (tenant, run, seq, digest, outcome) VALUES ('{other}', 'r', 1, 'd', 'void')",
            ):
                with pytest.raises(REFUSED):
                    await connection.execute(statement)
        assert [tuple(row) for row in rows] == [(environment.tenant_id, "run_1", 1, "d", "done")]
        async with harness.connect(environment) as connection:
            with pytest.raises(REFUSED, match="paybill_agent"):
                await connection.fetch(f"SELECT * FROM {ACTIONS}")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("role", ["own", "neighbour's agents", "neighbour", "group", "driver"])
async def test_agents_cannot_become_another_role(harness, preset, role) -> None:
    mine, theirs = [await with_agents(harness, preset, READS) for _ in range(2)]
    database = mine.connections[0].database
    names = {
        "own": mine.connections[0].username,
        "neighbour's agents": theirs.connections[0].username.replace("t_", "a_"),
        "neighbour": theirs.connections[0].username,
        "group": f"{database}_members" if preset is not Preset.SILO else "provisioner_driver_granter",
        "driver": "provisioner_driver",
    }
    target = names[role]
    async with harness.as_agents(mine) as connection:
        for statement in (
            f'SET ROLE "{target}"',
            f'SET SESSION AUTHORIZATION "{target}"',
            f"SELECT set_config('role', '{target}', true)",
            f"WITH x AS MATERIALIZED (SELECT set_config('role', '{target}', false)) SELECT * FROM x, documents",
            f'GRANT "{target}" TO CURRENT_USER',
            f'ALTER ROLE "{target}" CONNECTION LIMIT 9',
        ):
            with pytest.raises(REFUSED):
                await connection.fetch(statement)
            assert await connection.fetchval("SELECT current_user::text") == mine.tenant_id.replace("ten_", "a_")


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_login_has_few_sessions_short_timeouts_and_no_attribute(harness, preset) -> None:
    environment = await with_agents(harness, preset)
    role = environment.tenant_id.replace("ten_", "a_")
    ((found,),) = await harness.as_superuser(
        "postgres", "SELECT (to_jsonb(r) - 'oid')::text FROM pg_roles AS r WHERE rolname = $1", role
    )
    found = json.loads(found)
    async with harness.as_agents(environment) as connection:
        shown = {name: await connection.fetchval(f"SHOW {name}") for name in SETTINGS}
    owned = await harness.as_superuser(
        environment.connections[0].database,
        "SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o' AND refobjid = "
        "(SELECT oid FROM pg_roles WHERE rolname = $1)",
        role,
    )

    assert shown == SETTINGS
    assert (found["rolcanlogin"], found["rolconnlimit"], found["rolinherit"]) == (True, 5, False)
    assert not any(found[f"rol{name}"] for name in ("super", "createrole", "createdb", "replication", "bypassrls"))
    assert owned == []


@pytest.mark.parametrize("access", [Access.CLOSED, Access.READ_ONLY])
@pytest.mark.parametrize("preset", PRESETS)
async def test_agents_have_access_only_while_the_tenant_has_all(harness, preset, access) -> None:
    environment = await with_agents(harness, preset, READS)
    async with harness.as_agents(environment) as session:
        await harness.driver.set_access(environment, access)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)):
            await session.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.as_agents(environment):
            pass
    await harness.driver.set_access(environment, Access.OPEN)

    async with harness.as_agents(environment) as session:
        assert await session.fetchval("SELECT id FROM documents") == environment.tenant_id


@pytest.mark.parametrize("preset", PRESETS)
async def test_only_the_gateway_and_the_provisioner_read_the_password(harness, preset) -> None:
    environment = await with_agents(harness, preset)
    secret = building.agent_connection(environment, 1).connection.secret
    base = harness.directory.parent
    operator = FileSecrets(base / "secrets", Identity.load(base / "identities", "operator"))

    assert await harness.secrets.get(secret)
    assert [each.secret for each in environment.connections] != [secret]
    with pytest.raises(SecretForbiddenError):
        await operator.get(secret)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_second_build_changes_nothing_and_nothing_differs(harness, preset) -> None:
    planned = harness.planned(preset, agents=True)
    environment = await harness.build(planned)
    await harness.driver.grant_agent_rights(environment, [WRITES])
    before = await harness.privileges(environment)
    again = await harness.build(planned)
    observed = [each async for page in harness.driver.observe(Scope.of(environment.tenant_id)) for each in page]

    assert await harness.privileges(again) == before
    assert differences(again, observed) == []
    async with harness.as_agents(again) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")


async def test_changed_timeouts_and_a_missing_login_are_drift(harness) -> None:
    environment = await with_agents(harness, Preset.POOLED)
    role = environment.tenant_id.replace("ten_", "a_")

    async def found():
        pages = harness.driver.observe(Scope.of(environment.tenant_id))
        observed = [each async for page in pages for each in page]
        return [(each.address, each.attribute, each.observed) for each in differences(environment, observed)]

    async with harness.as_agents(environment) as connection:
        await connection.execute(f'ALTER ROLE "{role}" SET statement_timeout = 0')
    changed = await found()
    resource = environment.resources["role.agents"]
    await harness.driver.update(resource, resource, Site(environment, environment.resources, environment.outputs))

    assert [each[:2] for each in changed] == [("role.agents", "settings")]
    assert "statement_timeout=0" in changed[0][2]
    assert await found() == []


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_purge_deletes_actions_and_an_export_has_none(harness, preset) -> None:
    mine, theirs = [await with_agents(harness, preset, READS) for _ in range(2)]
    for environment in (mine, theirs):
        async with harness.as_agents(environment) as connection:
            await connection.execute(ACT, "run_1", 1)
    export = await harness.driver.export(mine)
    site = Site(mine, mine.known_resources, mine.outputs)
    order = ["role.agents", "secret.agents", "role.main", "secret.database", "schema.main"]
    before = await harness.driver.absence(mine.resources["schema.main"], site)
    for address in order:
        await harness.delete(mine, address)
    hows = {address: await harness.driver.absence(mine.resources[address], site) for address in order}
    database = mine.connections[0].database
    left = await harness.as_superuser(database, f"SELECT FROM {ACTIONS} WHERE tenant = $1", mine.tenant_id)
    roles = await harness.as_superuser(
        "postgres", "SELECT rolname FROM pg_roles WHERE rolname ~ $1", mine.tenant_id[4:]
    )

    assert export.rows == 1
    assert before is None
    assert all(hows.values())
    assert roles == []
    if preset is not Preset.SILO:
        assert left == []
        assert "none of its agents' actions" in hows["schema.main"]
    async with harness.as_agents(theirs) as connection:
        assert await connection.fetchval(f"SELECT run FROM {ACTIONS}") == "run_1"


async def test_the_policy_of_actions_uses_the_key(harness) -> None:
    environment = await with_agents(harness, Preset.POOLED)
    database = environment.connections[0].database
    await harness.as_superuser(
        database,
        f"INSERT INTO {ACTIONS} (tenant, run, seq, digest, outcome) SELECT 'ten_' || md5(t::text), 'r' || n, 1, '', '' "
        "FROM generate_series(1, 300) AS t, generate_series(1, 100) AS n",
    )
    await harness.as_superuser(database, f"ANALYZE {ACTIONS}")
    async with harness.as_agents(environment) as connection:
        rows = await connection.fetch(f"EXPLAIN SELECT outcome FROM {ACTIONS} WHERE run = 'r1' AND seq = 1")

    plan = "\n".join(row[0] for row in rows)
    assert "Index Cond: ((tenant = " in plan
    assert ACTIONS_POLICY_EXPRESSION.startswith("(tenant = ")


@pytest.mark.parametrize("table", ["product.documents", ACTIONS])
async def test_without_the_policy_agents_see_the_rows_of_others(harness, table) -> None:
    """Shows that nothing but the policy hides them: the tests above fail without it."""
    mine, theirs = [await with_agents(harness, Preset.POOLED, READS) for _ in range(2)]
    for environment in (mine, theirs):
        async with harness.as_agents(environment) as connection:
            await connection.execute(ACT, environment.tenant_id, 1)
    column = "id" if table != ACTIONS else "run"
    database = mine.connections[0].database
    await harness.as_driver(database, f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    async with harness.as_agents(mine) as connection:
        rows = await connection.fetch(f"SELECT {column} FROM {table}")
    await harness.as_driver(database, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")

    assert {row[column] for row in rows} == {mine.tenant_id, theirs.tenant_id}


@pytest.mark.parametrize(("before", "after_"), list(permutations(PRESETS, 2)))
async def test_another_placement_brings_the_login_along_and_leaves_nothing_behind(harness, before, after_) -> None:
    old = await with_agents(harness, before, READS)
    async with harness.as_agents(old) as connection:
        await connection.execute(ACT, "run_1", 1)
    number = old.tenant_id.removeprefix("ten_")
    target = [step.after for step in harness.planned(after_, number, agents=True).plan.steps]
    steps = diff(target, [each.resource for each in old.built], old.replaced)
    plan = old.plan.model_copy(update={"steps": steps, "preset": after_})
    new = await harness.build(replace(old, plan=plan, status=Status.CHANGING))
    await harness.driver.grant_agent_rights(new, [READS])
    left = old.connections[0].database
    databases = [name for (name,) in await harness.as_superuser("postgres", "SELECT datname::text FROM pg_database")]
    async with harness.as_agents(new) as connection:
        rows = await connection.fetch("SELECT id FROM documents")
        actions = await connection.fetch(f"SELECT run FROM {ACTIONS}")

    assert rows == actions == []
    assert building.agent_connection(new, 1).connection.database != left
    if before is Preset.SILO:
        assert left not in databases
    else:
        assert await harness.as_superuser(left, f"SELECT FROM {ACTIONS} WHERE tenant = $1", old.tenant_id) == []
        with pytest.raises(REFUSED):
            async with harness.as_agents(new, database=left):
                pass
