"""HTTP routes of usage: a tenant's usage against its allowances, and consumption checked against quotas."""

from fastapi import APIRouter
from paybill_contracts.usage import Usage
from paybill_contracts.values import TenantId
from paybill_runtime import clock
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.http import Operator, Viewer
from paybill_billing.subscriptions.tables import ACCOUNTS, account_of
from paybill_billing.usage.api.views import AllowanceView, ConsumeBody, ConsumeView, TenantUsageView
from paybill_billing.usage.domain import usage
from paybill_billing.usage.domain.quotas import allowance_of, metered_features
from paybill_billing.usage.tables import BILLING_PERIODS, DISTINCT_SETS, METERS, meters_of

MAX_METERS = 500
CONSUMER = "consume"
"""The publisher of usage that is consumed over HTTP; the fact's actor names the caller."""


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1", tags=["usage"], problems={400: ("idempotency_key_missing",)})

    @routes.get("/tenants/{tenant_id}/usage")
    async def show_usage(tenant_id: TenantId, _: Viewer) -> TenantUsageView:
        """Shows a tenant's current usage and its allowances."""
        await account_of(context, tenant_id)
        entitlements = await load_state(context, ENTITLEMENTS, tenant_id)
        meters = {
            meter.meter: meter
            for row in await context.rows(meters_of(tenant_id, MAX_METERS))
            for meter in [METERS.load(row.state)]
        }
        names = sorted({feature.meter for feature in metered_features(entitlements)} | meters.keys())
        now = context.now()
        return TenantUsageView(
            tenant_id=tenant_id,
            allows_access=entitlements is not None and entitlements.allows_access,
            meters=[AllowanceView.of(name, meters.get(name), allowance_of(entitlements, name), now) for name in names],
        )

    @routes.post("/tenants/{tenant_id}/usage/consume")
    async def consume(tenant_id: TenantId, body: ConsumeBody, caller: Operator) -> ConsumeView:
        """Counts usage before it happens if the plan allows it. Atomic: two callers cannot both get the last unit.

        Needs an Idempotency-Key: a repeated request gets the first answer and is counted once.
        """
        if caller.idempotency is None:
            raise Problem(400, "idempotency_key_missing", "send an Idempotency-Key: without one, a retry counts twice")
        used = Usage(
            tenant_id=tenant_id, meter=body.meter, quantity=body.quantity, occurred_at=context.now(), of=body.of
        )
        id_, shard, usage_id = usage.meter_id(tenant_id, body.meter), usage.shard_of(used), clock.new_id()

        def decide(unit: UnitOfWork, _: DecisionContext) -> ConsumeView:
            current = catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
            consumed = usage.consume(
                unit.get(METERS, id_),
                unit.get(DISTINCT_SETS, shard) if shard is not None else None,
                used,
                usage_id=usage_id,
                publisher=CONSUMER,
                plan=usage.Plan(
                    unit.get(ACCOUNTS, tenant_id),
                    unit.get(ENTITLEMENTS, tenant_id),
                    current,
                    unit.get(BILLING_PERIODS, tenant_id),
                ),
            )
            unit.record(METERS, id_, consumed.on_meter)
            if shard is not None:
                unit.record(DISTINCT_SETS, shard, consumed.on_distinct_set)
            return ConsumeView.of(body.meter, consumed)

        return await context.decide(
            caller.origin,
            decide,
            writes=[METERS.key(id_), *([DISTINCT_SETS.key(shard)] if shard is not None else [])],
            reads=[
                ACCOUNTS.key(tenant_id),
                ENTITLEMENTS.key(tenant_id),
                BILLING_PERIODS.key(tenant_id),
                CATALOGUES.key(catalogue.CATALOGUE),
            ],
            idempotency=caller.idempotency,
            response_type=ConsumeView,
            verb="consume",
            target=id_,
        )

    return routes
