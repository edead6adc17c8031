"""HTTP for operators: what is built by which plan, where it stands, and another try after a failure."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, status
from paybill_contracts.errors import NotFoundError
from paybill_contracts.placement import Placement, Preset
from paybill_contracts.provisioner import Access, Blueprint, Export, StepAction
from paybill_contracts.values import EnvironmentId, Key, TenantId
from paybill_runtime.decisions.context import Caller, ServiceContext, caller
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from pydantic import BaseModel, Field
from sqlalchemy import Text as SqlText
from sqlalchemy import cast
from sqlmodel import col, select

from paybill_provisioner.domain import environments
from paybill_provisioner.domain.blueprints import IN_FORCE, in_force
from paybill_provisioner.domain.environments import (
    Environment,
    EnvironmentUnknownError,
    Status,
    existing,
    id_of,
)
from paybill_provisioner.tables import BLUEPRINTS, ENVIRONMENTS, BlueprintRow, EnvironmentRow

MAX_PAGE = 200

_STATE = cast(col(EnvironmentRow.state), SqlText).label("state")

Named = Annotated[
    str,
    Path(
        description="The environment's id (`env_…`) or its tenant's (`ten_…`).",
        pattern=r"^(env|ten)_[0-9a-f]{32}$",
        examples=["env_0123456789abcdef0123456789abcdef"],
    ),
]

Reader = Annotated[Caller, Depends(caller(Role.VIEWER, "provisioner:read"))]
Writer = Annotated[Caller, Depends(caller(Role.OPERATOR, "provisioner:write"))]


class BlueprintNotFoundError(NotFoundError):
    """No blueprint was published yet; the provisioner does it when it starts."""

    code = "blueprint_not_published"


class BlueprintView(BaseModel):
    """The blueprint in force, and the hash by which plans name it."""

    content_hash: str
    content: Blueprint


class EndpointView(BaseModel):
    """Where the tenant's data is. The password is not shown; the secrets port has it."""

    host: str
    port: int
    database: str
    schema_name: str
    username: str


class StepView(BaseModel):
    """One step of the plan, and whether it is done."""

    action: StepAction
    address: str
    done: bool


class PlanView(BaseModel):
    """The plan that was carried out last, or is being carried out, and what it was made from."""

    hash: str
    based_on: Annotated[int, Field(description="The environment's revision that the plan was computed from.")]
    blueprint_hash: str
    entitlements_hash: str
    cloud: str
    steps: list[StepView]


class ResourceView(BaseModel):
    """A resource that stands, as it was defined."""

    address: str
    kind: str
    layer: str
    isolation: str
    properties: dict[str, str]


class FailureView(BaseModel):
    """Which resource could not be built, and why."""

    address: str
    reason: str


class Links(BaseModel):
    """Where to look next."""

    self: str


class EnvironmentSummary(BaseModel):
    """What a tenant runs on, in short."""

    id: EnvironmentId
    tenant_id: TenantId
    slug: str
    region: str
    status: Status
    access: Annotated[Access, Field(description="In force now.")]
    access_wanted: Annotated[Access, Field(description="Last asked for; another than `access` while it is changed.")]
    tier: str | None
    preset: Preset | None
    links: Links

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """What a list shows of `environment`."""
        return cls(**_summary(environment))


class EnvironmentView(EnvironmentSummary):
    """What a tenant runs on. Null is what there is not yet."""

    epoch: Annotated[int, Field(description="Counts the tenant's placements; 0 until the first is ready.")]
    placement: Placement | None
    endpoint: EndpointView | None
    plan: PlanView | None
    resources: list[ResourceView]
    failure: FailureView | None
    export: Export | None

    @classmethod
    def full(cls, environment: Environment) -> Self:
        """All that is shown of `environment`."""
        endpoint, failure = environment.endpoint, environment.failure
        return cls(
            **_summary(environment),
            epoch=environment.epoch,
            placement=environment.plan.placement if environment.plan else None,
            endpoint=None if endpoint is None else EndpointView(**endpoint.model_dump(exclude={"secret"})),
            plan=_plan(environment),
            resources=[ResourceView(**each.resource.model_dump(exclude={"needs"})) for each in environment.built],
            failure=None if failure is None else FailureView(address=failure.address, reason=failure.reason),
            export=environment.export,
        )


class EnvironmentPage(BaseModel):
    """Environments in the order of their ids."""

    environments: list[EnvironmentSummary]
    next: Annotated[EnvironmentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["environments"])

    @routes.get("/blueprint")
    async def show_blueprint(_: Reader) -> BlueprintView:
        """The blueprint by which environments are planned from now on."""
        rows = await context.rows(select(cast(col(BlueprintRow.state), SqlText).label("state")))
        if not rows:
            raise BlueprintNotFoundError("no blueprint is published yet; see the service's log for why")
        published = BLUEPRINTS.load(rows[0].state)
        return BlueprintView(content_hash=published.content_hash, content=published.content)

    @routes.get("/environments")
    async def show_all(
        _: Reader,
        standing: Annotated[Status | None, Query(alias="status", description="Only those that stand here.")] = None,
        region: Annotated[Key | None, Query(description="Only those in this region.")] = None,
        preset: Annotated[Preset | None, Query(description="Only those on this placement.")] = None,
        after: Annotated[
            EnvironmentId | None, Query(description="Only ids behind this one: `next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")] = 50,
    ) -> EnvironmentPage:
        """Environments in the order of their ids, a page at a time; pages stay right while others come."""
        wanted = select(_STATE).order_by(EnvironmentRow.id).limit(limit + 1)
        if standing is not None:
            wanted = wanted.where(EnvironmentRow.status == standing)
        if region is not None:
            wanted = wanted.where(EnvironmentRow.region == region)
        if preset is not None:
            wanted = wanted.where(EnvironmentRow.preset == preset)
        if after is not None:
            wanted = wanted.where(col(EnvironmentRow.id) > after)
        found = [ENVIRONMENTS.load(row.state) for row in await context.rows(wanted)]
        page = found[:limit]
        return EnvironmentPage(
            environments=[EnvironmentSummary.of(each) for each in page],
            next=page[-1].id if len(found) > limit else None,
        )

    @routes.get("/environments/{environment}")
    async def show(environment: Named, _: Reader) -> EnvironmentView:
        """One environment, by its id or its tenant's: placement, access, plan and what stands."""
        rows = await context.rows(select(_STATE).where(EnvironmentRow.id == _id(environment)))
        if not rows:
            raise EnvironmentUnknownError(f"there is no environment {environment}")
        return EnvironmentView.full(ENVIRONMENTS.load(rows[0].state))

    @routes.post("/environments/{environment}/retry", status_code=status.HTTP_202_ACCEPTED)
    async def retry(environment: Named, who: Writer) -> EnvironmentView:
        """Plan again after a failure, by the blueprint that is now in force; what stands already stays."""
        id_ = _id(environment)

        def decide(unit: UnitOfWork, _: DecisionContext) -> EnvironmentView:
            blueprint = in_force(unit.get(BLUEPRINTS, IN_FORCE))
            unit.record(ENVIRONMENTS, id_, environments.retry(unit.get(ENVIRONMENTS, id_), environment, blueprint))
            return EnvironmentView.full(existing(unit.get(ENVIRONMENTS, id_), environment))

        return await context.decide(
            who.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_)],
            reads=[BLUEPRINTS.key(IN_FORCE)],
            verb="retry",
            target=environment,
            idempotency=who.idempotency,
            response_type=EnvironmentView,
        )

    return routes


def _id(name: str) -> str:
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
        "access_wanted": environment.wanted,
        "tier": plan.tier if plan else None,
        "preset": plan.preset if plan else None,
        "links": Links(self=f"/v1/environments/{environment.id}"),
    }


def _plan(environment: Environment) -> PlanView | None:
    plan = environment.plan
    if plan is None or environment.plan_hash is None:
        return None
    left = {step.resource.address for step in environment.remaining}
    return PlanView(
        hash=environment.plan_hash,
        based_on=plan.based_on,
        blueprint_hash=plan.blueprint_hash,
        entitlements_hash=plan.entitlements_hash,
        cloud=plan.cloud,
        steps=[
            StepView(action=step.action, address=step.resource.address, done=step.resource.address not in left)
            for step in plan.steps
        ],
    )
