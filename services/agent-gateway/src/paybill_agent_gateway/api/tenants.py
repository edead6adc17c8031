"""Routes about tenants: whether their agents may act, and why not."""

import re
from typing import Annotated, Self

from fastapi import APIRouter, Path
from paybill_contracts.agent_tenants import AgentTenantStatus
from paybill_contracts.values import Slug, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlmodel import col

from paybill_agent_gateway.api.callers import Viewer
from paybill_agent_gateway.domain.tenants import TenantAccess, existing, refusal
from paybill_agent_gateway.tables import TENANTS, TenantRow

_TENANT_ID = re.compile(r"ten_[0-9a-f]{32}")
Id = Annotated[str, Path(pattern=r"^ten_[0-9a-f]{32}$", examples=["ten_0123456789abcdef0123456789abcdef"])]


class TenantAccessView(BaseModel):
    """A tenant, and whether its agents may act."""

    id: TenantId
    slug: Slug
    status: AgentTenantStatus
    may_act: bool
    code: Annotated[str | None, Field(description="Code of the refusal that every agent gets; null if they may act.")]
    reason: Annotated[str | None, Field(description="The refusal, for people.")]

    @classmethod
    def of(cls, access: TenantAccess) -> Self:
        """Builds the view of `access`."""
        refused = refusal(access)
        return cls(
            id=access.tenant_id,
            slug=access.slug,
            status=access.status,
            may_act=refused is None,
            code=refused.code if refused else None,
            reason=str(refused) if refused else None,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes below `/v1/tenants`."""
    routes = Router(prefix="/v1/tenants", tags=["tenants"])

    @routes.get("/{tenant}/agent-access")
    async def show(tenant: Id, _: Viewer) -> TenantAccessView:
        """Shows whether the agents of a tenant may act, or the refusal that they get. Refused with `tenant_unknown`."""
        return TenantAccessView.of(existing(await load_state(context, TENANTS, tenant), tenant))

    return routes


async def tenant_named(context: ServiceContext, name: str, principal: Caller) -> str:
    """Returns the id of the tenant with this id or slug, which a purged tenant does not hold.

    Raises AgentTenantUnknownError, but for an agent: for a name that is not its own tenant's, it gets the name itself,
    so that it learns of no other tenant.
    """
    if _TENANT_ID.fullmatch(name):
        return name
    conditions = [col(TenantRow.slug) == name, col(TenantRow.state)["status"].astext != AgentTenantStatus.PURGED]
    if principal.tenant_id is not None:
        conditions.append(col(TenantRow.id) == principal.tenant_id)
    rows = await context.rows(select(col(TenantRow.id)).where(*conditions))
    if not rows and principal.tenant_id is None:
        existing(None, name)
    return str(rows[0].id) if rows else name


async def read_state(context: ServiceContext, tenant_id: str) -> OwnState:
    """Returns the facts of the gateway about a tenant, for its diagnosis."""
    access = await load_state(context, TENANTS, tenant_id)
    return OwnState() if access is None else OwnState(aggregates=(f"{TENANTS.kind}/{tenant_id}",))
