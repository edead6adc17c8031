"""HTTP for operators: ask for a tenant, look at tenants, hold them, let them go."""

import re
from collections.abc import Callable
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, Depends, Path, Query, Response, status
from paybill_contracts.tenant import HoldOrigin, Source, SuspensionMode
from paybill_contracts.values import Key, ProviderId, Slug, TenantId, Text, Timestamp
from paybill_runtime.decisions.context import Caller, ServiceContext, caller
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import ColumnElement, cast
from sqlalchemy import Text as SqlText
from sqlmodel import col, select

from paybill_tenant.domain import tenants
from paybill_tenant.domain.offerings import PAYMENTS, PLANS, REGIONS
from paybill_tenant.domain.tenants import Status, Tenant, TenantEvent, TenantNotFoundError, existing
from paybill_tenant.tables import OFFERINGS, TENANTS, TenantRow

MAX_PAGE = 200

_STATE = cast(col(TenantRow.state), SqlText).label("state")
_TENANT_ID = re.compile(r"ten_[0-9a-f]{32}")

Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$"),
    Field(examples=["ops@acme.example"]),
]
"""One @ between two parts without spaces or control characters, at most 254 (RFC 5321, 4.5.3.1.3). Whether somebody
reads it, only a message can tell."""

Named = Annotated[
    str,
    Path(
        description="The tenant's id (`ten_…`) or its slug.",
        pattern=r"^(ten_[0-9a-f]{32}|[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$",
        examples=["acme"],
    ),
]

Reader = Annotated[Caller, Depends(caller(Role.VIEWER, "tenant:read"))]
Writer = Annotated[Caller, Depends(caller(Role.OPERATOR, "tenant:write"))]


class Body(BaseModel):
    """What a caller sends: a field that we do not know is a mistake, and said to be one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestBody(Body):
    """Who wants to become a customer, of what, and where."""

    slug: Annotated[Slug, Field(description="The name in URLs and database roles; unique for ever.")]
    name: Annotated[Text, Field(description="The organisation's name, for people.", examples=["Acme"])]
    plan: Annotated[Key, Field(description="A plan of the published catalogue.")]
    region: Annotated[Key, Field(description="A region of the published blueprint.", examples=["eu-1"])]
    contact_email: Annotated[
        Email,
        Field(description="Where billing reaches the organisation. Sealed before anything is stored; never shown."),
    ]
    payment: Annotated[
        Key | None,
        Field(description="The billing provider to pay through; billing's default if null.", examples=["manual"]),
    ] = None
    customer: Annotated[
        ProviderId | None,
        Field(description="The customer that it is at this provider already; a new one if null.", examples=["cus_Q1"]),
    ] = None


class SuspendBody(Body):
    """How far the tenant is shut out, and why."""

    mode: Annotated[SuspensionMode, Field(description="`read_only`, or `blocked`: no access at all.")]
    reason: Annotated[Text, Field(description="Shown to operators, and kept in the log for ever: no personal data.")]


class OffboardBody(Body):
    """Why the tenant leaves."""

    reason: Annotated[Text, Field(description="Shown to operators, and kept in the log for ever: no personal data.")]


class HoldView(BaseModel):
    """One reason why the tenant is shut out; only its origin lifts it."""

    origin: HoldOrigin
    mode: SuspensionMode
    reason: str


class EnvironmentView(BaseModel):
    """What the tenant runs on. `epoch` counts its placements, and is null until the first is ready."""

    id: str
    epoch: int | None


class Links(BaseModel):
    """Where to look next."""

    self: str


class TenantView(BaseModel):
    """A tenant and its standing. Its contact address is not shown: it is sealed in the log."""

    id: TenantId
    slug: Slug
    name: str
    status: Status
    plan: Annotated[str, Field(description="The plan asked for when signing up; billing knows the one in force.")]
    region: str
    holds: Annotated[
        list[HoldView], Field(description="In force now, or from the moment that the environment is ready.")
    ]
    environment: EnvironmentView | None
    failure: Annotated[str | None, Field(description="Why the environment could not be built.")]
    retain_until: Annotated[
        Timestamp | None, Field(description="Nothing is purged before; null until the tenant leaves.")
    ]
    links: Links

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """What is shown of `tenant`."""
        environment = tenant.environment_id
        return cls(
            id=tenant.id,
            slug=tenant.slug,
            name=tenant.name,
            status=tenant.status,
            plan=tenant.plan,
            region=tenant.region,
            holds=[HoldView(origin=hold.origin, mode=hold.mode, reason=hold.reason) for hold in tenant.holds],
            environment=None if environment is None else EnvironmentView(id=environment, epoch=tenant.epoch),
            failure=tenant.failure,
            retain_until=tenant.retain_until,
            links=Links(self=f"/v1/tenants/{tenant.id}"),
        )


class TenantPage(BaseModel):
    """Tenants in the order of their slugs."""

    tenants: list[TenantView]
    next: Annotated[Slug | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1/tenants", tags=["tenants"])

    async def act(
        who: Caller, name: str, verb: str, decision: Callable[[Tenant, DecisionContext], list[TenantEvent]]
    ) -> TenantView:
        tenant_id = await _id_of(context, name)

        def decide(unit: UnitOfWork, at: DecisionContext) -> TenantView:
            unit.record(TENANTS, tenant_id, decision(existing(unit.get(TENANTS, tenant_id), name), at))
            return TenantView.of(existing(unit.get(TENANTS, tenant_id), name))

        return await context.decide(
            who.origin,
            decide,
            writes=[TENANTS.key(tenant_id)],
            verb=verb,
            target=name,
            idempotency=who.idempotency,
            response_type=TenantView,
        )

    @routes.post("", status_code=status.HTTP_202_ACCEPTED)
    async def request(body: RequestBody, who: Writer, response: Response) -> TenantView:
        """Ask for a new tenant. It becomes active when its subscription gives access and its environment is ready.

        An `Idempotency-Key` makes it safe to send again: the answer is the first one. Refused with `slug_taken`,
        `slug_reserved`, `unknown_plan`, `unknown_region`, `unknown_payment`, or `offerings_not_published` (later it
        succeeds).
        """
        tenant_id = f"ten_{uuid4().hex}"
        sealed = await context.seal(tenant_id, body.contact_email)

        def decide(unit: UnitOfWork, _: DecisionContext) -> TenantView:
            events = tenants.request(
                unit.get(OFFERINGS, PLANS),
                unit.get(OFFERINGS, REGIONS),
                tenant_id=tenant_id,
                slug=body.slug,
                name=body.name,
                plan=body.plan,
                region=body.region,
                contact_email=sealed,
                source=Source.API,
                payments=unit.get(OFFERINGS, PAYMENTS),
                payment=body.payment,
                customer=body.customer,
            )
            unit.record(TENANTS, tenant_id, events)
            return TenantView.of(existing(unit.get(TENANTS, tenant_id), tenant_id))

        view = await context.decide(
            who.origin,
            decide,
            writes=[TENANTS.key(tenant_id)],
            reads=[OFFERINGS.key(offering) for offering in (PLANS, REGIONS, PAYMENTS)],
            seals=[sealed],
            verb="request",
            target=body.slug,
            idempotency=who.idempotency,
            response_type=TenantView,
        )
        response.headers["Location"] = view.links.self
        return view

    @routes.get("")
    async def show_all(
        _: Reader,
        standing: Annotated[Status | None, Query(alias="status", description="Only those who stand here.")] = None,
        slug: Annotated[Slug | None, Query(description="Only the tenant with this slug.")] = None,
        after: Annotated[
            Slug | None, Query(description="Only slugs behind this one: `next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")] = 50,
    ) -> TenantPage:
        """Tenants in the order of their slugs, a page at a time; pages stay right while tenants come and go."""
        wanted = select(_STATE).order_by(TenantRow.slug).limit(limit + 1)
        if standing is not None:
            wanted = wanted.where(TenantRow.status == standing)
        if slug is not None:
            wanted = wanted.where(TenantRow.slug == slug)
        if after is not None:
            wanted = wanted.where(col(TenantRow.slug) > after)
        found = [TENANTS.load(row.state) for row in await context.rows(wanted)]
        page = found[:limit]
        return TenantPage(
            tenants=[TenantView.of(tenant) for tenant in page], next=page[-1].slug if len(found) > limit else None
        )

    @routes.get("/{tenant}")
    async def show(tenant: Named, _: Reader) -> TenantView:
        """One tenant, by id or slug."""
        rows = await context.rows(select(_STATE).where(_is(tenant)))
        if not rows:
            raise TenantNotFoundError(f"there is no tenant {tenant}")
        return TenantView.of(TENANTS.load(rows[0].state))

    @routes.post("/{tenant}/suspend")
    async def suspend(tenant: Named, body: SuspendBody, who: Writer) -> TenantView:
        """Put the operator's hold on a tenant: nothing is deleted. Before the environment is ready it is remembered.

        Refused with `tenant_left` once the tenant is offboarding.
        """
        return await act(who, tenant, "suspend", lambda found, _: tenants.suspend(found, body.mode, body.reason))

    @routes.post("/{tenant}/resume")
    async def resume(tenant: Named, who: Writer) -> TenantView:
        """Lift the operator's hold. The tenant stays suspended while billing holds it: see `holds` in the answer.

        Refused with `tenant_left` once the tenant is offboarding.
        """
        return await act(who, tenant, "resume", lambda found, _: tenants.resume(found))

    @routes.post("/{tenant}/offboard")
    async def offboard(tenant: Named, body: OffboardBody, who: Writer) -> TenantView:
        """Let a tenant go: its data is exported and kept until `retain_until`, and its subscription is cancelled.

        One that has no environment yet is cancelled at once. Refused with `retention_unknown` while billing has not
        said how long the data stays (later it succeeds).
        """
        return await act(who, tenant, "offboard", lambda found, at: tenants.offboard(found, body.reason, at.now))

    return routes


async def _id_of(context: ServiceContext, name: str) -> str:
    """The id of the tenant that is called so; when there is none, `name` itself, which then is nobody's id either."""
    rows = await context.rows(select(TenantRow.id).where(_is(name)))
    return rows[0].id if rows else name


def _is(name: str) -> ColumnElement[bool]:
    return col(TenantRow.id if _TENANT_ID.fullmatch(name) else TenantRow.slug) == name
