"""Rules of agents' logins and rights: in every plan from the first agent on, without an approval, and settled."""

from dataclasses import replace
from datetime import timedelta

import pytest
from blueprint_samples import DOCUMENTS, blueprint_of, cells_of, published, tier_blueprint
from environment_samples import (
    BLUEPRINT,
    BUILDING,
    CELLS,
    EVERYTHING,
    NOW,
    NUMBER,
    READY,
    REGISTERED,
    RETAINED,
    TENANT,
    after,
    completed,
    entitled,
)
from paybill_contracts.agent_access import (
    AgentLoginRequested,
    AgentRightsChanged,
    AgentRightsRequested,
    AgentRightsSettled,
)
from paybill_contracts.agent_bundles import BundleActivated, TableRights
from paybill_contracts.agents import AgentRegistered
from paybill_contracts.blueprints import ResourceDefinition
from paybill_contracts.environment_plans import EnvironmentChanged, EnvironmentPlanned, EnvironmentReady, PlanRefused
from paybill_contracts.kinds import Column, Role
from paybill_contracts.placement import Preset
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import Access, AccessChangeStarted
from paybill_definitions.blueprint_rules import errors
from paybill_provisioner.domain import agent_rights, agents, planning
from paybill_provisioner.domain.drift import Observed, differences
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.policy import POLICY_ID, SAFE, PublishedPolicy

AGENT = AgentRegistered(
    tenant_id=TENANT,
    agent_id=f"agt_{NUMBER}",
    name="helper",
    role="support",
    key_id="key-1",
    sha256="ab" * 32,
    registered_by="user:ann",
    registered_at=NOW,
    expires_at=NOW + timedelta(days=1),
)
SECRET = "secret://provisioner/environments/x/agents?v=1"
OF_AGENTS = [("secret.agents", {"secret": SECRET}), ("role.agents", {"username": f"a_{NUMBER}"})]
STRICT = PlanInputs(
    published_policy=PublishedPolicy(
        POLICY_ID, SAFE.model_copy(update={"creates": Handling.OTHER_PERSON, "updates": Handling.APPROVAL}), "cd" * 32
    )
)
READS, KEYS = TableRights(table="documents", select=("id", "body")), TableRights(table="documents", select=("id",))


def registered(environment, inputs=NO_INPUTS, blueprint=BLUEPRINT):
    return agents.on_agent_registered(environment, AGENT, blueprint, CELLS, NOW, inputs)


def activated(number, *rights):
    return BundleActivated(
        blueprint="standard",
        bundle_hash=f"{number:064x}",
        rights=rights,
        activated_by="user:ann",
        activated_at=NOW,
    )


PLANNED = after(READY, registered(READY))
WITH_AGENTS = after(PLANNED, completed(PLANNED, OF_AGENTS))


def test_the_first_agent_adds_a_login_in_place_whatever_the_policy_holds() -> None:
    requested, planned = registered(READY, STRICT)

    assert isinstance(requested, AgentLoginRequested)
    assert isinstance(planned, EnvironmentPlanned)
    assert [(step.action, step.address) for step in planned.plan.steps] == [
        ("create", "secret.agents"),
        ("create", "role.agents"),
    ]
    role = planned.plan.steps[1].after.attributes
    assert isinstance(role, Role)
    assert (role.name, role.in_schema, role.connection_limit, role.agents) == (
        f"a_{NUMBER}",
        "schema.main",
        5,
        "standard",
    )
    assert planned.plan.steps[1].after.needs == ("schema.main", "secret.agents", "role.main")
    assert registered(PLANNED) == []
    assert registered(WITH_AGENTS) == []


def test_the_login_has_its_access_before_its_rights_and_the_fact_has_the_connection() -> None:
    changed, opened, rights = completed(PLANNED, OF_AGENTS)[1:4]

    assert isinstance(changed, EnvironmentChanged)
    assert isinstance(opened, AccessChangeStarted)
    assert isinstance(rights, AgentRightsRequested)
    assert [each.address for each in changed.connections] == ["role.main"]
    assert changed.agents is not None
    assert (changed.agents.connection.secret, changed.agents.epoch, changed.agents.preset) == (SECRET, 1, Preset.POOLED)


def test_an_environment_that_is_built_later_has_the_login_from_its_start() -> None:
    waiting = after(REGISTERED, registered(REGISTERED))
    built = after(waiting, planning.on_entitlements_set(waiting, entitled(), BLUEPRINT, CELLS, NOW))
    events = completed(built, [*EVERYTHING, *OF_AGENTS])
    (ready,) = [each for each in events if isinstance(each, EnvironmentReady)]

    assert ready.agents is not None
    assert ready.agents.epoch == ready.epoch == 1
    assert isinstance(events[-1], AgentRightsRequested)


def test_an_agent_that_comes_while_a_plan_is_applied_is_planned_after_it() -> None:
    (requested,) = registered(BUILDING)
    building = after(BUILDING, [requested])
    ready = after(building, completed(building))
    (planned,) = planning.compare(ready, BLUEPRINT, CELLS, NOW)

    assert ready.status is Status.READY
    assert [step.address for step in planned.plan.steps] == ["secret.agents", "role.agents"]
    assert planning.compare(WITH_AGENTS, BLUEPRINT, CELLS, NOW) == []


def test_a_pending_change_of_size_does_not_delay_the_login() -> None:
    pending = after(
        READY,
        planning.on_entitlements_set(READY, entitled(tier="business", placement=Preset.SILO), BLUEPRINT, CELLS, NOW),
    )
    planned = registered(pending, STRICT)[-1]

    assert pending.pending is not None
    assert isinstance(planned, EnvironmentPlanned)
    assert [step.address for step in planned.plan.steps] == ["secret.agents", "role.agents"]


@pytest.mark.parametrize("status", [Status.PURGING, Status.PURGED])
def test_a_purged_tenant_gets_no_login(status) -> None:
    assert registered(replace(RETAINED, status=status)) == []


def test_a_new_table_gives_the_login_its_rights_again() -> None:
    wider = DOCUMENTS.model_copy(update={"columns": (*DOCUMENTS.columns, Column(name="note", type="text"))})
    content = blueprint_of(tier_blueprint("starter", Preset.POOLED, tables=(wider,)), tables=(wider,), version=2)
    granted = after(WITH_AGENTS, agent_rights.granted(WITH_AGENTS, RIGHTS, NOW))
    (planned,) = planning.compare(granted, published(content), cells_of(content), NOW)
    changing = after(granted, [planned])
    done = after(changing, completed(changing, [*EVERYTHING[-2:], *OF_AGENTS[1:]]))

    assert [step.address for step in planned.plan.steps] == ["schema.main", "role.main", "role.agents"]
    assert (granted.agent_rights, done.agent_rights) == (RIGHTS.bundle_hash, None)


def test_a_blueprint_that_uses_the_address_of_the_login_is_refused() -> None:
    tier = tier_blueprint("starter", Preset.POOLED)
    used = ResourceDefinition(address="role.agents", attributes={"in_schema": "schema.main", "connection_limit": 1})
    content = blueprint_of(tier.model_copy(update={"resources": (*tier.resources, used)}))
    found = registered(READY, blueprint=published(content))

    assert [each.reason for each in errors(content)] == [
        "role.agents is made for the agents of a tenant; choose another name"
    ]
    assert isinstance(found[-1], PlanRefused)
    assert "choose another name" in found[-1].reason


@pytest.mark.parametrize(("access", "login"), [(Access.OPEN, "yes"), (Access.READ_ONLY, "no"), (Access.CLOSED, "no")])
def test_a_login_of_agents_that_is_open_without_full_access_is_drift(access, login) -> None:
    environment = replace(WITH_AGENTS, access=access, target_access=access)
    attributes = {
        "connection_limit": "5",
        "privileges": "none",
        "settings": "idle_in_transaction_session_timeout=5s, lock_timeout=2s, statement_timeout=5s",
    }

    def found(value):
        role = Observed("role", f"a_{NUMBER}", TENANT, attributes | {"login": value})
        return [each.attribute for each in differences(environment, [role]) if each.address == "role.agents"]

    assert found(login) == []
    assert found("no" if login == "yes" else "yes") == ["login"]


RIGHTS = agent_rights.evolve(None, agent_rights.on_bundle_activated(None, activated(1, READS))[0])


def test_a_right_that_only_an_earlier_bundle_has_is_allowed_until_every_login_has_lost_it() -> None:
    (changed,) = agent_rights.on_bundle_activated(RIGHTS, activated(2, KEYS))
    between = agent_rights.evolve(RIGHTS, changed)
    (settled,) = agent_rights.settled(between, between.bundle_hash)
    afterwards = agent_rights.evolve(between, settled)

    assert isinstance(changed, AgentRightsChanged)
    assert isinstance(settled, AgentRightsSettled)
    assert (RIGHTS.allowed, between.allowed, afterwards.allowed) == ((READS,), (KEYS, READS), (KEYS,))
    assert agent_rights.settled(between, RIGHTS.bundle_hash) == []
    assert agent_rights.settled(afterwards, afterwards.bundle_hash) == []
    assert agent_rights.on_bundle_activated(between, activated(2, KEYS)) == []


def test_rights_are_recorded_once_and_only_for_a_login_of_the_blueprint() -> None:
    (fact,) = agent_rights.granted(WITH_AGENTS, RIGHTS, NOW)
    known = evolve(WITH_AGENTS, fact)

    assert (fact.blueprint, fact.bundle_hash) == ("standard", RIGHTS.bundle_hash)
    assert agent_rights.granted(known, RIGHTS, NOW) == []
    assert agent_rights.granted(READY, RIGHTS, NOW) == []
    assert agent_rights.granted(WITH_AGENTS, replace(RIGHTS, id="other"), NOW) == []
    assert (known.base_revision, known.observed_hash) == (WITH_AGENTS.base_revision, WITH_AGENTS.observed_hash)
    assert agent_rights.pool_of(WITH_AGENTS) == "pool_eu_central/product"
