"""Plans that rebuild tables of an earlier version: inspected before, approved, and shown with their lock."""

from dataclasses import replace
from typing import Any

import pytest
from approval_samples import ADA, policy
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import NOW, REGISTERED, TENANT, after, completed, entitled
from paybill_contracts.envelope import Origin
from paybill_contracts.environment_plans import EnvironmentPlanned, PlanRefused, ResourceBuilt, StepAction
from paybill_contracts.event import digest
from paybill_contracts.kinds import Schema
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalRequested
from paybill_contracts.policy import Handling
from paybill_contracts.table_rebuilds import InspectedTables, TablesInspected, TablesInspectionRequested
from paybill_provisioner.app import service
from paybill_provisioner.domain import applying, building, planning, rebuilding
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.planning import EnvironmentNotFailedError
from paybill_provisioner.domain.rebuilding import ForeignObjectsError, TablesNotInspectedError
from paybill_provisioner.tables import BLUEPRINTS, CELL_KEYS, ENVIRONMENTS, PLANNING_READS, cells_in_force, record
from paybill_runtime.replay.verify import replay

YAML = {"Content-Type": "application/yaml"}
SILO = blueprint_of(tier_blueprint("business", Preset.SILO))
BLUEPRINTS_IN_FORCE = published(SILO.model_copy(update={"version": 2}))
"""The version after the one by which the tables were made."""
ENTITLED = entitled(tier="business", placement=Preset.SILO)
GIB = 1024**3
UNATTENDED_REBUILDS = """
name: standard
version: 2
creates: unattended
updates: unattended
clean_up: unattended
deletes: other_person
replaces: unattended
moves_data: other_person
approval_valid_hours: 1
"""


def of_an_earlier_version(planned: EnvironmentPlanned) -> EnvironmentPlanned:
    """Returns the plan as an earlier version made it: without the tenant's column."""
    steps = []
    for step in planned.plan.steps:
        if step.after is not None and isinstance(step.after.attributes, Schema):
            attributes = step.after.attributes.model_copy(update={"tenant_column": False})
            old = step.model_copy(update={"after": step.after.model_copy(update={"attributes": attributes})})
            steps.append(old)
        else:
            steps.append(step)
    plan = planned.plan.model_copy(update={"steps": tuple(steps)})
    return planned.model_copy(update={"plan": plan, "plan_hash": digest(plan)})


def built_earlier() -> Environment:
    events = planning.on_entitlements_set(REGISTERED, ENTITLED, published(SILO), {}, NOW)
    environment = after(
        REGISTERED, [of_an_earlier_version(each) if isinstance(each, EnvironmentPlanned) else each for each in events]
    )
    return after(environment, completed(environment))


EARLIER = built_earlier()


def compared(environment: Environment, inputs: PlanInputs | None = None) -> list[Any]:
    return planning.compare(environment, BLUEPRINTS_IN_FORCE, {}, NOW, inputs or PlanInputs())


def inspected(*obstacles: str, size_bytes: int = 5 * GIB) -> Environment:
    environment = after(EARLIER, compared(EARLIER))
    found = InspectedTables(address="schema.main", size_bytes=size_bytes, obstacles=obstacles)
    return after(environment, rebuilding.inspected(environment, [found]))


def test_tables_are_inspected_once_before_they_are_planned() -> None:
    events = compared(EARLIER)
    waiting = after(EARLIER, events)

    assert [type(each) for each in events] == [PlanRefused, TablesInspectionRequested]
    assert (events[0].code, events[1].addresses) == ("tables_not_inspected", ("schema.main",))
    assert compared(waiting) == []
    with pytest.raises(TablesNotInspectedError, match="paybill environment retry"):
        applying.make_plan(EARLIER, TENANT, ADA, BLUEPRINTS_IN_FORCE, {}, PlanInputs(), NOW)
    (request,) = planning.retry(EARLIER, TENANT, BLUEPRINTS_IN_FORCE, {}, NOW)
    assert isinstance(request, TablesInspectionRequested)


def test_a_rebuild_waits_for_an_approval_and_names_the_time_of_its_lock() -> None:
    environment = inspected()
    (request, *_) = compared(environment)
    assert isinstance(request, ApprovalRequested)
    steps = {step.address: step.action for step in request.plan.steps}

    assert steps == {"schema.main": StepAction.REBUILD, "role.main": StepAction.UPDATE}
    assert [(each.rule, each.text) for each in request.reasons] == [
        ("replaces", "the plan rebuilds the tables of schema.main")
    ]
    assert [(each.rule, each.text) for each in request.plan.estimates.risks] == [
        ("rebuild_locks", "schema.main: its tables (5120 MiB) are locked for about 5 min while they are rebuilt")
    ]
    assert request.other_person


def test_a_policy_can_let_rebuilds_run_unattended_and_the_login_follows() -> None:
    unattended = PlanInputs(published_policy=policy(replaces=Handling.UNATTENDED))
    environment = inspected(size_bytes=0)
    (planned,) = compared(environment, unattended)
    changing = after(environment, [planned])
    ready = after(changing, completed(changing))

    assert isinstance(planned, EnvironmentPlanned)
    assert "locked for about 1 s" in planned.plan.estimates.risks[0].text
    assert [step.address for step in changing.remaining] == ["schema.main", "role.main"]
    assert (changing.status, ready.status, ready.remaining, ready.inspected) == (
        Status.CHANGING,
        Status.READY,
        (),
        {},
    )
    assert rebuilding.earlier_schemas(ready) == ()
    assert compared(ready, unattended) == []
    with pytest.raises(EnvironmentNotFailedError):
        planning.retry(ready, TENANT, BLUEPRINTS_IN_FORCE, {}, NOW)


def test_tables_with_what_paybill_did_not_make_are_refused_until_a_retry_inspects_them_again() -> None:
    environment = inspected("index extra", "trigger changed on table documents")
    (refused,) = compared(environment)
    shown = after(environment, [refused])
    (request,) = planning.retry(shown, TENANT, BLUEPRINTS_IN_FORCE, {}, NOW)
    clean = InspectedTables(address="schema.main", size_bytes=0)
    anew = planning.inspected(after(shown, [request]), [clean], BLUEPRINTS_IN_FORCE, {}, NOW)

    assert isinstance(refused, PlanRefused)
    assert refused.code == "tables_have_foreign_objects"
    assert "index extra; trigger changed on table documents" in refused.reason
    assert refused.next_step == "remove it from the tables, then retry the environment"
    with pytest.raises(ForeignObjectsError):
        applying.make_plan(shown, TENANT, ADA, BLUEPRINTS_IN_FORCE, {}, PlanInputs(), NOW)
    assert [type(each) for each in anew][:2] == [TablesInspected, ApprovalRequested]


def test_a_failed_rebuild_is_inspected_again_before_the_next_plan() -> None:
    unattended = PlanInputs(published_policy=policy(replaces=Handling.UNATTENDED))
    environment = inspected()
    changing = after(environment, compared(environment, unattended))
    failed = after(
        changing, building.build_failed(changing, changing.plan_hash or "", "an index is new", "schema.main")
    )

    assert (failed.status, failed.inspected) == (Status.READY, {})
    (request,) = planning.retry(failed, TENANT, BLUEPRINTS_IN_FORCE, {}, NOW, unattended)
    assert isinstance(request, TablesInspectionRequested)


def test_an_inspection_of_tables_that_are_rebuilt_or_gone_is_not_recorded() -> None:
    found = InspectedTables(address="schema.main", size_bytes=0)

    assert rebuilding.inspected(replace(EARLIER, built=()), [found]) == []
    (event,) = rebuilding.inspected(EARLIER, [found])
    assert isinstance(event, TablesInspected)


def test_a_login_gets_its_privileges_on_a_new_table() -> None:
    """A step that leaves the record of its resource as it was is applied once, too."""
    blueprints = published(SILO)
    ready = after(REGISTERED, planning.on_entitlements_set(REGISTERED, ENTITLED, blueprints, {}, NOW))
    ready = after(ready, completed(ready))
    notes = SILO.tables[0].model_copy(update={"name": "notes"})
    more = published(
        blueprint_of(
            tier_blueprint("business", Preset.SILO, tables=(*SILO.tables, notes)),
            tables=(*SILO.tables, notes),
            version=2,
        )
    )
    changing = after(ready, planning.compare(ready, more, {}, NOW))
    halfway = after(
        changing,
        [
            ResourceBuilt(
                tenant_id=TENANT,
                environment_id=changing.id,
                plan_hash=changing.plan_hash or "",
                resources=({"address": "schema.main", "outputs": {"schema_name": "product"}},),
            )
        ],
    )

    assert [step.address for step in changing.remaining] == ["schema.main", "role.main"]
    assert [step.address for step in halfway.remaining] == ["role.main"]
    assert after(halfway, completed(halfway)).remaining == ()


@pytest.mark.parametrize("preset", [Preset.BRIDGE, Preset.SILO])
async def test_an_installation_of_an_earlier_version_is_rebuilt_after_an_approval(
    provisioner, harness, publish, log, about, preset
) -> None:
    tenant = about(preset)
    await publish(tenant.requested)
    await log.facts("provisioner.environment_registered")

    def as_earlier(unit: Any, at: Any) -> None:
        environment = unit.get(ENVIRONMENTS, tenant.environment)
        events = planning.on_entitlements_set(
            environment, tenant.entitled, unit.get(BLUEPRINTS, BLUEPRINT_ID), cells_in_force(unit), at.now
        )
        record(unit, tenant.environment, [of_an_earlier_version(each) for each in events])

    await provisioner.running.context.decide(
        Origin("test", "test", "service:test", ""),
        as_earlier,
        writes=[ENVIRONMENTS.key(tenant.environment), *CELL_KEYS],
        reads=PLANNING_READS,
    )
    (fact,) = await log.facts("provisioner.environment_ready")
    connection = fact.event.connections[0]
    table = f'"{connection.schema_name}".documents'
    await harness.as_superuser(connection.database, f"INSERT INTO {table} VALUES ('a', '{{}}')")
    (request,) = await log.facts("provisioner.approval_requested")
    plan = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}/plans")).json()["plan"]

    await harness.as_superuser(connection.database, f"CREATE INDEX extra ON {table} (body)")
    await provisioner.client.post("/v1/policies", content=UNATTENDED_REBUILDS, headers=YAML)
    (failed,) = await log.facts("provisioner.environment_failed")
    path = f"/v1/environments/{tenant.tenant}"
    retries = [(await provisioner.client.post(f"{path}/retry")).status_code]
    refused = (await log.facts("provisioner.plan_refused", at_least=2))[-1]
    view = (await provisioner.client.get(path)).json()
    await harness.as_superuser(connection.database, f'DROP INDEX "{connection.schema_name}".extra')
    retries.append((await provisioner.client.post(f"{path}/retry")).status_code)
    await log.facts("provisioner.environment_changed")

    assert request.event.plan_hash == plan["hash"]
    assert [(each["action"], each["address"]) for each in plan["steps"]] == [
        ("rebuild", "schema.main"),
        ("update", "role.main"),
    ]
    assert "are locked for about" in plan["risks"][0]["text"]
    assert (failed.event.address, "extra" in failed.event.reason) == ("schema.main", True)
    assert retries == [202, 202]
    assert (refused.event.code, view["refusal"]["code"]) == ("tables_have_foreign_objects",) * 2
    assert "extra" in view["refusal"]["reason"]
    assert await harness.as_superuser(connection.database, f"SELECT * FROM {table}") == [(tenant.tenant, "a", "{}")]
    report = await replay(service(), provisioner.running.settings, provisioner.running.database)
    assert report.equal
