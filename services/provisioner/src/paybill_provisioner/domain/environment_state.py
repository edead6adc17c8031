"""State of a tenant's environment, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

from paybill_contracts.environment_plans import Connection, Plan, Resource, Step, StepAction
from paybill_contracts.event import digest
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.table_rebuilds import InspectedTables
from paybill_contracts.values import Timestamp
from pydantic import Field

from paybill_provisioner.domain.drift_state import Drift
from paybill_provisioner.domain.environment_parts import BuiltResource, Failure, Move, Purge, QuotedChange, Refusal
from paybill_provisioner.domain.plan_approvals import PlanApproval
from paybill_provisioner.domain.sizes import PendingChange, Size
from paybill_provisioner.domain.steps import cells_of


class Status(StrEnum):
    """Lifecycle status of an environment. The tenant's access is separate, in `Environment.access`.

    compensating: what a failed plan had built is being deleted.
    """

    REGISTERED = "registered"
    BUILDING = "building"
    FAILED = "failed"
    COMPENSATING = "compensating"
    READY = "ready"
    CHANGING = "changing"
    RETAINING = "retaining"
    RETAINED = "retained"
    RESTORING = "restoring"
    PURGING = "purging"
    PURGED = "purged"


@dataclass(frozen=True, slots=True)
class Desired:
    """The state that the tenant is entitled to. limits: of its features, for expressions of the blueprint."""

    size: Size
    entitlements_hash: str
    limits: Mapping[str, int] = field(default_factory=dict)
    allows_access: bool = True

    @classmethod
    def of(cls, plan: Plan) -> "Desired":
        """Returns the state that a plan is for."""
        return cls(Size.of(plan), plan.entitlements_hash, plan.limits)

    def is_planned_by(self, plan: Plan) -> bool:
        """Returns True when the plan is for this state; it names no access."""
        return replace(self, allows_access=True) == Desired.of(plan)


def intent_key(resource: Resource) -> str:
    """Returns what identifies the intent to create a resource."""
    return f"{resource.address}:{resource.identity}"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of one tenant.

    desired: of the last entitlements; plan: the last one; built: what exists; built_size: of the last complete plan.
    replaced: resources that exist, or may exist, and that the plan does not have: another one has replaced them, or
    their plan ended before they were recorded. operations: references of what the provider works on, by step;
    intended: time of the last intent to create a resource, by `intent_key`, until the resource is recorded. refusal:
    of the desired state. pending: a change of size that waits. target_access: last requested; access: in effect.
    revision: number of events so far; base_revision: of the last one that changed what a plan is computed from.
    built_limits: of the entitlements by which the last complete plan was made; planned_at: time of the plan. paused:
    no other step of the plan begins. approval: the last one of a plan. credentials: references of secrets that were
    made on demand, by address; requested_credentials: to be made. purge: its deletion, once that has begun. drift:
    differences that checks found; repaired: addresses of steps of the plan that are done and left the record as it was.
    move: of a person, to the desired placement; quoted: the last change of the subscription that may lead to a plan.
    inspected: tables before they are rebuilt, by the address of their schema. unconfirmed: keys of changes and
    deletions of a plan that ended, which may have taken effect without a record. has_agents: it has a login for them;
    agent_rights: hash of the bundle whose rights that login has, None before the first and while it is set again.
    """

    id: str
    tenant_id: str
    slug: str
    region: str
    revision: int
    status: Status
    desired: Desired | None = None
    refusal: Refusal | None = None
    plan: Plan | None = None
    plan_hash: str | None = None
    built: tuple[BuiltResource, ...] = ()
    replaced: tuple[Resource, ...] = ()
    operations: Mapping[str, str] = field(default_factory=dict)
    intended: Mapping[str, Timestamp] = field(default_factory=dict)
    built_size: Size | None = None
    failure: Failure | None = None
    epoch: int = 0
    connections: tuple[Connection, ...] = ()
    target_access: Annotated[Access, Field(alias="wanted")] = Access.OPEN
    access: Access = Access.CLOSED
    export: Export | None = None
    pending: PendingChange | None = None
    base_revision: int = 1
    built_limits: Mapping[str, int] = field(default_factory=dict)
    planned_at: Timestamp | None = None
    paused: bool = False
    approval: PlanApproval | None = None
    earlier_approvals: tuple[PlanApproval, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict)
    requested_credentials: tuple[str, ...] = ()
    purge: Purge | None = None
    drift: tuple[Drift, ...] = ()
    repaired: tuple[str, ...] = ()
    move: Move | None = None
    quoted: QuotedChange | None = None
    inspected: Mapping[str, InspectedTables] = field(default_factory=dict)
    unconfirmed: tuple[str, ...] = ()
    has_agents: bool = False
    agent_rights: str | None = None

    @property
    def planned_size(self) -> Size | None:
        """The size of the plan; None before the first plan."""
        return Size.of(self.plan) if self.plan else None

    @property
    def desired_size(self) -> Size | None:
        """The size that the tenant is entitled to; None before the first entitlements."""
        return self.desired.size if self.desired else None

    @property
    def is_moving(self) -> bool:
        """True while a move that a person requested is not built."""
        return self.move is not None and self.desired_size != self.built_size

    @property
    def kept(self) -> Desired | None:
        """State that is built, while a change of its size is pending: it is repaired, and changed in place."""
        if self.pending is None or self.built_size is None or self.plan is None or self.desired_size == self.built_size:
            return None
        return Desired(self.built_size, self.plan.entitlements_hash, self.built_limits)

    def keeps(self, plan: Plan) -> bool:
        """Returns True for a plan of what is built, while a change of its size is pending."""
        return self.kept is not None and self.kept.size == Size.of(plan)

    def due(self, plan: Plan) -> Desired | None:
        """Returns the state that a plan of this size has to be for: the desired one, or the one that it keeps."""
        return self.kept if self.keeps(plan) else self.desired

    def moved(self, desired: Desired) -> Desired:
        """Returns `desired` on the placement of a move, unless the tenant is entitled to another size than before."""
        is_kept = self.move is not None and self.desired is not None and desired.size == self.move.entitled
        return replace(desired, size=self.desired.size) if is_kept and self.desired else desired

    @property
    def resources(self) -> Mapping[str, Resource]:
        """Resources by address: built ones, and those that the plan builds, which may be incomplete."""
        built = {each.resource.address: each.resource for each in self.built}
        steps = self.plan.steps if self.plan else ()
        return built | {step.address: step.after for step in steps if step.after is not None}

    @property
    def known_resources(self) -> Mapping[str, Resource]:
        """Resources by address, with replaced and removed ones: what needs them is deleted by their attributes."""
        gone = (*(self.purge.removed if self.purge else ()), *self.replaced)
        return {each.address: each for each in gone} | dict(self.resources)

    @property
    def outputs(self) -> Mapping[str, Mapping[str, str]]:
        """Drivers' outputs of the built resources, by address, with the secrets that were made on demand."""
        made = {address: {"secret": reference} for address, reference in self.credentials.items()}
        return {each.resource.address: each.outputs | made.get(each.resource.address, {}) for each in self.built}

    @property
    def observed_hash(self) -> str:
        """Hash of the existing resources, their outputs and their drift, as the drivers reported them."""
        found = [[each.resource.model_dump(mode="json"), each.outputs] for each in self.built]
        drift = [each.difference.model_dump(mode="json") for each in self.drift if each.accepted is None]
        return digest([found, [each.model_dump(mode="json") for each in self.replaced], *([drift] if drift else [])])

    @property
    def cells(self) -> frozenset[tuple[Isolation, int]]:
        """Cells in which the tenant has a place, by level and number: something is built or planned there."""
        planned = [step.after for step in (self.plan.steps if self.plan else ()) if step.after is not None]
        return cells_of((*(each.resource for each in self.built), *self.replaced, *planned))

    def cell_of(self, isolation: Isolation) -> int | None:
        """Returns the number of the cell of this level in which the tenant has a place."""
        return min((number for level, number in self.cells if level is isolation), default=None)

    @property
    def is_applied(self) -> bool:
        """True while steps of the plan may begin."""
        is_held = self.paused or (self.purge is not None and bool(self.purge.held_by))
        open_ = {Status.BUILDING, Status.CHANGING, Status.COMPENSATING, Status.PURGING}
        return self.status in open_ and not is_held

    @property
    def is_overtaken(self) -> bool:
        """True when another state is desired than the one that the plan is for."""
        due = self.due(self.plan) if self.plan else None
        return self.plan is not None and due is not None and not due.is_planned_by(self.plan)

    @property
    def has_begun(self) -> bool:
        """True when a step of the plan is recorded as intended, pending or done."""
        steps = self.plan.steps if self.plan else ()
        return bool(self.operations or self.intended) or self.remaining != steps

    @property
    def remaining(self) -> tuple[Step, ...]:
        """Steps of the plan that are not done yet, in order."""
        built = {each.resource.address: each.resource for each in self.built}
        existing_resources = (*built.values(), *self.replaced)
        steps = self.plan.steps if self.plan else ()
        return tuple(
            step
            for step in steps
            if (
                step.before in existing_resources
                if step.action is StepAction.DELETE
                else built.get(step.address) != step.after or (step.keeps_record and step.address not in self.repaired)
            )
        )
