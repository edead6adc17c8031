"""Random sequences of entitlements, holds, publications, failures and retries, with jobs that run at any time."""

from dataclasses import replace
from typing import Any

from approval_samples import policy, without_bucket
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import BLUEPRINT, CELLS, CONTENT, EVERYTHING, NOW, REGISTERED, TENANT, entitled
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_contracts.environment_plans import EnvironmentPlanned
from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Preset
from paybill_contracts.plan_execution import PlanResumed
from paybill_contracts.policy import AfterFailure, Handling
from paybill_contracts.provisioner import Access
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    SuspensionMode,
    TenantReactivated,
    TenantSuspended,
)
from paybill_provisioner.domain import access, building, planning
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.steps import may_begin

PUBLISHED = (
    BLUEPRINT,
    without_bucket(),
    published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), *CONTENT.tiers[1:], version=4)),
    published(blueprint_of(*CONTENT.tiers[1:], version=5)),
)
ENTITLED = (
    entitled(),
    entitled(tier="business", placement=Preset.SILO),
    entitled(entitlements_hash="cd" * 32),
    entitled(tier="platinum"),
)
UNATTENDED = policy(deletes=Handling.UNATTENDED).content
POLICIES = [UNATTENDED.model_copy(update={"after_failure": each}) for each in AfterFailure]
OUTPUTS = dict(EVERYTHING)
LEVELS = (Access.CLOSED, Access.READ_ONLY, Access.OPEN)
OPEN = {Status.BUILDING, Status.CHANGING, Status.COMPENSATING}


class World:
    """An environment, the holds of its tenant, and the access that its logins have at the provider."""

    def __init__(self, after_failure: int) -> None:
        self.environment, self.blueprints = REGISTERED, BLUEPRINT
        self.inputs = PlanInputs(published_policy=replace(policy(), content=POLICIES[after_failure % 2]))
        self.holds: dict[HoldOrigin, Hold] = {}
        self.logins: set[str] = set()
        self.given = Access.CLOSED

    @property
    def allowed(self) -> Access:
        """The access that the strictest hold leaves."""
        modes = {hold.mode for hold in self.holds.values()}
        if SuspensionMode.BLOCKED in modes:
            return Access.CLOSED
        return Access.READ_ONLY if modes else Access.OPEN

    def record(self, events: Any) -> None:
        for event in events:
            before = self.environment
            self.environment = evolve(before, event)
            if isinstance(event, EnvironmentPlanned):
                assert before.status not in OPEN, "a second plan is open"
            if isinstance(event, PlanResumed):
                assert not before.is_applied

    def compare(self) -> None:
        self.record(planning.compare(self.environment, self.blueprints, CELLS, NOW, self.inputs))

    def hold(self, mode: SuspensionMode, origin: HoldOrigin) -> None:
        """Publishes what the tenant service does: a tenant that is not active has changed holds, no suspension."""
        self.holds[origin] = Hold(origin=origin, mode=mode, reason="unpaid")
        holds, environment = tuple(self.holds.values()), self.environment
        strictest = SuspensionMode.BLOCKED if self.allowed is Access.CLOSED else SuspensionMode.READ_ONLY
        if environment.epoch:
            self.record(
                access.on_tenant_suspended(environment, TenantSuspended(tenant_id=TENANT, mode=strictest, holds=holds))
            )
        else:
            self.record(access.on_holds_changed(environment, HoldsChanged(tenant_id=TENANT, holds=holds)))

    def lift(self) -> None:
        """Lifts all holds."""
        if not self.holds:
            return
        origin, environment = list(self.holds)[-1], self.environment
        self.holds = {}
        if environment.epoch:
            self.record(access.on_tenant_reactivated(environment, TenantReactivated(tenant_id=TENANT, lifted=origin)))
        else:
            self.record(access.on_holds_changed(environment, HoldsChanged(tenant_id=TENANT, holds=())))

    def step(self) -> None:
        """Applies the next step of the plan, as the job does: a new login is closed."""
        environment, remaining = self.environment, self.environment.remaining
        ready = [each for each in remaining if may_begin(each, remaining)]
        if not environment.is_applied or not ready:
            return
        step, progress = ready[0], Progress()
        if step.after is None:
            progress.removed = [step.resource]
            self.logins -= {step.resource.identity} if step.resource.kind == "role" else set()
        else:
            progress.built = {step.address: OUTPUTS[step.address]}
            if step.resource.kind == "role" and step.resource.identity not in self.logins:
                self.logins.add(step.resource.identity)
                self.given = Access.CLOSED
        self.record(building.progress_recorded(environment, environment.plan_hash or "", progress))
        if self.environment.status is not environment.status:
            self.compare()

    def set_access(self) -> None:
        """Runs the job of the last change of access."""
        environment = self.environment
        if not access.may_be_set(environment):
            return
        if self.logins:
            assert LEVELS.index(environment.target_access) <= LEVELS.index(self.allowed), "access during a hold"
            self.given = environment.target_access
        self.record(access.access_changed(environment, environment.target_access))
        if self.environment.status is not environment.status:
            self.compare()

    def fail(self) -> None:
        before = self.environment
        if before.remaining:
            self.record(building.build_failed(before, before.plan_hash or "", "disk full"))
            if self.environment.status is not before.status:
                self.record(building.compensated(before, self.environment, self.inputs.policy, NOW))
                self.compare()

    def act(self, action: str, number: int) -> None:
        match action:
            case "entitle":
                fact = ENTITLED[number % len(ENTITLED)]
                self.record(
                    planning.on_entitlements_set(self.environment, fact, self.blueprints, CELLS, NOW, self.inputs)
                )
            case "publish":
                self.blueprints = PUBLISHED[number % len(PUBLISHED)]
                self.compare()
            case "block":
                self.hold(SuspensionMode.BLOCKED, list(HoldOrigin)[number % len(HoldOrigin)])
            case "restrict":
                self.hold(SuspensionMode.READ_ONLY, list(HoldOrigin)[number % len(HoldOrigin)])
            case "lift":
                self.lift()
            case "step":
                for _ in range(number % 6 + 1):
                    self.step()
            case "access":
                self.set_access()
            case "fail":
                self.fail()
            case _:
                self.retry()

    def retry(self) -> None:
        self.record(planning.retry(self.environment, TENANT, self.blueprints, CELLS, NOW, self.inputs))

    def settle(self) -> None:
        """Runs the jobs until nothing is left to do."""
        for _ in range(20):
            before = self.environment
            self.step()
            self.set_access()
            if self.environment == before:
                return
        raise AssertionError("the environment never settles")


ACTIONS = st.sampled_from(
    ["entitle", "publish", "block", "restrict", "lift", "step", "step", "step", "access", "access", "fail", "retry"]
)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1), st.lists(st.tuples(ACTIONS, st.integers(0, 60)), max_size=30))
def test_sequences_end_with_what_is_desired_or_a_shown_refusal_and_no_access_during_a_hold(
    after_failure: int, actions: list[tuple[str, int]]
) -> None:
    world = World(after_failure)
    for action, number in actions:
        try:
            world.act(action, number)
        except DomainError as error:
            assert error.code  # noqa: PT017  # a refusal has a code and changes nothing
        if world.environment.status is Status.READY and world.environment.access is Access.OPEN:
            assert world.given is Access.OPEN or not world.logins

    world.settle()
    held = world.environment
    assert held.paused or held.status not in OPEN
    if held.status is Status.READY:
        assert held.access is held.target_access is world.allowed
    assert world.given is Access.CLOSED or LEVELS.index(world.given) <= LEVELS.index(world.allowed)

    world.lift()
    world.settle()
    environment = world.environment
    shown = environment.refusal or environment.failure or environment.pending or environment.approval
    assert environment.planned_size == environment.desired_size or shown
    assert not environment.paused
    if environment.failure is not None and environment.desired is not None:
        world.retry()
        world.settle()
        environment = world.environment
        assert environment.failure is None or environment.refusal is not None
        assert environment.status is Status.READY or environment.refusal is not None
