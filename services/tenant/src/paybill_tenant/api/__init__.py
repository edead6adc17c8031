"""HTTP API for operators: request, show, suspend, resume, hold and offboard tenants."""

import re
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, Depends, Path, Query, Response
from paybill_contracts.money import Money
from paybill_contracts.tenant import HoldOrigin, Source, SuspensionMode
from paybill_contracts.values import Key, ProviderId, Slug, TenantId, Text, Timestamp
from paybill_contracts.why import HoldState, TenantState
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.listing import Limit, load_page, load_state, state_column
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import ColumnElement
from sqlmodel import col, select

from paybill_tenant.domain import holds, offboarding, policies, tenants
from paybill_tenant.domain.invariants import waiting
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.domain.signup_options import PAYMENTS, PLANS, REGIONS
from paybill_tenant.domain.tenants import Status, Tenant, TenantEvent, TenantNotFoundError, existing
from paybill_tenant.tables import POLICIES, SIGNUP_OPTIONS, TENANTS, ContactDigests, TenantRow

_TENANT_ID = re.compile(r"ten_[0-9a-f]{32}")

Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$"),
    Field(examples=["ops@acme.example"]),
]
"""One @ between two parts without spaces or control characters, at most 254 characters (RFC 5321, 4.5.3.1.3)."""

IdOrSlug = Annotated[
    str,
    Path(
        description="The tenant's id (`ten_…`) or its slug.",
        pattern=r"^(ten_[0-9a-f]{32}|[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$",
        examples=["acme"],
    ),
]

ListPosition = Annotated[str, StringConstraints(max_length=80, pattern=r"^[a-z][a-z0-9-]{0,39}(~ten_[0-9a-f]{32})?$")]
"""A tenant's place in the order of slugs; that of an abandoned sign-up, whose slug is free, has its id behind it."""

Viewer = Annotated[Caller, Depends(caller(Role.VIEWER, "tenant:read"))]
Operator = Annotated[Caller, Depends(caller(Role.OPERATOR, "tenant:write"))]


class Body(BaseModel):
    """Request body; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestBody(Body):
    """Request for a new tenant."""

    slug: Annotated[Slug, Field(description="The name in URLs and database roles; permanently unique.")]
    name: Annotated[Text, Field(description="The organisation's name, for people.", examples=["Acme"])]
    plan: Annotated[Key, Field(description="A plan of the published catalogue.")]
    region: Annotated[Key, Field(description="A region of the published blueprint.", examples=["eu-1"])]
    contact_email: Annotated[
        Email,
        Field(description="Contact address for billing. Encrypted before it is stored; never shown."),
    ]
    payment: Annotated[
        Key | None,
        Field(description="The billing provider for payments; billing's default if null.", examples=["manual"]),
    ] = None
    customer: Annotated[
        ProviderId | None,
        Field(description="An existing customer of this provider; a new one if null.", examples=["cus_Q1"]),
    ] = None


class SuspendBody(Body):
    """Mode and reason of a suspension."""

    mode: Annotated[SuspensionMode, Field(description="`read_only`, or `blocked`: no access at all.")]
    reason: Annotated[Text, Field(description="Shown to operators and kept in the log permanently: no personal data.")]


class ResumeBody(Body):
    """The hold to lift."""

    reason: Annotated[Text | None, Field(description="Lifts only the hold with this reason; all of them if null.")] = (
        None
    )


class LegalHoldBody(Body):
    """The case of a legal hold."""

    case: Annotated[
        Text,
        Field(
            description="Reference of the case, kept in the log permanently: no personal data.", examples=["2026-17"]
        ),
    ]


class OffboardBody(Body):
    """Reason for offboarding."""

    reason: Annotated[Text, Field(description="Shown to operators and kept in the log permanently: no personal data.")]


class HoldView(BaseModel):
    """A reason for suspension; only its origin lifts it. A tenant can have several of operators."""

    origin: HoldOrigin
    mode: SuspensionMode
    reason: str


class EnvironmentView(BaseModel):
    """The tenant's environment. `epoch` counts its placements, and is null until the first is ready."""

    id: str
    epoch: int | None


class Links(BaseModel):
    """Related resources."""

    self: str


class TenantView(BaseModel):
    """A tenant and its status. Its contact address is not shown: it is encrypted in the log."""

    id: TenantId
    slug: Slug
    name: str
    status: Status
    plan: Annotated[str, Field(description="The plan requested at sign-up; billing has the current one.")]
    region: str
    holds: Annotated[list[HoldView], Field(description="In force now, or as soon as the environment is ready.")]
    environment: EnvironmentView | None
    failure: Annotated[str | None, Field(description="Reason why the environment could not be built.")]
    retain_until: Annotated[
        Timestamp | None, Field(description="Data is kept at least until then; null until the tenant leaves.")
    ]
    offboards_at: Annotated[
        Timestamp | None,
        Field(description="Offboarding begins then, unless a subscription gives access before; null if none ended."),
    ]
    legal_holds: Annotated[
        list[str],
        Field(description="Cases for which the data is kept: no verb that leads to its deletion is accepted."),
    ]
    debt: Annotated[list[Money], Field(description="What the customer owes at the provider, by currency.")]
    links: Links

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """Builds the view of `tenant`."""
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
            offboards_at=tenant.scheduled.at if tenant.scheduled is not None else None,
            legal_holds=list(tenant.legal_holds),
            debt=list(tenant.debt),
            links=Links(self=f"/v1/tenants/{tenant.id}"),
        )


class TenantPage(BaseModel):
    """Tenants in the order of their slugs."""

    tenants: list[TenantView]
    next: Annotated[ListPosition | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the service."""
    routes = APIRouter(prefix="/v1/tenants", tags=["tenants"])
    digests = ContactDigests(context)

    async def act(
        principal: Caller, name: str, verb: str, decision: Callable[[Tenant, DecisionContext], list[TenantEvent]]
    ) -> TenantView:
        tenant_id = await _id_of(context, name)

        def decide(unit: UnitOfWork, at: DecisionContext) -> TenantView:
            unit.record(TENANTS, tenant_id, decision(existing(unit.get(TENANTS, tenant_id), name), at))
            return TenantView.of(existing(unit.get(TENANTS, tenant_id), name))

        return await context.decide(
            principal.origin,
            decide,
            writes=[TENANTS.key(tenant_id)],
            verb=verb,
            target=name,
            idempotency=principal.idempotency,
            response_type=TenantView,
        )

    @routes.post("", status_code=HTTPStatus.ACCEPTED)
    async def request(body: RequestBody, principal: Operator, response: Response) -> TenantView:
        """Requests a new tenant. It becomes active when its subscription gives access and its environment is ready.

        A sign-up that nobody pays in time is abandoned: it is cancelled, and its slug is free again.
        With an `Idempotency-Key` a repeated request returns the first response. Refused with `slug_taken`,
        `slug_reserved`, `unknown_plan`, `unknown_region`, `unknown_payment`, or `offerings_not_published` (retry
        later).
        """
        tenant_id = f"ten_{uuid4().hex}"
        sealed = await context.seal(tenant_id, body.contact_email)
        digest = await digests.of(body.contact_email)
        counts_for = timedelta(days=context.settings.contact_days)

        def decide(unit: UnitOfWork, at: DecisionContext) -> TenantView:
            policy = policies.existing(unit.get(POLICIES, POLICY))
            events = tenants.request(
                unit.get(SIGNUP_OPTIONS, PLANS),
                unit.get(SIGNUP_OPTIONS, REGIONS),
                tenant_id=tenant_id,
                slug=body.slug,
                name=body.name,
                plan=body.plan,
                region=body.region,
                contact_email=sealed,
                source=Source.API,
                payments=unit.get(SIGNUP_OPTIONS, PAYMENTS),
                payment=body.payment,
                customer=body.customer,
                valid_until=at.now + timedelta(seconds=policy.signup_valid_s),
                contact_digest=digest,
                contact_until=at.now + counts_for if digest is not None else None,
            )
            unit.record(TENANTS, tenant_id, events)
            return TenantView.of(existing(unit.get(TENANTS, tenant_id), tenant_id))

        view = await context.decide(
            principal.origin,
            decide,
            writes=[TENANTS.key(tenant_id)],
            reads=[POLICIES.key(POLICY), *(SIGNUP_OPTIONS.key(kind) for kind in (PLANS, REGIONS, PAYMENTS))],
            seals=[sealed],
            verb="request",
            target=body.slug,
            idempotency=principal.idempotency,
            response_type=TenantView,
        )
        response.headers["Location"] = view.links.self
        return view

    @routes.get("")
    async def show_all(
        _: Viewer,
        status: Annotated[Status | None, Query(description="Only tenants with this status.")] = None,
        slug: Annotated[Slug | None, Query(description="Only the tenant with this slug.")] = None,
        email: Annotated[
            Email | None, Query(description="Only tenants with this contact address, as far as its digest is kept.")
        ] = None,
        after: Annotated[
            ListPosition | None, Query(description="Only slugs after this one: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
    ) -> TenantPage:
        """Lists tenants in the order of their slugs, in pages. Changes between two requests shift no page."""
        # No tenant has the empty digest: without the key an address cannot be found.
        digest = (await digests.of(email) or "") if email is not None else None
        equal = {"status": status, "slug": slug, "contact_digest": digest}
        page, next_ = await load_page(context, TENANTS, after, limit, order_by="slug", **equal)
        return TenantPage(tenants=[TenantView.of(tenant) for tenant in page], next=next_)

    @routes.get("/{tenant}")
    async def show(tenant: IdOrSlug, _: Viewer) -> TenantView:
        """Shows one tenant, by id or slug."""
        rows = await context.rows(select(state_column(TENANTS)).where(_is(tenant)))
        if not rows:
            raise TenantNotFoundError(f"there is no tenant {tenant}")
        return TenantView.of(TENANTS.load(rows[0].state))

    @routes.post("/{tenant}/suspend")
    async def suspend(tenant: IdOrSlug, body: SuspendBody, principal: Operator) -> TenantView:
        """Suspends a tenant by an operator's hold and keeps its data. It takes effect once the environment is ready.

        Holds with other reasons remain, and the strictest mode applies. Refused with `tenant_left` once the tenant is
        offboarding, and with `too_many_holds`.
        """
        return await act(principal, tenant, "suspend", lambda state, _: holds.suspend(state, body.mode, body.reason))

    @routes.post("/{tenant}/resume")
    async def resume(tenant: IdOrSlug, principal: Operator, body: ResumeBody | None = None) -> TenantView:
        """Lifts operators' holds. The tenant stays suspended while another hold remains: see `holds` in the response.

        Refused with `tenant_left` once the tenant is offboarding, and with `no_such_hold`.
        """
        reason = body.reason if body is not None else None
        return await act(principal, tenant, "resume", lambda state, _: holds.resume(state, reason))

    @routes.post("/{tenant}/legal-hold")
    async def place_legal_hold(tenant: IdOrSlug, body: LegalHoldBody, principal: Operator) -> TenantView:
        """Keeps the tenant's data for a legal case: nothing that leads to its deletion begins. Access stays.

        Refused with `tenant_left` for a tenant without data, and with `too_many_holds`.
        """
        return await act(
            principal, tenant, "place_legal_hold", lambda state, _: holds.place_legal_hold(state, body.case)
        )

    @routes.post("/{tenant}/legal-hold/release")
    async def release_legal_hold(tenant: IdOrSlug, body: LegalHoldBody, principal: Operator) -> TenantView:
        """Releases the legal hold of a case. An offboarding that was due meanwhile begins.

        Refused with `no_such_hold`.
        """
        return await act(
            principal, tenant, "release_legal_hold", lambda state, _: holds.release_legal_hold(state, body.case)
        )

    @routes.post("/{tenant}/offboard")
    async def offboard(tenant: IdOrSlug, body: OffboardBody, principal: Operator) -> TenantView:
        """Offboards a tenant: its data is exported and kept until `retain_until`, and its subscription is cancelled.

        A tenant without an environment is cancelled at once. Refused with `legal_hold`, and with `retention_unknown`
        until billing has published the retention period (retry later).
        """
        return await act(
            principal, tenant, "offboard", lambda state, at: offboarding.offboard(state, body.reason, at.now)
        )

    return routes


async def read_state(context: ServiceContext, tenant_id: str) -> OwnState:
    """Returns the tenant for its diagnosis."""
    tenant = await load_state(context, TENANTS, tenant_id)
    if tenant is None:
        return OwnState()
    holds = [HoldState(origin=hold.origin, mode=hold.mode, reason=hold.reason) for hold in tenant.holds]
    if tenant.scheduled is not None:
        holds += [HoldState(origin="legal", mode="data", reason=case) for case in tenant.legal_holds]
    wait = waiting(tenant)
    return OwnState(
        aggregates=(f"{TENANTS.kind}/{tenant.id}",),
        tenant=TenantState(
            slug=tenant.slug,
            status=tenant.status,
            plan=tenant.plan,
            region=tenant.region,
            holds=tuple(holds),
            failure=tenant.failure,
            waits_for=wait.reason if wait else None,
            waits_until=wait.until if wait else None,
        ),
    )


async def _id_of(context: ServiceContext, name: str) -> str:
    """Returns the id of the tenant with this id or slug; `name` itself when there is none."""
    rows = await context.rows(select(TenantRow.id).where(_is(name)))
    return rows[0].id if rows else name


def _is(name: str) -> ColumnElement[bool]:
    return col(TenantRow.id if _TENANT_ID.fullmatch(name) else TenantRow.slug) == name
