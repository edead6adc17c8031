"""HTTP route that checks one feature of a tenant; metered features are checked against the open window."""

from typing import Annotated, Literal

from fastapi import APIRouter
from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.entitlements import Reason, check
from paybill_contracts.values import Count, Key, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.http import Viewer
from paybill_billing.subscriptions.tables import account_of
from paybill_billing.usage.domain import usage
from paybill_billing.usage.tables import METERS


class CheckBody(BaseModel):
    """A feature and the quantity to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: Key
    used: Annotated[Count, Field(description="Current use of a limit feature. Ignored for metered features.")] = 0
    want: Annotated[Count, Field(description="Additional quantity.")] = 1


class CheckView(BaseModel):
    """Result of a check. limit: the limit or quota; null when unlimited."""

    allowed: bool
    reason: Reason
    limit: int | None
    remaining: Annotated[int | None, Field(description="The rest of the limit, before `want`.")]
    used: int
    used_from: Annotated[
        Literal["caller", "usage"],
        Field(description="`usage`: the value that billing counted in the open window."),
    ]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1/tenants/{tenant_id}/entitlements", tags=["entitlements"])

    @routes.post("/check")
    async def check_feature(tenant_id: TenantId, body: CheckBody, _: Viewer) -> CheckView:
        """Checks one feature of a tenant for an additional quantity. Reserves and counts nothing."""
        current = await load_state(context, ENTITLEMENTS, tenant_id)
        if current is None:
            await account_of(context, tenant_id)
        used = body.used
        metered = (
            [f for f in current.features if isinstance(f, MeteredFeature) and f.key == body.feature] if current else []
        )
        for feature in metered:
            used = usage.used_now(
                await load_state(context, METERS, usage.meter_id(tenant_id, feature.meter)), context.now()
            )
        result = check(current, body.feature, used=used, requested=body.want)
        return CheckView(
            allowed=result.allowed,
            reason=result.reason,
            limit=result.limit,
            remaining=result.remaining,
            used=used,
            used_from="usage" if metered else "caller",
        )

    return routes
