"""HTTP route that shows the statement of a tenant."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from paybill_contracts.errors import NotFoundError
from paybill_contracts.money import Money
from paybill_contracts.values import TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.http import Viewer
from paybill_billing.statements.tables import STATEMENTS


class NoStatementError(NotFoundError):
    """No invoice of the tenant was checked yet, or its provider does not list invoices."""

    code = "no_statement"


class UsageDifferenceView(BaseModel):
    """Usage of a meter that differs on a final invoice."""

    meter: Annotated[str, Field(description="The provider's name for it.")]
    period_start: datetime
    period_end: datetime
    reported: int
    invoiced: int
    invoice: Annotated[str | None, Field(description="Null for usage that is on no invoice, and will be on none.")]


class StatementView(BaseModel):
    """Money of a tenant's customer at its provider: a sum for each currency."""

    tenant_id: TenantId
    received: Annotated[list[Money], Field(description="Payments of invoices.")]
    returned: Annotated[list[Money], Field(description="Refunds and lost disputes of these.")]
    credit: Annotated[list[Money], Field(description="Given by invoices, and not used up by later ones.")]
    unpaid_credit: Annotated[list[Money], Field(description="Given for time of a period that was not paid.")]
    usage: Annotated[list[UsageDifferenceView], Field(description="Where invoices of the last 100 days differ.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the route."""
    routes = Router(prefix="/v1/tenants/{tenant_id}", tags=["billing"])

    @routes.get("/statement")
    async def show_statement(tenant_id: TenantId, _: Viewer) -> StatementView:
        """Returns the money received and returned, as the provider's invoices showed it last.

        404 `no_statement`.
        """
        found = await load_state(context, STATEMENTS, tenant_id)
        if found is None:
            raise NoStatementError(f"there is no statement of {tenant_id} yet")
        return StatementView(
            tenant_id=tenant_id,
            received=list(found.received),
            returned=list(found.returned),
            credit=list(found.credit),
            unpaid_credit=list(found.unpaid_credit),
            usage=[UsageDifferenceView(**each.model_dump()) for each in found.usage],
        )

    return routes
