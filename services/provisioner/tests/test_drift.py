"""Drift: differences are found, published once, ended, accepted, proposed and repaired."""

from datetime import timedelta

import pytest
from approval_samples import ADA, applied, approved, compared, finished
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import (
    BLUEPRINT,
    BUILDING,
    CELLS,
    CLOSING,
    CONTENT,
    NOW,
    NUMBER,
    READY,
    RETAINED,
    TENANT,
    after,
    entitled,
)
from paybill_contracts.drift import (
    EnvironmentDriftAccepted,
    EnvironmentDriftEnded,
    EnvironmentDriftFound,
)
from paybill_contracts.environment_plans import StepAction
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalRequested, ApprovalVoid, PlanSuperseded
from paybill_contracts.policy import DriftHandling
from paybill_provisioner.domain import applying, building, drift, planning
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.drift import DifferenceUnknownError, Observed, differences, finding_of
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.domain.policy import POLICY_ID, SAFE, PublishedPolicy
from paybill_provisioner.domain.size_invariant import check_size

ROLE = {"connection_limit": "5", "privileges": "none", "login": "yes"}
COLUMNS = {"documents.tenant_id": "text", "documents.id": "text", "documents.body": "jsonb", "other.id": "uuid"}


def exists(environment=READY, **changed):
    """Returns what exists when nothing differs; `changed`: attributes or outputs by kind, None for nothing."""
    found = []
    for built in environment.built:
        resource = built.resource
        given = changed.get(resource.kind, {})
        if given is None:
            continue
        attributes = {"role": ROLE, "schema": COLUMNS, "bucket": {"mode": "0700"}}.get(resource.kind, {})
        outputs = built.outputs if resource.kind == "database" else {}
        shared = resource.kind in {"database", "schema"}
        found.append(
            Observed(
                resource.kind,
                given.get("name", resource.identity),
                None if shared and "name" not in given else TENANT,
                {**attributes, **{key: value for key, value in given.items() if key in attributes}},
                {**outputs, **{key: value for key, value in given.items() if key in outputs}},
            )
        )
    return found


def handled(handling):
    return PlanInputs(
        published_policy=PublishedPolicy(POLICY_ID, SAFE.model_copy(update={"drift": handling}), "ab" * 32)
    )


def drifted(environment=READY, **changed):
    return after(environment, drift.checked(environment, differences(environment, exists(**changed)), NOW))


def summary(found):
    return [(each.kind, each.address, each.attribute, each.expected, each.observed) for each in found]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        (
            {"role": {"connection_limit": "500"}},
            [("changed", "role.main", "connection_limit", "5", "500")],
        ),
        (
            {"role": {"privileges": "BYPASSRLS"}},
            [("changed", "role.main", "privileges", "none", "BYPASSRLS")],
        ),
        ({"role": {"login": "no"}}, [("changed", "role.main", "login", "yes", "no")]),
        (
            {"schema": {"documents.body": "text"}},
            [("changed", "schema.main", "documents.body", "jsonb", "text")],
        ),
        ({"bucket": {"mode": "0755"}}, [("changed", "bucket.data", "mode", "0700", "0755")]),
        ({"database": {"port": "6543"}}, [("moved", "database.main", "port", "5432", "6543")]),
        (
            {"schema": {"name": "pool_elsewhere/product"}},
            [("moved", "schema.main", None, "pool_eu_central/product", "pool_elsewhere/product")],
        ),
        ({"role": None}, [("missing", "role.main", None, f"t_{NUMBER}", None)]),
    ],
)
def test_each_class_of_difference_has_its_expected_and_observed_value(changed, expected) -> None:
    assert summary(differences(READY, exists(**changed))) == expected


def test_what_carries_our_tag_and_is_in_no_record_is_unknown() -> None:
    stray = Observed("database", f"silo_{NUMBER}", TENANT)
    neighbours = Observed("role", "t_" + "f" * 32, "ten_" + "f" * 32)

    assert summary(differences(READY, [*exists(), stray, neighbours])) == [
        ("unknown", None, None, None, f"silo_{NUMBER}")
    ]


def test_the_login_is_not_compared_while_access_changes() -> None:
    assert differences(CLOSING, exists(CLOSING, role={"login": "no"})) == []


def test_only_a_settled_environment_is_compared() -> None:
    assert [drift.is_comparable(each) for each in (READY, RETAINED, BUILDING, CLOSING)] == [True, True, False, True]


def test_a_difference_found_twice_in_a_row_is_published_once_and_its_end_once() -> None:
    found = differences(READY, exists(role={"connection_limit": "500"}))
    first = drift.checked(READY, found, NOW)
    known = after(READY, first)
    other = drift.checked(known, differences(known, exists(role={"connection_limit": "7"})), NOW)
    ended = drift.checked(known, [], NOW + timedelta(hours=1))

    assert [type(each) for each in first] == [EnvironmentDriftFound]
    assert drift.checked(known, found, NOW + timedelta(hours=1)) == []
    assert [each.difference.observed for each in other] == ["7"]
    assert [type(each) for each in ended] == [EnvironmentDriftEnded]
    assert after(known, ended).drift == ()
    assert drift.checked(after(known, ended), [], NOW) == []


def test_an_accepted_difference_is_no_problem_until_its_value_changes() -> None:
    known = drifted(role={"connection_limit": "500"})
    (found,) = known.drift
    events = drift.accept(known, known.id, found.difference.id, "more load this month", "person:jo")
    accepted = after(known, events)
    changed = drifted(accepted, role={"connection_limit": "900"})

    assert [type(each) for each in events] == [EnvironmentDriftAccepted]
    assert drift.accept(accepted, known.id, found.difference.id, "again", "person:jo") == []
    assert (finding_of(known) is None, finding_of(accepted) is None, finding_of(changed) is None) == (
        False,
        True,
        False,
    )
    assert planning.compare(accepted, BLUEPRINT, CELLS, NOW, handled(DriftHandling.REPAIR)) == []
    with pytest.raises(DifferenceUnknownError):
        drift.accept(READY, READY.id, found.difference.id, "none", "person:jo")


def test_reported_drift_is_planned_by_a_person_only() -> None:
    known, inputs = drifted(role={"connection_limit": "500"}), handled(DriftHandling.REPORT)
    proposal = applying.propose(known, BLUEPRINT, CELLS, inputs)

    assert planning.compare(known, BLUEPRINT, CELLS, NOW, inputs) == []
    assert [(step.action, step.address, step.repairs) for step in proposal.plan.steps] == [
        (StepAction.UPDATE, "role.main", True)
    ]
    assert [each.rule for each in proposal.judged.reasons] == ["drift"]


def test_proposed_drift_waits_for_an_approval() -> None:
    known = drifted(role={"connection_limit": "500"})
    events = planning.compare(known, BLUEPRINT, CELLS, NOW, handled(DriftHandling.PROPOSE))

    assert isinstance(events[0], ApprovalRequested)
    assert [each.text for each in events[0].reasons] == ["the plan repairs role.main"]


def repaired(environment, inputs):
    """Repairs the environment by the plan that follows from its drift."""
    planned = after(environment, planning.compare(environment, BLUEPRINT, CELLS, NOW, inputs))
    assert (planned.status, [step.repairs for step in planned.remaining]) == (Status.CHANGING, [True])
    progress = Progress(built={step.address: READY.outputs[step.address] for step in planned.remaining})
    return after(planned, building.progress_recorded(planned, planned.plan_hash, progress))


def test_drift_is_repaired_and_its_end_is_what_a_check_finds() -> None:
    inputs = handled(DriftHandling.REPAIR)
    done = repaired(drifted(role={"connection_limit": "500"}), inputs)
    gone = after(done, drift.checked(done, differences(done, exists()), NOW))

    assert (done.status, done.remaining, [each.repaired for each in done.drift]) == (Status.READY, (), [True])
    assert check_size([done], NOW) is None
    assert planning.compare(done, BLUEPRINT, CELLS, NOW, inputs) == []
    assert gone.drift == ()


def test_a_difference_that_is_found_after_its_repair_is_repeated_by_a_person_only() -> None:
    inputs = handled(DriftHandling.REPAIR)
    done = repaired(drifted(role={"connection_limit": "500"}), inputs)
    (event,) = drift.checked(done, differences(done, exists(role={"connection_limit": "500"})), NOW)
    again = after(done, [event])

    assert (event.after_repair, planning.compare(again, BLUEPRINT, CELLS, NOW, inputs)) == (True, [])
    assert applying.propose(again, BLUEPRINT, CELLS, inputs).plan.steps != ()


def test_a_missing_login_is_created_again_and_data_never_by_itself() -> None:
    inputs = handled(DriftHandling.REPAIR)
    login = applying.propose(drifted(role=None), BLUEPRINT, CELLS, inputs)
    schema = applying.propose(drifted(schema=None), BLUEPRINT, CELLS, inputs)
    waits = planning.compare(drifted(schema=None), BLUEPRINT, CELLS, NOW, inputs)

    assert [(step.action, step.before, step.address) for step in login.plan.steps] == [
        (StepAction.CREATE, None, "role.main")
    ]
    assert login.judged.reasons == ()
    assert [(step.action, step.address) for step in schema.plan.steps] == [
        (StepAction.CREATE, "schema.main"),
        (StepAction.UPDATE, "role.main"),
    ]
    assert isinstance(waits[0], ApprovalRequested)


def test_unknown_resources_and_data_at_another_place_are_never_touched() -> None:
    inputs = handled(DriftHandling.REPAIR)
    stray = [*exists(), Observed("database", f"silo_{NUMBER}", TENANT)]
    unknown = after(READY, drift.checked(READY, differences(READY, stray), NOW))
    moved = drifted(schema={"name": "pool_elsewhere/product"})

    assert [planning.compare(each, BLUEPRINT, CELLS, NOW, inputs) for each in (unknown, moved)] == [[], []]
    assert [applying.propose(each, BLUEPRINT, CELLS, inputs).plan.steps for each in (unknown, moved)] == [(), ()]


def test_a_plan_whose_observed_hash_changed_is_superseded() -> None:
    inputs = handled(DriftHandling.PROPOSE)
    known = drifted(role={"connection_limit": "500"})
    waiting = after(known, planning.compare(known, BLUEPRINT, CELLS, NOW, inputs))
    other = drifted(waiting, role={"connection_limit": "900"})
    events = planning.compare(other, BLUEPRINT, CELLS, NOW, inputs)

    assert [type(each) for each in events[:3]] == [ApprovalVoid, PlanSuperseded, ApprovalRequested]
    assert events[1].changed == ("observed",)


def test_the_incident_of_an_environment_names_its_differences() -> None:
    finding = finding_of(drifted(role={"connection_limit": "500"}))

    assert finding is not None
    assert finding.tenant_id == TENANT
    assert "role.main" in finding.summary
    assert "connection_limit is 500 instead of 5" in finding.summary


def test_the_incident_names_the_most_severe_difference_first() -> None:
    known = drifted(role={"connection_limit": "3", "privileges": "BYPASSRLS"}, bucket=None)
    finding = finding_of(known)

    assert finding is not None
    assert [each.value.partition(") ")[2] for each in finding.evidence] == [
        "privileges is BYPASSRLS instead of none",
        "is missing",
        "connection_limit is 3 instead of 5",
    ]
    assert finding.summary.endswith("privileges is BYPASSRLS instead of none, and 2 more")


def test_drift_is_repaired_while_a_change_of_the_placement_waits_for_its_transfer() -> None:
    inputs = handled(DriftHandling.REPORT)
    larger = entitled(tier="business", placement=Preset.SILO)
    pending = after(READY, planning.on_entitlements_set(READY, larger, BLUEPRINT, CELLS, NOW, inputs))
    known = drifted(pending, role={"connection_limit": "2", "privileges": "BYPASSRLS"})
    proposal = applying.propose(known, BLUEPRINT, CELLS, inputs)
    made = after(known, applying.make_plan(known, known.id, ADA, BLUEPRINT, CELLS, inputs, NOW))
    granted = approved(made, BLUEPRINT, inputs)
    done = finished(after(granted, applied(granted, BLUEPRINT, inputs)))
    gone = after(done, drift.checked(done, differences(done, exists()), NOW))
    waits = compared(gone, BLUEPRINT, inputs)

    assert [(step.action, step.address) for step in proposal.plan.steps] == [(StepAction.UPDATE, "role.main")]
    assert (proposal.transfers_data, proposal.plan.tier) == (False, "starter")
    assert (done.status, done.desired_size, done.built_size) == (Status.READY, pending.desired_size, READY.built_size)
    assert (done.pending, gone.drift) == (pending.pending, ())
    assert waits.approval is not None
    assert (waits.approval.plan.preset, waits.approval.status) == ("silo", ApprovalStatus.REQUESTED)  # type: ignore[union-attr]
    assert planning.compare(waits, BLUEPRINT, CELLS, NOW, inputs) == []


def test_a_change_in_place_reaches_a_tenant_whose_change_of_placement_waits() -> None:
    larger = entitled(tier="business", placement=Preset.SILO)
    pending = after(READY, planning.on_entitlements_set(READY, larger, BLUEPRINT, CELLS, NOW))
    tiers = (tier_blueprint("starter", Preset.POOLED, 11), *CONTENT.tiers[1:])
    events = planning.compare(pending, published(blueprint_of(*tiers, version=2)), CELLS, NOW)
    done = finished(after(pending, events))

    assert [(step.address, step.action) for step in after(pending, events).remaining] == [
        ("role.main", StepAction.UPDATE)
    ]
    assert done.resources["role.main"].attributes.connection_limit == 11
    assert (done.desired_size, done.built_size) == (pending.desired_size, READY.built_size)
    assert done.pending is not None


def test_a_change_in_place_that_fails_while_a_transfer_waits_is_repeated_by_a_person_only() -> None:
    larger = entitled(tier="business", placement=Preset.SILO)
    pending = after(READY, planning.on_entitlements_set(READY, larger, BLUEPRINT, CELLS, NOW))
    blueprint = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 11), *CONTENT.tiers[1:], version=2))
    changing = after(pending, planning.compare(pending, blueprint, CELLS, NOW))
    failed = after(changing, building.build_failed(changing, changing.plan_hash, "disk full"))
    again = planning.retry(failed, failed.id, blueprint, CELLS, NOW)

    assert (failed.status, failed.is_overtaken) == (Status.READY, False)
    assert planning.compare(failed, blueprint, CELLS, NOW) == []
    assert applying.retry(changing, changing.id, blueprint, CELLS, NOW, is_waiting=True) == []
    assert [step.address for step in after(failed, again).remaining] == ["role.main"]


def test_an_accepted_difference_stays_when_its_resource_changes() -> None:
    known = drifted(role={"connection_limit": "3"})
    found = known.drift[0].difference
    accepted = after(known, drift.accept(known, known.id, found.id, "a small customer", "person:jo"))
    role = READY.resources["role.main"]
    larger = role.model_copy(update={"attributes": role.attributes.model_copy(update={"connection_limit": 50})})

    assert drift.with_accepted(known, role) == role
    assert drift.with_accepted(accepted, role).attributes.connection_limit == 3
    assert drift.with_accepted(accepted, larger) == larger
    assert drift.with_accepted(accepted, READY.resources["schema.main"]) == READY.resources["schema.main"]
