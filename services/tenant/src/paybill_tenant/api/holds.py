"""HTTP routes of holds, legal holds and quarantines of tenants."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.router import Router

from paybill_tenant.api.deciding import IdOrSlug, Operator, act
from paybill_tenant.api.views import LegalHoldBody, QuarantineBody, ResumeBody, SuspendBody, TenantView
from paybill_tenant.domain import holds


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of holds."""
    routes = Router(prefix="/v1/tenants", tags=["tenants"])

    @routes.post("/{tenant}/suspend")
    async def suspend(tenant: IdOrSlug, body: SuspendBody, principal: Operator) -> TenantView:
        """Suspends a tenant by an operator's hold and keeps its data. It takes effect once the environment is ready.

        Holds with other reasons remain, and the strictest mode applies. Refused with `tenant_left` once the tenant is
        offboarding, and with `too_many_holds`.
        """
        return await act(
            context, principal, tenant, "suspend", lambda state, _: holds.suspend(state, body.mode, body.reason)
        )

    @routes.post("/{tenant}/resume")
    async def resume(tenant: IdOrSlug, principal: Operator, body: ResumeBody | None = None) -> TenantView:
        """Lifts operators' holds. The tenant stays suspended while another hold remains: see `holds` in the response.

        Refused with `tenant_left` once the tenant is offboarding, and with `no_such_hold`.
        """
        reason = body.reason if body is not None else None
        return await act(context, principal, tenant, "resume", lambda state, _: holds.resume(state, reason))

    @routes.post("/{tenant}/legal-hold")
    async def place_legal_hold(tenant: IdOrSlug, body: LegalHoldBody, principal: Operator) -> TenantView:
        """Keeps the tenant's data for a legal case: nothing that leads to its deletion begins. Access stays.

        Refused with `tenant_left` for a tenant without data, and with `too_many_holds`.
        """
        return await act(
            context, principal, tenant, "place_legal_hold", lambda state, _: holds.place_legal_hold(state, body.case)
        )

    @routes.post("/{tenant}/legal-hold/release")
    async def release_legal_hold(tenant: IdOrSlug, body: LegalHoldBody, principal: Operator) -> TenantView:
        """Releases the legal hold of a case. An offboarding that was due meanwhile begins.

        Refused with `no_such_hold`.
        """
        return await act(
            context,
            principal,
            tenant,
            "release_legal_hold",
            lambda state, _: holds.release_legal_hold(state, body.case),
        )

    @routes.post("/{tenant}/quarantine")
    async def quarantine(tenant: IdOrSlug, body: QuarantineBody, principal: Operator) -> TenantView:
        """Takes all access from a tenant for its security, whatever its holds are, and keeps its data.

        Refused with `tenant_left`, and with `tenant_not_running` for one without an environment that is ready.
        """
        return await act(
            context, principal, tenant, "quarantine", lambda state, _: holds.quarantine(state, body.reason)
        )

    @routes.post("/{tenant}/quarantine/end")
    async def end_quarantine(tenant: IdOrSlug, principal: Operator) -> TenantView:
        """Ends a quarantine: the tenant is active, or suspended by its holds. Refused with `tenant_left`."""
        return await act(context, principal, tenant, "end_quarantine", lambda state, _: holds.end_quarantine(state))

    return routes
