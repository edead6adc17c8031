"""Random sequences of entitlements, publications, approvals, failures and expiries destroy nothing unapproved."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from approval_samples import (
    ADA,
    BO,
    finished,
    policy,
    prices,
    without_bucket,
)
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import BLUEPRINT, CELLS, CONTENT, NOW, PLAN_HASH, REGISTERED, entitled
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_contracts.environment_plans import EnvironmentPlanned, StepAction
from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalUsed
from paybill_contracts.policy import Handling
from paybill_provisioner.domain import applying, approvals, building, moves, planning
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.domain.plans import changed_since

SILO = entitled(tier="business", placement=Preset.SILO)
SMALLER = without_bucket()
BLUEPRINTS = (
    BLUEPRINT,
    SMALLER,
    published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), *CONTENT.tiers[1:], version=4)),
    published(blueprint_of(*CONTENT.tiers, tier_blueprint("starter", Preset.SILO), version=5)),
)
POLICIES = (None, policy(5000), policy(deletes=Handling.UNATTENDED), policy(deletes=Handling.APPROVAL))
PRICES = (None, prices(), prices(2000, version=2))
FACTS = (entitled(), SILO, entitled(entitlements_hash="cd" * 32), entitled(tier="platinum"))


class World:
    """An environment, and everything that plans are made from."""

    def __init__(self) -> None:
        self.environment = REGISTERED
        self.blueprints, self.inputs, self.now = BLUEPRINT, PlanInputs(), NOW
        self.used: set[str] = set()

    def record(self, events: Any) -> None:
        for event in events:
            before = self.environment
            self.environment = evolve(before, event)
            if isinstance(event, ApprovalUsed):
                assert event.approval_id not in self.used
                self.used.add(event.approval_id)
            if isinstance(event, EnvironmentPlanned) and before.epoch:
                approval = before.approval
                judged = self.inputs.policy
                destroys = {step.action for step in event.plan.steps} & {StepAction.DELETE, StepAction.REPLACE}
                if destroys and judged.deletes is not Handling.UNATTENDED:
                    assert approval is not None
                    assert (approval.status, approval.plan_hash) == (ApprovalStatus.USED, event.plan_hash)

    def compare(self) -> None:
        self.record(planning.compare(self.environment, self.blueprints, CELLS, self.now, self.inputs))

    def act(self, action: str, number: int) -> None:
        environment, approval = self.environment, self.environment.approval
        plan_hash = approval.plan_hash if approval else PLAN_HASH
        person = (ADA, BO)[number % 2]
        match action:
            case "entitle":
                fact = FACTS[number % len(FACTS)]
                self.record(
                    planning.on_entitlements_set(environment, fact, self.blueprints, CELLS, self.now, self.inputs)
                )
            case "blueprint":
                self.blueprints = BLUEPRINTS[number % len(BLUEPRINTS)]
                self.compare()
            case "policy":
                self.inputs = replace(self.inputs, published_policy=POLICIES[number % len(POLICIES)])
                self.compare()
            case "prices":
                self.inputs = replace(self.inputs, price_book=PRICES[number % len(PRICES)])
                self.compare()
            case "make":
                self.record(
                    applying.make_plan(
                        environment, environment.id, person, self.blueprints, CELLS, self.inputs, self.now
                    )
                )
            case "approve" if approval is not None:
                self.record(
                    approvals.approve(
                        environment, approval.id, plan_hash, person, self.blueprints, self.inputs, self.now
                    )
                )
            case "reject" if approval is not None:
                self.record(moves.reject(environment, approval.id, person, "no", self.now))
            case "move":
                to, world = list(Preset)[number % 3], (self.blueprints, CELLS, self.inputs, self.now)
                self.record(moves.move(environment, environment.id, to, person, *world))
            case "apply":
                self.record(
                    applying.apply(
                        environment, environment.id, plan_hash, self.blueprints, CELLS, self.inputs, self.now
                    )
                )
            case "begin":
                changed = applying.superseded_before_begin(environment, self.blueprints, self.inputs)
                self.record(
                    applying.plan_anew(
                        environment,
                        environment.plan_hash or "",
                        changed,
                        self.blueprints,
                        CELLS,
                        self.inputs,
                        self.now,
                    )
                    if changed
                    else []
                )
            case "finish" if environment.status in {Status.BUILDING, Status.CHANGING}:
                self.environment = finished(environment)
                self.compare()
            case "fail":
                self.record(building.build_failed(environment, environment.plan_hash or "", "disk full"))
            case "retry":
                self.record(planning.retry(environment, environment.id, self.blueprints, CELLS, self.now, self.inputs))
            case "wait":
                self.now += timedelta(hours=number)
            case _:
                pass


ACTIONS = st.sampled_from(
    [
        "entitle", "blueprint", "policy", "prices", "make", "approve", "reject", "apply", "begin", "finish", "finish",
        "fail", "retry", "wait", "move",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 80)), max_size=25))
def test_nothing_is_destroyed_without_a_used_approval_whatever_happens(actions: list[tuple[str, int]]) -> None:
    world = World()
    for action, number in actions:
        try:
            world.act(action, number)
        except DomainError as error:
            assert error.code  # noqa: PT017  # a refusal has a code and changes nothing
        environment = world.environment
        approval = environment.approval
        if approval is not None and approval.granted is not None and approval.other_person:
            assert approval.granted.approver != approval.requester
        known = [each.id for each in (*environment.earlier_approvals, *([approval] if approval else []))]
        assert len(known) == len(set(known))
        assert not any(each.is_open for each in environment.earlier_approvals)

    world.compare()
    environment = world.environment
    approval = environment.approval
    if approval is not None and approval.is_open and environment.status in {Status.READY, Status.REGISTERED}:
        assert approval.plan is not None
        assert changed_since(environment, approval.plan, world.blueprints, world.inputs) == ()
