"""HTTP of entitlements: what a tenant may use, whether it may now, and what operators add to its plan."""

from collections.abc import Callable
from typing import Annotated, Literal, Self
from uuid import uuid4

from fastapi import APIRouter, status
from paybill_contracts.billing import PlanRef
from paybill_contracts.catalogue import Feature, MeteredFeature
from paybill_contracts.entitlements import ExceptionId, GrantId, OverrideId, Reason, check
from paybill_contracts.placement import Preset
from paybill_contracts.values import Count, Digest, Key, SubscriptionId, TenantId, Timestamp
from paybill_contracts.values import Text as Line
from paybill_definitions.plans_file import FeatureInput, to_feature
from paybill_runtime.decisions.context import Caller, Edge
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.domain.entitlements import Entitlements, EntitlementsEvent
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.reading import Reader, Writer, account_of, found
from paybill_billing.usage.domain import usage
from paybill_billing.usage.tables import METERS

Decision = Callable[[Entitlements | None, Unit, Moment], list[EntitlementsEvent]]


class Body(BaseModel):
    """What a caller sends: a field that we do not know is a mistake, and said to be one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Exception(Body):
    valid_from: Annotated[Timestamp | None, Field(description="From when on; now, when it is not given.")] = None
    valid_until: Annotated[Timestamp | None, Field(description="Until before when; for ever, when not given.")] = None
    reason: Annotated[Line, Field(description="Kept in the log for ever: no personal data.")]


class OverrideBody(_Exception):
    """A feature instead of the plan's of the same key, or beside the plan's."""

    feature: FeatureInput


class GrantBody(_Exception):
    """More of a feature: added to a limit, or to what is included and to the quota of what is metered."""

    feature: Key
    amount: Annotated[Count, Field(description="0 for a boolean, which is switched on.")] = 0


class WithdrawBody(Body):
    """An override or a grant that ends now."""

    id: ExceptionId
    reason: Annotated[Line, Field(description="Kept in the log for ever: no personal data.")]


class CheckBody(Body):
    """What somebody wants to use."""

    feature: Key
    used: Annotated[Count, Field(description="Of a limit: how much there is already. What is metered, we count.")] = 0
    want: Annotated[Count, Field(description="How much more.")] = 1


class CheckView(BaseModel):
    """Whether it may be used. limit: a limit or quota; null where there is no bound."""

    allowed: bool
    reason: Reason
    limit: int | None
    remaining: Annotated[int | None, Field(description="What is left of the limit before `want`.")]
    used: int
    used_from: Annotated[
        Literal["caller", "usage"],
        Field(description="`usage`: what billing has counted in the window that is open now."),
    ]


class OverrideView(BaseModel):
    """A feature that counts instead of the plan's while it is valid."""

    id: OverrideId
    feature: Feature
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: str


class GrantView(BaseModel):
    """What is added to a feature while it is valid."""

    id: GrantId
    feature: str
    amount: int
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: str


class EntitlementsView(BaseModel):
    """What the tenant may use, and whether it may at all."""

    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: PlanRef
    tier: str
    placement: Preset
    features: Annotated[list[Feature], Field(description="In force: the plan's, with overrides and grants.")]
    allows_access: bool
    entitlements_hash: Digest
    set_revision: Annotated[int, Field(description="Counts the sets of this tenant.")]
    plan_features: Annotated[list[Feature], Field(description="What the plan alone gives.")]
    overrides: list[OverrideView]
    grants: list[GrantView]
    changes_at: Annotated[Timestamp | None, Field(description="When time alone changes the set next.")]

    @classmethod
    def of(cls, held: Entitlements) -> Self:
        """What is shown of `held`."""
        return cls(
            tenant_id=held.id,
            subscription_id=held.subscription_id,
            plan=held.plan,
            tier=held.tier,
            placement=held.placement,
            features=list(held.features),
            allows_access=held.allows_access,
            entitlements_hash=held.entitlements_hash,
            set_revision=held.set_revision,
            plan_features=list(held.features_of_plan),
            overrides=[
                OverrideView(
                    id=each.id,
                    feature=each.feature,
                    valid_from=each.valid_from,
                    valid_until=each.valid_until,
                    reason=each.reason,
                )
                for each in held.overrides
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
                for each in held.grants
            ],
            changes_at=held.due,
        )


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1/tenants/{tenant_id}/entitlements", tags=["entitlements"])

    async def held_by(tenant_id: str) -> Entitlements | None:
        """Raises UnknownTenantError."""
        held = await found(edge, ENTITLEMENTS, tenant_id)
        if held is None:
            await account_of(edge, tenant_id)
        return held

    async def act(who: Caller, tenant_id: str, verb: str, decision: Decision) -> EntitlementsView:
        await held_by(tenant_id)

        def decide(unit: Unit, at: Moment) -> EntitlementsView:
            unit.record(ENTITLEMENTS, tenant_id, decision(unit.get(ENTITLEMENTS, tenant_id), unit, at))
            return EntitlementsView.of(entitlements.existing(unit.get(ENTITLEMENTS, tenant_id)))

        return await edge.decide(
            who.origin,
            decide,
            writes=[ENTITLEMENTS.key(tenant_id)],
            reads=[CATALOGUES.key(catalogue.CATALOGUE)],
            verb=verb,
            target=tenant_id,
            idempotency=who.idempotency,
            answer=EntitlementsView,
        )

    @routes.get("")
    async def show_entitlements(tenant_id: TenantId, _: Reader) -> EntitlementsView:
        """What a tenant may use now."""
        return EntitlementsView.of(entitlements.existing(await held_by(tenant_id)))

    @routes.post("/check")
    async def check_feature(tenant_id: TenantId, body: CheckBody, _: Reader) -> CheckView:
        """Whether a tenant may use so much more of a feature now. Nothing is reserved and nothing is counted."""
        held = await held_by(tenant_id)
        used = body.used
        metered = [f for f in held.features if isinstance(f, MeteredFeature) and f.key == body.feature] if held else []
        for feature in metered:
            used = usage.used_now(await found(edge, METERS, usage.meter_id(tenant_id, feature.meter)), edge.now())
        answer = check(held, body.feature, used=used, requested=body.want)
        return CheckView(
            allowed=answer.allowed,
            reason=answer.reason,
            limit=answer.limit,
            remaining=answer.remaining,
            used=used,
            used_from="usage" if metered else "caller",
        )

    @routes.post("/overrides", status_code=status.HTTP_201_CREATED)
    async def override(tenant_id: TenantId, body: OverrideBody, who: Writer) -> EntitlementsView:
        """Give a tenant a feature other than its plan's, now or for a time to come.

        Of several overrides of a feature, the one that began last counts. Refused with `nothing_entitled`,
        `invalid_validity`, `other_kind_of_feature`, `undeclared_meter`, `too_many_overrides`.
        """
        override_id = f"ovr_{uuid4().hex}"

        def decision(held: Entitlements | None, unit: Unit, at: Moment) -> list[EntitlementsEvent]:
            known = unit.get(CATALOGUES, catalogue.CATALOGUE)
            return entitlements.override(
                held,
                override_id=override_id,
                feature=to_feature(body.feature),
                valid_from=body.valid_from or at.now,
                valid_until=body.valid_until,
                reason=body.reason,
                meters=catalogue.meters(known) if known is not None else (),
                now=at.now,
            )

        return await act(who, tenant_id, "override_entitlement", decision)

    @routes.post("/grants", status_code=status.HTTP_201_CREATED)
    async def grant(tenant_id: TenantId, body: GrantBody, who: Writer) -> EntitlementsView:
        """Give a tenant more of a feature, now or for a time to come; grants add up.

        Refused with `nothing_entitled`, `invalid_validity`, `not_grantable`, `too_many_overrides`.
        """
        grant_id = f"grt_{uuid4().hex}"

        def decision(held: Entitlements | None, _: Unit, at: Moment) -> list[EntitlementsEvent]:
            return entitlements.grant(
                held,
                grant_id=grant_id,
                feature=body.feature,
                amount=body.amount,
                valid_from=body.valid_from or at.now,
                valid_until=body.valid_until,
                reason=body.reason,
                now=at.now,
            )

        return await act(who, tenant_id, "grant_entitlement", decision)

    @routes.post("/withdraw")
    async def withdraw(tenant_id: TenantId, body: WithdrawBody, who: Writer) -> EntitlementsView:
        """End an override or a grant now. Refused with `no_such_override_or_grant` when it is over already."""

        def decision(held: Entitlements | None, _: Unit, at: Moment) -> list[EntitlementsEvent]:
            return entitlements.withdraw(held, body.id, body.reason, at.now)

        return await act(who, tenant_id, "withdraw_entitlement", decision)

    return routes
