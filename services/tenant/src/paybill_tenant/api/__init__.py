"""HTTP API for operators: request, show, suspend, resume, hold and offboard tenants; API keys."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Query, Response
from paybill_contracts.inputs import Email
from paybill_contracts.purchases import FIRST_PRICE
from paybill_contracts.tenant import Source
from paybill_contracts.values import Key, Slug, TenantId
from paybill_contracts.why import HoldState, TenantState
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.listing import Limit, load_page, load_state, state_column
from paybill_runtime.http.router import Router
from sqlmodel import col, select

from paybill_tenant.api import api_keys, holds, voided_events
from paybill_tenant.api.deciding import IdOrSlug, Operator, Viewer, act, is_named
from paybill_tenant.api.views import (
    LegalHoldBody as LegalHoldBody,
)
from paybill_tenant.api.views import (
    ListPosition,
    OffboardBody,
    QuoteView,
    RequestBody,
    TenantPage,
    TenantView,
)
from paybill_tenant.api.views import (
    QuarantineBody as QuarantineBody,
)
from paybill_tenant.api.views import (
    ResumeBody as ResumeBody,
)
from paybill_tenant.api.views import (
    SuspendBody as SuspendBody,
)
from paybill_tenant.domain import offboarding, policies, purging, signups
from paybill_tenant.domain.invariants import waiting
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.domain.signup_options import PAYMENTS, PLANS, REGIONS, SignupQuote, check_request, without_trial
from paybill_tenant.domain.tenants import SlugTakenError, Status, TenantNotFoundError, existing
from paybill_tenant.domain.tenants import Tenant as Tenant
from paybill_tenant.domain.tenants import TenantEvent as TenantEvent
from paybill_tenant.tables import (
    POLICIES,
    SIGNUP_OPTIONS,
    TENANTS,
    ContactDigests,
    TenantRow,
    purged_with_slug,
    tenants_with_trial,
)


async def _of_customer(
    context: ServiceContext, digests: ContactDigests, quote: SignupQuote | None, body: RequestBody
) -> SignupQuote | None:
    """Returns the quote without a trial that the customer has had."""
    if quote is None or not quote.trial_days:
        return quote
    digest = await digests.of(body.contact_email)
    if digest is None or not await context.rows(tenants_with_trial(digest, body.plan)):
        return quote
    return without_trial(quote)


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the service."""
    routes = Router(prefix="/v1/tenants", tags=["tenants"])
    digests = ContactDigests(context)

    @routes.post("", status_code=HTTPStatus.ACCEPTED)
    async def request(body: RequestBody, principal: Operator, response: Response) -> TenantView:
        """Requests a new tenant. It becomes active when its subscription gives access and its environment is ready.

        A sign-up that nobody pays in time is abandoned: it is cancelled, and its slug is free again.
        With an `Idempotency-Key` a repeated request returns the first response. Refused with `slug_taken`,
        `slug_reserved`, `unknown_plan`, `no_such_price`, `quantity_out_of_bounds`, `unknown_region`,
        `unknown_payment`, `no_coupons`, `no_existing_customers`, `terms_of_existing_customer`, or
        `offerings_not_published` (retry later).
        """
        tenant_id = f"ten_{uuid4().hex}"
        sealed = await context.seal(tenant_id, body.contact_email)
        digest = await digests.of(body.contact_email)
        counts_for = timedelta(days=context.settings.contact_days)

        def decide(unit: UnitOfWork, at: DecisionContext) -> TenantView:
            policy = policies.existing(unit.get(POLICIES, POLICY))
            events = signups.request(
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
                terms=body.terms if body.terms != FIRST_PRICE else None,
                valid_until=at.now + timedelta(seconds=policy.signup_valid_s),
                contact_digest=digest,
                contact_until=at.now + counts_for if digest is not None else None,
                requested_at=at.now,
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

    @routes.post("/quote")
    async def quote(body: RequestBody, _: Operator) -> QuoteView:
        """Returns the price that this request would have, and changes nothing. Refused as the request would be.

        A customer who has had the trial of the plan gets no second one.
        """
        plans, regions, payments = [
            await load_state(context, SIGNUP_OPTIONS, kind) for kind in (PLANS, REGIONS, PAYMENTS)
        ]
        found = check_request(
            plans,
            regions,
            slug=body.slug,
            plan=body.plan,
            region=body.region,
            payments=payments,
            payment=body.payment,
            customer=body.customer,
            terms=body.terms,
        )
        if await context.rows(select(TenantRow.id).where(is_named(body.slug))):
            raise SlugTakenError(f"another tenant has the slug {body.slug}; choose another")
        return QuoteView.of(await _of_customer(context, digests, found, body), body.terms)

    @routes.get("")
    async def show_all(
        _: Viewer,
        status: Annotated[Status | None, Query(description="Only tenants with this status.")] = None,
        slug: Annotated[Slug | None, Query(description="Only the tenant with this slug.")] = None,
        plan: Annotated[Key | None, Query(description="Only tenants on this plan now, or requested for it.")] = None,
        region: Annotated[Key | None, Query(description="Only tenants in this region.")] = None,
        id_: Annotated[
            list[TenantId] | None, Query(alias="id", max_length=200, description="Only tenants with these ids.")
        ] = None,
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
        equal = {"status": status, "slug": slug, "plan": plan, "region": region, "contact_digest": digest}
        of_ids = [col(TenantRow.id).in_(id_)] if id_ is not None else []
        page, next_ = await load_page(context, TENANTS, after, limit, *of_ids, order_by="slug", **equal)
        return TenantPage(tenants=[TenantView.of(tenant) for tenant in page], next=next_)

    @routes.get("/{tenant}")
    async def show(tenant: IdOrSlug, _: Viewer) -> TenantView:
        """Shows one tenant, by id or slug; a purged one by its slug while no other tenant has it."""
        rows = await context.rows(select(state_column(TENANTS)).where(is_named(tenant)))
        if not rows:
            rows = await context.rows(purged_with_slug(tenant))
        if not rows:
            raise TenantNotFoundError(f"there is no tenant {tenant}")
        return TenantView.of(TENANTS.load(rows[0].state))

    @routes.post("/{tenant}/purge")
    async def purge(tenant: IdOrSlug, principal: Operator) -> TenantView:
        """Starts the purge of a tenant whose retention period is over; a timer does, too.

        Everything that exists for it is deleted by a plan, which may need an approval. Refused with
        `tenant_not_retained`, `retention_not_over` and `legal_hold`.
        """
        return await act(context, principal, tenant, "purge", lambda state, at: purging.purge(state, at.now))

    @routes.post("/{tenant}/offboard")
    async def offboard(tenant: IdOrSlug, body: OffboardBody, principal: Operator) -> TenantView:
        """Offboards a tenant: its data is exported and kept until `retain_until`, and its subscription is cancelled.

        A tenant without an environment is cancelled at once, and a sign-up that nobody paid frees its slug. One that
        billing has offboarded can no longer return; its dates stay. Refused with `legal_hold`, and with
        `retention_unknown` until billing has published the retention period (retry later).
        """
        return await act(
            context, principal, tenant, "offboard", lambda state, at: offboarding.offboard(state, body.reason, at.now)
        )

    more = (holds.router(context), api_keys.router(context), voided_events.router(context))
    return APIRouter(routes=[*routes.routes, *(route for router in more for route in router.routes)])


async def read_state(context: ServiceContext, tenant_id: str) -> OwnState:
    """Returns the tenant for its diagnosis."""
    tenant = await load_state(context, TENANTS, tenant_id)
    if tenant is None:
        return OwnState()
    holds = [HoldState(origin=hold.origin, mode=hold.mode, reason=hold.reason) for hold in tenant.holds]
    if tenant.quarantine is not None:
        holds.append(HoldState(origin="quarantine", mode=tenant.quarantine.mode, reason=tenant.quarantine.reason))
    if tenant.scheduled is not None or tenant.status is Status.PURGING:
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
            retain_until=tenant.retain_until,
            requested_at=tenant.requested_at,
        ),
    )
