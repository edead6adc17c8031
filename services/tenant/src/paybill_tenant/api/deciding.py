"""Decisions about one tenant over HTTP, by its id or slug."""

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from sqlalchemy import ColumnElement
from sqlmodel import col, select

from paybill_tenant.api.views import TenantView
from paybill_tenant.domain.tenants import Tenant, TenantEvent, existing
from paybill_tenant.tables import TENANTS, TenantRow

_TENANT_ID = re.compile(r"ten_[0-9a-f]{32}")

IdOrSlug = Annotated[
    str,
    Path(
        description="The tenant's id (`ten_…`) or its slug.",
        pattern=r"^(ten_[0-9a-f]{32}|[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$",
        examples=["acme"],
    ),
]

Viewer = Annotated[Caller, Depends(caller(Role.VIEWER, "tenant:read"))]
Operator = Annotated[Caller, Depends(caller(Role.OPERATOR, "tenant:write"))]


async def act(
    context: ServiceContext,
    principal: Caller,
    name: str,
    verb: str,
    decision: Callable[[Tenant, DecisionContext], list[TenantEvent]],
) -> TenantView:
    """Records the events of a decision about a tenant, and returns its view."""
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


def is_named(name: str) -> ColumnElement[bool]:
    """Returns the condition of the tenant with this id or slug."""
    return col(TenantRow.id if _TENANT_ID.fullmatch(name) else TenantRow.slug) == name


async def _id_of(context: ServiceContext, name: str) -> str:
    """Returns the id of the tenant with this id or slug; `name` itself when there is none."""
    rows = await context.rows(select(TenantRow.id).where(is_named(name)))
    return rows[0].id if rows else name
