"""Views of environments over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Self

from paybill_contracts.environment_plans import Connection, Resource, StepAction
from paybill_contracts.kinds import Attributes
from paybill_contracts.placement import Placement, Preset
from paybill_contracts.plan_estimates import MonthlyCost
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.purges import Certificate
from paybill_contracts.values import EnvironmentId, TenantId
from pydantic import BaseModel, Field

from paybill_provisioner.domain.cells import id_of as cell_id
from paybill_provisioner.domain.environment_parts import Purge
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.domain.unsettled import Reason, Unsettled, Wait


class DesiredView(BaseModel):
    """The state that the tenant is entitled to."""

    tier: str
    preset: Preset
    entitlements_hash: str
    moved_from: Annotated[
        Preset | None, Field(description="Placement of the entitlements, when a person moved the tenant from it.")
    ]


class RefusalView(BaseModel):
    """Reason why the desired state cannot be planned, and what ends that."""

    code: str
    reason: str
    next: str


class StepView(BaseModel):
    """One step of the plan, with its progress."""

    action: StepAction
    address: str
    done: bool


class PlanView(BaseModel):
    """The current or last plan, and its inputs."""

    hash: str
    based_on: Annotated[int, Field(description="The environment's base revision that the plan was computed from.")]
    blueprint: Annotated[str, Field(description="Name and version.", examples=["standard@4"])]
    blueprint_hash: str
    entitlements_hash: str
    cloud: str
    steps: list[StepView]


class ResourceView(BaseModel):
    """A built resource, as it was defined."""

    address: str
    kind: str
    layer: str
    isolation: str
    attributes: Attributes

    @classmethod
    def of(cls, resource: Resource) -> Self:
        """Builds the view of `resource`."""
        return cls(
            address=resource.address,
            kind=resource.kind,
            layer=resource.layer,
            isolation=resource.isolation,
            attributes=resource.attributes,
        )


class FailureView(BaseModel):
    """The resource that could not be built, and the reason."""

    address: str
    reason: str


class PendingChangeView(BaseModel):
    """A change of the entitled tier or placement that the infrastructure has not followed."""

    from_tier: Annotated[str | None, Field(description="Tier that is built.")]
    from_preset: Annotated[Preset | None, Field(description="Placement that is built.")]
    tier: str
    preset: Preset
    since: datetime
    reason: str
    waits_for: str
    plan_hash: str | None
    cost: Annotated[MonthlyCost | None, Field(description="Of a month, before and after; null amounts are unknown.")]
    approval: Annotated[str | None, Field(description="Id of the approval that it waits for; null without one.")]
    approval_status: ApprovalStatus | None


class PurgeView(BaseModel):
    """Deletion of everything that exists for the tenant."""

    since: datetime
    held_by: Annotated[list[str], Field(description="Cases of the legal holds that stop it.")]
    removed: Annotated[list[str], Field(description="Addresses of the resources that are deleted.")]
    certificate: Certificate | None

    @classmethod
    def of(cls, purge: Purge) -> Self:
        """Builds the view of `purge`."""
        return cls(
            since=purge.since,
            held_by=list(purge.held_by),
            removed=[each.address for each in purge.removed],
            certificate=purge.certificate,
        )


class WaitView(BaseModel):
    """A job of the tenant that could not be done yet, and is tried again by itself."""

    job: Annotated[str, Field(description="`paybill jobs retry` tries it at once.")]
    kind: str
    step: Annotated[str | None, Field(description="Address of the step of the plan that could not be done.")]
    reason: Annotated[str, Field(description="The provider's message.")]
    tries: int
    next_try: datetime

    @classmethod
    def of(cls, wait: Wait) -> Self:
        """Builds the view of `wait`."""
        return cls(
            job=wait.job_id,
            kind=wait.kind,
            step=wait.step,
            reason=wait.reason,
            tries=wait.tries,
            next_try=wait.next_try,
        )


class UnsettledView(BaseModel):
    """Reason why the environment is not as it has to be, and the next safe command."""

    reason: Reason
    text: str
    command: str
    since: datetime | None
    is_problem: Annotated[bool, Field(description="An operator has to act, or it takes longer than policy allows.")]

    @classmethod
    def of(cls, found: Unsettled) -> Self:
        """Builds the view of `found`."""
        return cls(
            reason=found.reason,
            text=found.text,
            command=found.command,
            since=found.since,
            is_problem=found.is_problem,
        )


class Links(BaseModel):
    """Related resources."""

    self: str


class EnvironmentSummary(BaseModel):
    """Summary of a tenant's environment."""

    id: EnvironmentId
    tenant_id: TenantId
    slug: str
    region: str
    status: Status
    access: Annotated[Access, Field(description="The current access.")]
    access_wanted: Annotated[Access, Field(description="The target access; differs from `access` while it changes.")]
    tier: str | None
    preset: Preset | None
    blueprint: Annotated[str | None, Field(description="Name and version, of the last plan.", examples=["standard@4"])]
    pending: Annotated[PendingChangeView | None, Field(description="A change of size that is not built.")]
    wait: WaitView | None
    unsettled: Annotated[UnsettledView | None, Field(description="Null when it is, or becomes by itself, as desired.")]
    links: Links

    @classmethod
    def of(cls, environment: Environment, wait: Wait | None, found: Unsettled | None) -> Self:
        """Builds the summary of `environment`."""
        return cls(**_summary(environment, wait, found))


class EnvironmentView(EnvironmentSummary):
    """A tenant's environment. Parts that do not exist yet are null."""

    epoch: Annotated[int, Field(description="Counts the tenant's placements; 0 until the first is ready.")]
    placement: Placement | None
    desired: DesiredView | None
    refusal: RefusalView | None
    cells: Annotated[list[str], Field(description="Cells in which the tenant has a place; none in a silo.")]
    connections: list[Connection]
    purge: PurgeView | None
    plan: PlanView | None
    resources: list[ResourceView]
    failure: FailureView | None
    export: Export | None

    @classmethod
    def full(cls, environment: Environment, wait: Wait | None, found: Unsettled | None) -> Self:
        """Builds the complete view of `environment`."""
        failure, refusal = environment.failure, environment.refusal
        return cls(
            **_summary(environment, wait, found),
            epoch=environment.epoch,
            placement=environment.plan.placement if environment.plan else None,
            desired=_desired(environment),
            refusal=None
            if refusal is None
            else RefusalView(code=refusal.code, reason=refusal.reason, next=refusal.next_step),
            cells=[cell_id(level, environment.region, number) for level, number in sorted(environment.cells)],
            connections=list(environment.connections),
            purge=PurgeView.of(environment.purge) if environment.purge else None,
            plan=_plan(environment),
            resources=[ResourceView.of(each.resource) for each in environment.built],
            failure=None if failure is None else FailureView(address=failure.address, reason=failure.reason),
            export=environment.export,
        )


def _summary(environment: Environment, wait: Wait | None, found: Unsettled | None) -> dict[str, Any]:
    plan = environment.plan
    return {
        "id": environment.id,
        "tenant_id": environment.tenant_id,
        "slug": environment.slug,
        "region": environment.region,
        "status": environment.status,
        "access": environment.access,
        "access_wanted": environment.target_access,
        "tier": plan.tier if plan else None,
        "preset": plan.preset if plan else None,
        "blueprint": f"{plan.blueprint.name}@{plan.blueprint.version}" if plan else None,
        "pending": _pending(environment),
        "wait": WaitView.of(wait) if wait else None,
        "unsettled": UnsettledView.of(found) if found else None,
        "links": Links(self=f"/v1/environments/{environment.id}"),
    }


def _pending(environment: Environment) -> PendingChangeView | None:
    pending, size = environment.pending, environment.desired_size
    built, approval = environment.built_size, environment.approval
    if pending is None or size is None:
        return None
    return PendingChangeView(
        tier=size.tier,
        preset=size.preset,
        since=pending.since,
        reason=pending.reason,
        waits_for=pending.waits_for,
        from_tier=built.tier if built else None,
        from_preset=built.preset if built else None,
        plan_hash=pending.plan_hash,
        cost=pending.cost,
        approval=pending.approval_id,
        approval_status=approval.status if approval is not None and approval.id == pending.approval_id else None,
    )


def _desired(environment: Environment) -> DesiredView | None:
    desired = environment.desired
    if desired is None:
        return None
    return DesiredView(
        tier=desired.size.tier,
        preset=desired.size.preset,
        entitlements_hash=desired.entitlements_hash,
        moved_from=environment.move.entitled.preset if environment.move else None,
    )


def _plan(environment: Environment) -> PlanView | None:
    plan = environment.plan
    if plan is None or environment.plan_hash is None:
        return None
    remaining = environment.remaining
    return PlanView(
        hash=environment.plan_hash,
        based_on=plan.based_on,
        blueprint=f"{plan.blueprint.name}@{plan.blueprint.version}",
        blueprint_hash=plan.blueprint.content_hash,
        entitlements_hash=plan.entitlements_hash,
        cloud=plan.cloud,
        steps=[StepView(action=step.action, address=step.address, done=step not in remaining) for step in plan.steps],
    )
