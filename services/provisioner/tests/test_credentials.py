"""Credentials are made when they are first requested, once, and only for tenants with access."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import asyncpg
import pytest
from blueprint_samples import blueprint_of, blueprint_text, cells_of, published, tier_blueprint
from environment_samples import (
    BUILDING,
    CLOSING,
    EVERYTHING,
    FAILED,
    LEAVES,
    NOW,
    READY,
    REGISTERED,
    RESTORING,
    RETAINED,
    RETAINING,
    TENANT,
    after,
    completed,
    entitled,
)
from paybill_contracts.credentials import CredentialsMade, CredentialsRequested
from paybill_contracts.environment_plans import ResourceRemoved, StepAction
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.app import service
from paybill_provisioner.domain import access, building, credentials, planning, plans
from paybill_provisioner.domain.credentials import AccessNotOpenError, EnvironmentNotReadyError, NoLoginError
from paybill_provisioner.domain.environments import evolve
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.replay.verify import replay

CONTENT = blueprint_of(tier_blueprint("starter", Preset.POOLED, at_once=False))
BLUEPRINT = published(CONTENT)
AT_ONCE = published(blueprint_of(tier_blueprint("starter", Preset.POOLED), version=2))
CELLS = cells_of(CONTENT)
REFERENCE = "secret://provisioner/environments/x/database?v=1"
OUTPUTS = [(address, {} if address == "secret.database" else outputs) for address, outputs in EVERYTHING]


def ready_without_passwords():
    planned = after(REGISTERED, planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW))
    return after(planned, completed(planned, OUTPUTS))


BARE = ready_without_passwords()
REQUESTED = after(BARE, credentials.request(BARE, TENANT))
MADE = after(REQUESTED, credentials.made(REQUESTED, {"secret.database": REFERENCE}))


def test_an_environment_is_ready_without_a_password() -> None:
    (connection,) = BARE.connections

    assert (connection.username, connection.secret) == (f"t_{TENANT[4:]}", None)
    assert credentials.missing_secrets(BARE) == ["secret.database"]


def test_a_request_makes_the_missing_passwords_once() -> None:
    (requested,) = credentials.request(BARE, TENANT)

    assert isinstance(requested, CredentialsRequested)
    assert requested.secrets == ("secret.database",)
    assert credentials.request(REQUESTED, TENANT) == []
    assert credentials.request(MADE, TENANT) == []
    assert credentials.request(READY, TENANT) == []
    assert credentials.made(MADE, {"secret.database": REFERENCE}) == []


def test_the_fact_has_references_and_all_connections() -> None:
    (fact,) = credentials.made(REQUESTED, {"secret.database": REFERENCE})

    assert isinstance(fact, CredentialsMade)
    assert fact.secrets == {"secret.database": REFERENCE}
    assert [each.secret for each in fact.connections] == [REFERENCE]
    assert MADE.connections == fact.connections
    assert MADE.outputs["secret.database"] == {"secret": REFERENCE}


@pytest.mark.parametrize("environment", [REGISTERED, BUILDING, FAILED, RETAINING, RETAINED, RESTORING])
def test_a_tenant_without_a_ready_environment_gets_none(environment) -> None:
    with pytest.raises(EnvironmentNotReadyError, match=r"retained|ready"):
        credentials.request(environment, TENANT)


@pytest.mark.parametrize("target", [Access.CLOSED, Access.READ_ONLY])
def test_a_suspended_tenant_gets_none(target) -> None:
    with pytest.raises(AccessNotOpenError, match=r"acme is suspended.*reactivate it first"):
        credentials.request(replace(MADE, target_access=target), TENANT)
    with pytest.raises(AccessNotOpenError):
        credentials.request(CLOSING, TENANT)


def test_an_environment_without_a_login_has_no_credentials() -> None:
    with pytest.raises(NoLoginError):
        credentials.request(replace(BARE, built=BARE.built[:2]), TENANT)


def test_a_password_changes_no_plan_and_voids_no_approval() -> None:
    assert (MADE.base_revision, MADE.observed_hash) == (BARE.base_revision, BARE.observed_hash)
    assert planning.compare(MADE, BLUEPRINT, CELLS, NOW) == []


def test_a_tenant_that_leaves_ends_its_request_and_has_the_same_credentials_when_it_returns() -> None:
    left = after(REQUESTED, access.on_tenant_left(REQUESTED, LEAVES))
    kept = after(MADE, access.on_tenant_left(MADE, LEAVES))

    assert credentials.made(left, {"secret.database": REFERENCE}) == []
    assert [each.secret for each in building.connections(kept)] == [REFERENCE]


def test_a_blueprint_that_makes_passwords_at_once_changes_the_secret_and_its_login() -> None:
    to_at_once = plans.plan_of(BARE, BARE.desired, AT_ONCE, 1)
    back = plans.plan_of(READY, READY.desired, BLUEPRINT, 1)

    assert [(step.action, step.address) for step in to_at_once.steps] == [
        (StepAction.UPDATE, "secret.database"),
        (StepAction.UPDATE, "role.main"),
    ]
    assert back.steps == ()


def test_a_removed_secret_is_forgotten() -> None:
    (secret,) = [each.resource for each in MADE.built if each.resource.address == "secret.database"]
    fact = ResourceRemoved(
        tenant_id=TENANT,
        environment_id=MADE.id,
        plan_hash=MADE.plan_hash or "",
        address=secret.address,
        name=secret.identity,
    )

    assert evolve(MADE, fact).credentials == {}


@pytest.mark.parametrize("preset", list(Preset))
async def test_a_login_has_no_password_until_it_is_requested_and_then_keeps_it(harness, preset) -> None:
    environment = await harness.build(harness.planned(preset, at_once=False))
    role = environment.connections[0].username
    ((before,),) = await harness.as_superuser("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)

    made = await harness.driver.make_credentials(environment, ["secret.database"])
    other = harness.new_driver()
    again = await other.make_credentials(environment, ["secret.database"])
    await other.close()
    requested = after(environment, credentials.request(environment, environment.tenant_id))
    environment = after(requested, credentials.made(requested, made))

    assert before is None
    assert again == made
    assert await harness.can_write(environment)
    rebuilt = await harness.build(replace(harness.planned(preset, environment.tenant_id[4:], at_once=False)))
    assert rebuilt.connections[0].secret == made["secret.database"]
    assert await harness.can_write(rebuilt)


async def test_two_drivers_at_the_same_time_leave_one_password_that_works(harness) -> None:
    environment = await harness.build(harness.planned(Preset.POOLED, at_once=False))
    others = [harness.new_driver() for _ in range(3)]

    made = await asyncio.gather(*(each.make_credentials(environment, ["secret.database"]) for each in others))
    for each in others:
        await each.close()
    requested = after(environment, credentials.request(environment, environment.tenant_id))

    assert len({each["secret.database"] for each in made}) == 1
    assert await harness.can_write(after(requested, credentials.made(requested, made[0])))


async def test_credentials_of_a_missing_login_are_refused_with_the_next_step(harness) -> None:
    planned = harness.planned(Preset.POOLED, at_once=False)

    with pytest.raises(Refused, match="does not exist; retry the environment"):
        await harness.driver.make_credentials(planned, ["secret.database"])


async def test_credentials_are_requested_over_http_and_no_answer_has_a_password(
    start, settings, harness, publish, log, about
) -> None:
    settings["blueprints_file"].write_text(blueprint_text(harness.region, credentials="on_demand"))
    provisioner = await start(service(), **settings)
    tenant, client = about(), provisioner.client
    await publish(tenant.requested, tenant.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    path = f"/v1/environments/{tenant.tenant}/credentials"
    shown = (await client.get(path)).json()
    answers = await asyncio.gather(client.post(path), client.post(path))
    (made,) = await log.facts("provisioner.credentials_made")
    later = await client.post(path)
    connection = made.event.connections[0]
    environment = SimpleNamespace(connections=made.event.connections)
    async with harness.connect(environment) as opened:
        await opened.execute("INSERT INTO documents (id) VALUES ('a')")

    assert [each.secret for each in ready.event.connections] == [None]
    assert (shown["complete"], shown["requested"], shown["connections"][0]["secret"]) == (False, False, None)
    assert [answer.status_code for answer in answers] == [202, 202]
    assert later.json()["connections"][0]["secret"] == connection.secret == made.event.secrets["secret.database"]
    assert later.json()["complete"]
    assert await harness.secrets.get(connection.secret) not in later.text
    assert len(await log.facts("provisioner.credentials_requested")) == 1

    await publish(tenant.blocked)
    await log.facts("provisioner.access_closed")
    refused = await client.post(path)
    await publish(tenant.leaves)
    await log.facts("provisioner.environment_retained")
    gone = await client.post(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "access_not_open")
    assert (gone.status_code, gone.json()["code"]) == (409, "environment_not_ready")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.connect(environment):
            pass
    assert (await replay(service(), provisioner.running.settings, provisioner.running.database)).equal


@pytest.mark.parametrize("preset", list(Preset))
async def test_a_tenant_that_returns_has_its_data_and_its_old_password(
    start, settings, harness, publish, log, about, preset
) -> None:
    settings["blueprints_file"].write_text(blueprint_text(harness.region, credentials="on_demand"))
    provisioner = await start(service(), **settings)
    tenant, path = about(preset), "/v1/environments/{}/credentials"
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    await provisioner.client.post(path.format(tenant.tenant))
    (made,) = await log.facts("provisioner.credentials_made")
    environment = SimpleNamespace(connections=made.event.connections)
    password = await harness.secrets.get(made.event.connections[0].secret)
    async with harness.connect(environment, password=password) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")
    await publish(tenant.leaves)
    await log.facts("provisioner.environment_retained")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.connect(environment, password=password):
            pass
    await publish(tenant.returns)
    back = (await log.facts("provisioner.environment_ready", at_least=2))[-1].event
    shown = (await provisioner.client.post(path.format(tenant.tenant))).json()
    async with harness.connect(environment, password=password) as connection:
        rows = [row[0] for row in await connection.fetch("SELECT id FROM documents")]

    assert back.connections == made.event.connections
    assert [each["secret"] for each in shown["connections"]] == [each.secret for each in back.connections]
    assert shown["complete"]
    assert rows == ["a"]
    assert len(await log.facts("provisioner.credentials_made")) == 1
