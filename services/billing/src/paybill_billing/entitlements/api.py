"""HTTP routes of entitlements: a tenant's features, checks of one feature, and operators' overrides and grants."""

from collections.abc import Callable
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, status
from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.entitlements import ExceptionId, GrantId, OverrideId
from paybill_contracts.inputs import PlainText
from paybill_contracts.placement import Preset
from paybill_contracts.values import Count, Digest, Key, SubscriptionId, TenantId, Timestamp
from paybill_definitions.plans_file import FeatureInput, to_feature
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.domain.entitlements import Entitlements, EntitlementsEvent
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.http import Operator, Viewer
from paybill_billing.subscriptions.tables import account_of

Decision = Callable[[Entitlements | None, UnitOfWork, DecisionContext], list[EntitlementsEvent]]


class Body(BaseModel):
    """Request body. Unknown fields are refused, because they are usually misspelt."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _ValidityBody(Body):
    valid_from: Annotated[Timestamp | None, Field(description="Start of the validity; now by default.")] = None
    valid_until: Annotated[Timestamp | None, Field(description="Exclusive end; without it, no end.")] = None
    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class OverrideBody(_ValidityBody):
    """A feature that replaces the plan's feature with the same key, or is added to the plan's features."""

    feature: FeatureInput


class GrantBody(_ValidityBody):
    """An amount added to a limit, or to the included amount and the quota of a metered feature."""

    feature: Key
    amount: Annotated[Count, Field(description="0 for a boolean feature, which is switched on.")] = 0


class WithdrawBody(Body):
    """An override or a grant to end now."""

    id: ExceptionId
    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class OverrideView(BaseModel):
    """A feature that replaces the plan's during its validity."""

    id: OverrideId
    feature: Feature
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: str


class GrantView(BaseModel):
    """An amount that is added to a feature during its validity."""

    id: GrantId
    feature: str
    amount: int
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: str


class EntitlementsView(BaseModel):
    """A tenant's features in force, and `allows_access`."""

    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: PlanRef
    tier: str
    placement: Preset
    features: Annotated[
        list[Feature], Field(description="In force: the plan's features with overrides and grants applied.")
    ]
    allows_access: bool
    entitlements_hash: Digest
    set_revision: Annotated[int, Field(description="Number of this set among the tenant's sets.")]
    plan_features: Annotated[list[Feature], Field(description="The plan's features, without overrides and grants.")]
    overrides: list[OverrideView]
    grants: list[GrantView]
    changes_at: Annotated[
        Timestamp | None, Field(description="Next time at which a beginning or an end of validity changes the set.")
    ]

    @classmethod
    def of(cls, current: Entitlements) -> Self:
        """Returns the response for `current`."""
        return cls(
            tenant_id=current.id,
            subscription_id=current.subscription_id,
            plan=current.plan,
            tier=current.tier,
            placement=current.placement,
            features=list(current.features),
            allows_access=current.allows_access,
            entitlements_hash=current.entitlements_hash,
            set_revision=current.set_revision,
            plan_features=list(current.features_of_plan),
            overrides=[
                OverrideView(
                    id=each.id,
                    feature=each.feature,
                    valid_from=each.valid_from,
                    valid_until=each.valid_until,
                    reason=each.reason,
                )
                for each in current.overrides
            ],
            grants=[
                GrantView(
                    id=each.id,
                    feature=each.feature,
                    amount=each.amount,
                    valid_from=each.valid_from,
                    valid_until=each.valid_until,
                    reason=each.reason,
                )
                for each in current.grants
            ],
            changes_at=current.due,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1/tenants/{tenant_id}/entitlements", tags=["entitlements"])

    async def load(tenant_id: str) -> Entitlements | None:
        """Returns the tenant's entitlements. Raises UnknownTenantError."""
        current = await load_state(context, ENTITLEMENTS, tenant_id)
        if current is None:
            await account_of(context, tenant_id)
        return current

    async def act(caller: Caller, tenant_id: str, verb: str, decision: Decision) -> EntitlementsView:
        await load(tenant_id)

        def decide(unit: UnitOfWork, at: DecisionContext) -> EntitlementsView:
            unit.record(ENTITLEMENTS, tenant_id, decision(unit.get(ENTITLEMENTS, tenant_id), unit, at))
            return EntitlementsView.of(entitlements.existing(unit.get(ENTITLEMENTS, tenant_id)))

        return await context.decide(
            caller.origin,
            decide,
            writes=[ENTITLEMENTS.key(tenant_id)],
            reads=[CATALOGUES.key(catalogue.CATALOGUE)],
            verb=verb,
            target=tenant_id,
            idempotency=caller.idempotency,
            response_type=EntitlementsView,
        )

    @routes.get("")
    async def show_entitlements(tenant_id: TenantId, _: Viewer) -> EntitlementsView:
        """Shows a tenant's entitlements."""
        return EntitlementsView.of(entitlements.existing(await load(tenant_id)))

    @routes.post("/overrides", status_code=status.HTTP_201_CREATED)
    async def override(tenant_id: TenantId, body: OverrideBody, caller: Operator) -> EntitlementsView:
        """Replaces or adds a feature for a tenant, from now or from a later time.

        Of several overrides of a feature, the one that began last applies. Refused with `nothing_entitled`,
        `invalid_validity`, `other_kind_of_feature`, `undeclared_meter`, `too_many_overrides`.
        """
        override_id = f"ovr_{uuid4().hex}"

        def decision(current: Entitlements | None, unit: UnitOfWork, at: DecisionContext) -> list[EntitlementsEvent]:
            declared = unit.get(CATALOGUES, catalogue.CATALOGUE)
            return entitlements.override(
                current,
                override_id=override_id,
                feature=to_feature(body.feature),
                valid_from=body.valid_from or at.now,
                valid_until=body.valid_until,
                reason=body.reason,
                meters=catalogue.meters(declared) if declared is not None else (),
                now=at.now,
            )

        return await act(caller, tenant_id, "override_entitlement", decision)

    @routes.post("/grants", status_code=status.HTTP_201_CREATED)
    async def grant(tenant_id: TenantId, body: GrantBody, caller: Operator) -> EntitlementsView:
        """Adds an amount to a feature of a tenant, from now or from a later time; grants add up.

        Refused with `nothing_entitled`, `invalid_validity`, `not_grantable`, `too_many_overrides`.
        """
        grant_id = f"grt_{uuid4().hex}"

        def decision(current: Entitlements | None, _: UnitOfWork, at: DecisionContext) -> list[EntitlementsEvent]:
            return entitlements.grant(
                current,
                grant_id=grant_id,
                feature=body.feature,
                amount=body.amount,
                valid_from=body.valid_from or at.now,
                valid_until=body.valid_until,
                reason=body.reason,
                now=at.now,
            )

        return await act(caller, tenant_id, "grant_entitlement", decision)

    @routes.post("/withdraw")
    async def withdraw(tenant_id: TenantId, body: WithdrawBody, caller: Operator) -> EntitlementsView:
        """Ends an override or a grant now. Refused with `no_such_override_or_grant` when it has ended."""

        def decision(current: Entitlements | None, _: UnitOfWork, at: DecisionContext) -> list[EntitlementsEvent]:
            return entitlements.withdraw(current, body.id, body.reason, at.now)

        return await act(caller, tenant_id, "withdraw_entitlement", decision)

    return routes
