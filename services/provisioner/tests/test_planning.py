"""The state that a tenant is entitled to is never forgotten: it is planned, refused with a reason, or pending."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from blueprint_samples import DOCUMENTS, blueprint_of, published, tier_blueprint, with_version
from environment_samples import (
    BLUEPRINT,
    BUILDING,
    CELLS,
    CLOSED,
    CONTENT,
    EVERYTHING,
    FAILED,
    HASH,
    LEAVES,
    NOW,
    PLAN_HASH,
    READY,
    REGISTERED,
    REQUESTED,
    RETAINED,
    TENANT,
    after,
    built,
    completed,
    entitled,
)
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.catalogue import LimitFeature
from paybill_contracts.environment_plans import (
    EnvironmentChanged,
    EnvironmentDesired,
    EnvironmentPlanned,
    PlanRefused,
    ResourceRemoved,
    StepAction,
)
from paybill_contracts.errors import DomainError
from paybill_contracts.kinds import Column
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalRequested, ApprovalVoid, PlanSuperseded
from paybill_contracts.provisioner import (
    Access,
    AccessChangeStarted,
    EnvironmentChangePending,
    EnvironmentChangeSettled,
    EnvironmentFailed,
)
from paybill_provisioner.domain import access, building, environments, planning
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_parts import Refusal
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.planning import EnvironmentNotFailedError
from paybill_provisioner.domain.size_invariant import check_size
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.domain.steps import diff

STARTER, BUSINESS = Size("starter", Preset.POOLED), Size("business", Preset.SILO)
LARGER = entitled(tier="business", placement=Preset.SILO)
PLATINUM = entitled(tier="platinum")


def entitle(environment: Environment, fact: Any = LARGER, blueprint: Any = BLUEPRINT) -> Environment:
    return after(environment, planning.on_entitlements_set(environment, fact, blueprint, CELLS, NOW))


def types(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def test_another_placement_of_a_built_environment_is_desired_and_pending() -> None:
    events = planning.on_entitlements_set(READY, LARGER, BLUEPRINT, CELLS, NOW)
    pending = after(READY, events)

    assert types(events) == [EnvironmentDesired, ApprovalRequested, EnvironmentChangePending]
    assert (pending.desired_size, pending.planned_size, pending.built_size) == (BUSINESS, STARTER, STARTER)
    assert pending.pending is not None
    assert (pending.pending.since, pending.pending.reason) == (NOW, "the plan starter needs business (silo)")


def test_a_pending_change_is_recorded_once_and_keeps_its_begin() -> None:
    pending = entitle(READY)
    later = NOW + timedelta(days=1)
    blueprint = published(blueprint_of(*CONTENT.tiers, tier_blueprint("huge", Preset.SILO, 70), version=2))
    again = planning.on_entitlements_set(pending, entitled(tier="huge", placement=Preset.SILO), blueprint, CELLS, later)

    assert planning.on_entitlements_set(pending, LARGER, BLUEPRINT, CELLS, later) == []
    assert types(again) == [
        EnvironmentDesired,
        ApprovalVoid,
        PlanSuperseded,
        ApprovalRequested,
        EnvironmentChangePending,
    ]
    assert again[-1].since == NOW


def test_a_pending_change_ends_when_the_subscription_changes_back() -> None:
    events = planning.on_entitlements_set(entitle(READY), entitled(), BLUEPRINT, CELLS, NOW)
    back = after(entitle(READY), events)

    assert EnvironmentChangeSettled in types(events)
    assert (back.pending, back.desired_size, back.status) == (None, STARTER, Status.READY)


def test_entitlements_while_a_plan_is_open_are_planned_when_it_ends() -> None:
    waiting = entitle(BUILDING)
    ready = after(waiting, completed(waiting))
    events = planning.compare(ready, BLUEPRINT, CELLS, NOW)

    assert (waiting.desired_size, waiting.planned_size) == (BUSINESS, STARTER)
    assert types(events) == [ApprovalRequested, EnvironmentChangePending]
    assert planning.compare(after(ready, events), BLUEPRINT, CELLS, NOW) == []


def test_a_retry_plans_what_is_desired_now() -> None:
    waiting = entitle(BUILDING)
    failed = after(waiting, building.build_failed(waiting, PLAN_HASH, "disk full"))
    again = after(failed, planning.retry(failed, failed.id, BLUEPRINT, CELLS, NOW))

    assert failed.status is Status.FAILED
    assert (again.status, again.planned_size) == (Status.BUILDING, BUSINESS)


def test_entitlements_without_access_are_desired_and_never_planned() -> None:
    events = planning.on_entitlements_set(REGISTERED, entitled(allows_access=False), BLUEPRINT, CELLS, NOW)

    assert types(events) == [EnvironmentDesired]
    assert planning.compare(after(REGISTERED, events), BLUEPRINT, CELLS, NOW) == []


def test_what_a_plan_names_is_not_recorded_a_second_time() -> None:
    assert types(planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW)) == [EnvironmentPlanned]
    for environment in (BUILDING, READY, CLOSED, RETAINED):
        assert planning.on_entitlements_set(environment, entitled(), BLUEPRINT, CELLS, NOW) == []


def test_entitlements_of_a_retained_tenant_are_desired() -> None:
    assert types(planning.on_entitlements_set(RETAINED, LARGER, BLUEPRINT, CELLS, NOW)) == [EnvironmentDesired]


@pytest.mark.parametrize(
    ("environment", "fact", "blueprint", "code", "reason"),
    [
        (REGISTERED, PLATINUM, BLUEPRINT, "tier_unknown", "no blueprint has the tier platinum"),
        (
            after(None, environments.on_tenant_requested(None, REQUESTED.model_copy(update={"region": "mars-north"}))),
            entitled(),
            BLUEPRINT,
            "region_unknown",
            "builds nothing in mars-north",
        ),
        (
            REGISTERED,
            entitled(),
            published(blueprint_of(tier_blueprint("starter", Preset.POOLED, "${limits.connections}"))),
            "invalid_resource",
            "role.main.connection_limit",
        ),
        (
            READY,
            entitled(entitlements_hash="cd" * 32),
            published(
                blueprint_of(
                    *CONTENT.tiers,
                    tables=(DOCUMENTS.model_copy(update={"columns": (Column(name="key", type="text"),)}),),
                )
            ),
            "change_refused",
            "the key of documents is id",
        ),
        (
            READY,
            entitled(entitlements_hash="cd" * 32),
            published(blueprint_of(with_version(CONTENT.tiers[0], 18), *CONTENT.tiers[1:], version=2)),
            "change_refused",
            "database.main: version is not set and cannot become 18",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_with_its_reason(
    environment: Environment, fact: Any, blueprint: Any, code: str, reason: str
) -> None:
    events = planning.on_entitlements_set(environment, fact, blueprint, CELLS, NOW)
    refused = after(environment, events)

    assert types(events) == [EnvironmentDesired, PlanRefused]
    assert refused.refusal is not None
    assert (refused.refusal.code, reason in refused.refusal.reason) == (code, True)
    assert ("keeps what is built" in refused.refusal.next_step) is (code == "change_refused")
    assert planning.compare(refused, blueprint, CELLS, NOW) == []


def test_a_refused_state_is_planned_when_a_blueprint_has_it() -> None:
    refused = entitle(REGISTERED, PLATINUM)
    platinum = published(blueprint_of(*CONTENT.tiers, tier_blueprint("platinum", Preset.POOLED), version=2))
    planned = after(refused, planning.compare(refused, platinum, CELLS, NOW))

    assert (planned.status, planned.refusal, planned.planned_size) == (
        Status.BUILDING,
        None,
        Size("platinum", Preset.POOLED),
    )


def test_a_refused_state_can_be_retried() -> None:
    refused = entitle(REGISTERED, PLATINUM)
    fixed = published(blueprint_of(tier_blueprint("platinum", Preset.POOLED), version=2))

    assert planning.retry(refused, refused.id, BLUEPRINT, CELLS, NOW) == []
    assert types(planning.retry(refused, refused.id, fixed, CELLS, NOW)) == [EnvironmentPlanned]
    with pytest.raises(EnvironmentNotFailedError):
        planning.retry(READY, READY.id, BLUEPRINT, CELLS, NOW)


def test_another_connection_limit_for_the_same_tier_is_applied_in_place() -> None:
    more = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), version=2))
    (planned,) = planning.compare(READY, more, CELLS, NOW)
    assert isinstance(planned, EnvironmentPlanned)
    changing = after(READY, [planned])
    events = building.progress_recorded(changing, planned.plan_hash, built([("role.main", {"username": "t_1"})]))

    assert [(step.action, step.address) for step in planned.plan.steps] == [(StepAction.UPDATE, "role.main")]
    assert (changing.status, changing.access) == (Status.CHANGING, Access.OPEN)
    assert types(events)[-2:] == [EnvironmentChanged, AccessChangeStarted]
    assert after(changing, events).status is Status.READY


def test_a_failed_change_leaves_the_environment_usable_and_is_not_repeated_by_itself() -> None:
    more = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), version=2))
    changing = after(READY, planning.compare(READY, more, CELLS, NOW))
    events = building.build_failed(changing, changing.plan_hash or "", "no rights")
    failed = after(changing, events)

    assert types(events) == [EnvironmentFailed]
    assert (failed.status, failed.access, planning.compare(failed, more, CELLS, NOW)) == (Status.READY, Access.OPEN, [])
    assert types(planning.retry(failed, failed.id, more, CELLS, NOW)) == [EnvironmentPlanned]


def test_a_blueprint_that_changes_nothing_plans_nothing_twice() -> None:
    same = published(blueprint_of(*CONTENT.tiers, version=2))
    events = planning.compare(READY, same, CELLS, NOW)

    assert types(events) == [EnvironmentPlanned, EnvironmentChanged]
    assert planning.compare(after(READY, events), same, CELLS, NOW) == []


def test_a_silo_that_was_never_opened_is_deleted_when_the_tenant_is_entitled_to_a_pool() -> None:
    silo = entitle(REGISTERED)
    outputs = {"host": "127.0.0.1", "port": "5432", "database": "silo"}
    halfway = after(silo, building.progress_recorded(silo, silo.plan_hash or "", built([("database.main", outputs)])))
    failed = after(halfway, building.build_failed(halfway, silo.plan_hash or "", "disk full"))
    planned = entitle(failed, entitled())
    deleted = [step.before for step in planned.remaining if step.action is StepAction.DELETE]
    done = after(planned, completed(planned))

    # The login and the secret have the same names in a pool; what may exist although its step has failed is deleted.
    assert [each.address for each in deleted if each] == ["schema.main", "bucket.data", "database.main"]
    assert (planned.status, done.status) == (Status.BUILDING, Status.BUILDING)
    assert {each.address for each in done.replaced} == {"schema.main", "bucket.data", "database.main"}
    events = completed(done, (), done.replaced)
    assert types(events)[:3] == [ResourceRemoved] * 3
    assert (after(done, events).status, after(done, events).replaced) == (Status.READY, ())


def test_a_plan_of_deletes_ends_with_as_many_facts() -> None:
    steps = diff((), (each.resource for each in READY.built))
    plan = READY.plan
    assert plan is not None
    environment = replace(READY, status=Status.CHANGING, plan=plan.model_copy(update={"steps": steps}))
    events: list[Any] = []
    for step in steps:
        assert step.before is not None
        events += (removed := building.progress_recorded(environment, PLAN_HASH, Progress(removed=[step.before])))
        environment = after(environment, removed)

    assert types(events) == [ResourceRemoved] * 4 + [EnvironmentChanged]
    assert (environment.remaining, environment.connections) == ((), ())


def test_an_environment_without_a_database_is_ready_with_no_connection() -> None:
    tier = tier_blueprint("starter", Preset.POOLED)
    bucket = published(blueprint_of(tier.model_copy(update={"resources": (tier.resources[1],)})))
    planned = entitle(REGISTERED, entitled(), bucket)
    ready = after(planned, completed(planned, [("bucket.data", {})]))

    assert (ready.status, ready.connections) == (Status.READY, ())


def test_a_tenant_that_leaves_keeps_what_it_has() -> None:
    void, settled = planning.on_leaving(entitle(CLOSED))

    assert (type(void), type(settled)) == (ApprovalVoid, EnvironmentChangeSettled)
    assert (void.reason, settled.reason) == ("the tenant leaves", "the tenant leaves")
    assert planning.on_leaving(CLOSED) == []


def test_limits_of_the_entitlements_are_part_of_the_desired_state() -> None:
    blueprint = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, "${limits.connections}")))
    feature = LimitFeature(kind="limit", key="connections", limit=12)
    (planned,) = planning.on_entitlements_set(REGISTERED, entitled(features=(feature,)), blueprint, CELLS, NOW)
    assert isinstance(planned, EnvironmentPlanned)
    ready = after(REGISTERED, [planned])
    ready = after(ready, completed(ready))
    grown = entitled(features=(feature.model_copy(update={"limit": 50}),), entitlements_hash="cd" * 32)
    (change,) = planning.on_entitlements_set(ready, grown, blueprint, CELLS, NOW)

    assert isinstance(change, EnvironmentPlanned)
    assert [step.address for step in change.plan.steps] == ["role.main"]


@pytest.mark.parametrize("environment", [None, BUILDING, READY, FAILED, CLOSED, RETAINED, entitle(READY)])
def test_every_state_that_events_lead_to_satisfies_the_invariant(environment: Environment | None) -> None:
    assert check_size([environment], NOW) is None


def test_a_size_that_is_not_built_and_not_pending_violates_the_invariant() -> None:
    difference = check_size([replace(entitle(READY), pending=None)], NOW)

    assert difference is not None
    assert difference.left == "starter (pooled) is built"
    assert difference.right == "business (silo) is entitled, without a pending change"
    assert check_size([replace(READY, built=READY.built[1:])], NOW) is not None


PLATINUM_TOO = published(blueprint_of(*CONTENT.tiers, tier_blueprint("platinum", Preset.POOLED), version=2))
MORE = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), *CONTENT.tiers[1:], version=3))
BLUEPRINTS = {"first": BLUEPRINT, "platinum": PLATINUM_TOO, "more": MORE}
FACTS = {
    "starter": entitled(),
    "business": LARGER,
    "platinum": PLATINUM,
    "none": entitled(allows_access=False, entitlements_hash="ef" * 32),
}
ACTIONS = [*BLUEPRINTS, *(f"entitled {name}" for name in FACTS), "build", "fail", "retry", "hold", "leave"]


@given(st.lists(st.sampled_from(ACTIONS), max_size=30))
def test_planned_equals_desired_or_a_reason_is_shown(actions: list[str]) -> None:
    environment, blueprint = REGISTERED, BLUEPRINT

    def record(events: list[Any]) -> None:
        nonlocal environment
        for event in events:
            environment = evolve(environment, event)

    for action in [*actions, "build"]:
        try:
            if action in BLUEPRINTS:
                blueprint = BLUEPRINTS[action]
            elif action.startswith("entitled "):
                record(planning.on_entitlements_set(environment, FACTS[action.split()[1]], blueprint, CELLS, NOW))
            elif action == "build" and environment.status in {Status.BUILDING, Status.CHANGING}:
                for step in environment.remaining:
                    if step.after is not None:
                        outputs = dict(EVERYTHING)[step.address]
                        record(
                            building.progress_recorded(
                                environment, environment.plan_hash or "", built([(step.address, outputs)])
                            )
                        )
                    elif step.before is not None:
                        record(
                            building.progress_recorded(
                                environment, environment.plan_hash or "", Progress(removed=[step.before])
                            )
                        )
            elif action == "fail":
                record(building.build_failed(environment, environment.plan_hash or "", "no"))
            elif action == "retry":
                record(planning.retry(environment, TENANT, blueprint, CELLS, NOW))
            elif action == "hold":
                record(access._start_change(environment, Access.CLOSED))
            elif action == "leave":
                record(access.on_tenant_left(environment, LEAVES))
        except DomainError:
            continue
        record(planning.compare(environment, blueprint, CELLS, NOW))

    if environment.status in {Status.RETAINING, Status.RETAINED} or environment.desired is None:
        return
    explained = environment.pending or environment.refusal or environment.failure
    open_plan = environment.status in {Status.BUILDING, Status.CHANGING}
    assert (
        environment.desired_size == environment.planned_size
        or open_plan
        or explained is not None
        or not environment.desired.allows_access
    )
    assert check_size([environment], NOW) is None or isinstance(environment.refusal, Refusal)
    assert environment.target_access is Access.CLOSED or "hold" not in actions
    assert HASH
