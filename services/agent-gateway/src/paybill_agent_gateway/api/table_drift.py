"""Route of drift: the differences between a bundle and the live table of each tenant."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from paybill_contracts.values import Slug, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_page
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col

from paybill_agent_gateway.act import Gate, table_drift
from paybill_agent_gateway.api.bundles import canonical_bundle
from paybill_agent_gateway.api.callers import Viewer
from paybill_agent_gateway.domain.tenants import TenantAccess
from paybill_agent_gateway.domain.workflows import tables_of
from paybill_agent_gateway.tables import TENANTS, TenantRow

MAX_TENANTS = 20
"""On one page: a database that does not answer takes five seconds."""
AT_ONCE = 4
"""Comparisons at a time, with a connection each."""


class DriftBody(BaseModel):
    """A bundle, published or not, and the page of tenants whose tables are compared with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: Annotated[dict[str, Any], Field(description="The canonical form, as `GET /v1/bundles/{hash}` returns it.")]
    after: Annotated[TenantId | None, Field(description="`next` of the previous page.")] = None


class TableDrift(BaseModel):
    """A difference between the bundle and the live table of a tenant. It is the same for all tenants of a pool."""

    tenant_id: TenantId
    slug: Slug
    table: str
    difference: str


class UnknownTables(BaseModel):
    """A tenant whose tables could not be compared."""

    tenant_id: TenantId
    slug: Slug
    code: Annotated[str, Field(description="The refusal that a call of the tenant's agents would get.")]


class DriftPage(BaseModel):
    """Result for a page of tenants, in the order of their ids."""

    compared: Annotated[int, Field(description="Tenants whose tables were compared.")]
    differences: list[TableDrift]
    unknown: list[UnknownTables]
    next: Annotated[TenantId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext, gate: Gate) -> APIRouter:
    """Returns the route below `/v1/bundles`."""
    routes = Router(prefix="/v1/bundles", tags=["bundles"])
    limit = asyncio.Semaphore(AT_ONCE)

    @routes.post("/drift")
    async def compare(body: DriftBody, _: Viewer) -> DriftPage:
        """Compares a bundle with the live tables of the tenants whose agents have an open login; it changes nothing.

        Until a difference is resolved, calls that use the table are refused with `resource_drifted`. A tenant whose
        database does not answer is listed as unknown. Refused with `invalid_bundle`.
        """
        bundle = await asyncio.to_thread(canonical_bundle, body.content)
        tables, state = tables_of(bundle), col(TenantRow.state)
        page, next_ = await load_page(
            context,
            TENANTS,
            body.after,
            MAX_TENANTS,
            state["is_open"].astext == "true",
            state["agents"]["blueprint"].astext == bundle.blueprint.name,
        )

        async def compared(tenant: TenantAccess) -> dict[str, list[str]] | str:
            async with limit:
                return await table_drift(gate, tenant, tables)

        first = {_place(each): each for each in reversed(page)}
        results = await asyncio.gather(*map(compared, first.values()))
        found = dict(zip(first, results, strict=True))
        of = [(each, found[_place(each)]) for each in page]
        return DriftPage(
            compared=sum(not isinstance(result, str) for _, result in of),
            differences=[
                TableDrift(tenant_id=each.tenant_id, slug=each.slug, table=table, difference=difference)
                for each, result in of
                if not isinstance(result, str)
                for table, differences in result.items()
                for difference in differences
            ],
            unknown=[
                UnknownTables(tenant_id=each.tenant_id, slug=each.slug, code=result)
                for each, result in of
                if isinstance(result, str)
            ],
            next=next_,
        )

    return routes


def _place(tenant: TenantAccess) -> tuple[object, ...]:
    """Returns the place of a tenant's tables: tenants of a pool share one."""
    if tenant.agents is None:
        return (tenant.tenant_id,)
    to = tenant.agents.connection
    return to.host, to.port, to.database, to.schema_name
