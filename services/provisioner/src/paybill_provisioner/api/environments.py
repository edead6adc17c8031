"""HTTP routes of environments: shown with their plans, and retried."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.environment_plans import Connection, Resource, StepAction
from paybill_contracts.kinds import Attributes
from paybill_contracts.placement import Placement, Preset
from paybill_contracts.plan_estimates import MonthlyCost
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.purges import Certificate
from paybill_contracts.values import EnvironmentId, Key, TenantId
from paybill_contracts.why import EnvironmentState
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field
from sqlmodel import col

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.domain import planning, purging
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.cells import id_of as cell_id
from paybill_provisioner.domain.environment_parts import Purge
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import EnvironmentUnknownError, existing, id_of
from paybill_provisioner.domain.isolation import described
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELL_KEYS,
    CELLS,
    ENVIRONMENTS,
    PLANNING_READS,
    EnvironmentRow,
    cells_in_force,
    plan_inputs,
    record,
)

EnvironmentOrTenantId = Annotated[
    str,
    Path(
        description="The environment's id (`env_…`) or its tenant's (`ten_…`).",
        pattern=r"^(env|ten)_[0-9a-f]{32}$",
        examples=["env_0123456789abcdef0123456789abcdef"],
    ),
]


class DesiredView(BaseModel):
    """The state that the tenant is entitled to."""

    tier: str
    preset: Preset
    entitlements_hash: str


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
    links: Links

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """Builds the summary of `environment`."""
        return cls(**_summary(environment))


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
    def full(cls, environment: Environment) -> Self:
        """Builds the complete view of `environment`."""
        failure, refusal = environment.failure, environment.refusal
        return cls(
            **_summary(environment),
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


class EnvironmentPage(BaseModel):
    """Environments in the order of their ids."""

    environments: list[EnvironmentSummary]
    next: Annotated[EnvironmentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of environments."""
    routes = Router(prefix="/v1", tags=["environments"])

    @routes.get("/environments")
    async def show_all(
        _: Viewer,
        status: Annotated[Status | None, Query(description="Only environments with this status.")] = None,
        region: Annotated[Key | None, Query(description="Only environments in this region.")] = None,
        preset: Annotated[Preset | None, Query(description="Only environments on this placement.")] = None,
        after: Annotated[
            EnvironmentId | None, Query(description="Only ids after this one: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
        *,
        pending: Annotated[bool, Query(description="Only environments whose size is to change.")] = False,
    ) -> EnvironmentPage:
        """Lists environments in the order of their ids, in pages. New ones between two requests shift no page."""
        conditions = [col(EnvironmentRow.pending_since).is_not(None)] if pending else []
        page, next_ = await load_page(
            context, ENVIRONMENTS, after, limit, *conditions, status=status, region=region, preset=preset
        )
        return EnvironmentPage(environments=[EnvironmentSummary.of(each) for each in page], next=next_)

    @routes.get("/environments/{environment}")
    async def show(environment: EnvironmentOrTenantId, _: Viewer) -> EnvironmentView:
        """Shows one environment, by its id or its tenant's: placement, access, plan and built resources."""
        state = await load_state(context, ENVIRONMENTS, id_from(environment))
        if state is None:
            raise EnvironmentUnknownError(f"there is no environment {environment}")
        return EnvironmentView.full(state)

    @routes.get("/environments/{environment}/certificate")
    async def certificate(environment: EnvironmentOrTenantId, _: Viewer) -> Certificate:
        """Shows the certificate of a purge: every resource, and how and when its absence was verified.

        Refused with `not_purged` before that.
        """
        return purging.certificate_of(await load_state(context, ENVIRONMENTS, id_from(environment)), environment)

    @routes.post("/environments/{environment}/retry", status_code=HTTPStatus.ACCEPTED)
    async def retry(environment: EnvironmentOrTenantId, principal: Operator) -> EnvironmentView:
        """Plans again after a failure or a refusal, by the blueprint in force; built resources stay."""
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, at: DecisionContext) -> EnvironmentView:
            blueprints = require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID))
            events = planning.retry(
                unit.get(ENVIRONMENTS, id_), environment, blueprints, cells_in_force(unit), at.now, plan_inputs(unit)
            )
            record(unit, id_, events)
            return EnvironmentView.full(existing(unit.get(ENVIRONMENTS, id_), environment))

        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_), *CELL_KEYS],
            reads=PLANNING_READS,
            verb="retry",
            target=environment,
            idempotency=principal.idempotency,
            response_type=EnvironmentView,
        )

    return routes


async def read_state(context: ServiceContext, tenant_id: str) -> OwnState:
    """Returns the environment for the diagnosis of its tenant."""
    environment = await load_state(context, ENVIRONMENTS, id_of(tenant_id))
    if environment is None:
        return OwnState()
    planned, desired, pending = environment.planned_size, environment.desired_size, environment.pending
    waiting, refusal, failure = None, environment.refusal, environment.failure
    if pending is not None and planned is not None and desired is not None and planned != desired:
        waiting = f"{planned.text} is built and {desired.text} is entitled since {pending.since:%Y-%m-%d %H:%M} UTC"
    if environment.approval is not None and environment.approval.is_open:
        held = f"a plan waits for the approval {environment.approval.id}"
        waiting = f"{waiting}; {held}" if waiting else held
    return OwnState(
        aggregates=(f"{ENVIRONMENTS.kind}/{environment.id}",),
        environment=EnvironmentState(
            status=environment.status,
            region=environment.region,
            tier=planned.tier if planned else None,
            placement=planned.preset if planned else None,
            access=environment.access,
            target_access=environment.target_access,
            failed_resource=failure.address if failure else None,
            failure=failure.reason if failure else None,
            refusal=refusal.reason if refusal else None,
            refusal_code=refusal.code if refusal else None,
            refusal_ends=refusal.next_step if refusal else None,
            pending=waiting,
            breach=await _breach(context, environment),
        ),
    )


async def _breach(context: ServiceContext, environment: Environment) -> str | None:
    """Returns what a check of isolation found in the cells of a tenant; None when all guarantees hold."""
    found: list[str] = []
    for level, number in sorted(environment.cells):
        cells = await load_state(context, CELLS, level)
        for cell in cells.of(environment.region) if cells else ():
            if cell.number == number:
                found += [described(each) for each in cell.breaches]
    return "; ".join(found)[:1000] or None


def id_from(name: str) -> str:
    """Returns the id of an environment from that of the environment or its tenant."""
    return id_of(name) if name.startswith("ten_") else name


def _summary(environment: Environment) -> dict[str, Any]:
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
    return DesiredView(tier=desired.size.tier, preset=desired.size.preset, entitlements_hash=desired.entitlements_hash)


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
