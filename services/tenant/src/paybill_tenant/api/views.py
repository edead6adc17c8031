"""Bodies of requests and views of tenants."""

from enum import StrEnum
from typing import Annotated, Self, assert_never

from paybill_contracts.catalogue import Interval
from paybill_contracts.inputs import Email, PlainText
from paybill_contracts.money import Money
from paybill_contracts.purchases import Coupon, Currency, PurchaseTerms, Quantity
from paybill_contracts.tenant import HoldOrigin, SuspensionMode
from paybill_contracts.values import Key, ProviderId, Slug, TenantId, Timestamp
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paybill_tenant.domain.invariants import waiting
from paybill_tenant.domain.signup_options import SignupQuote
from paybill_tenant.domain.tenants import Status, Tenant

Reason = Annotated[
    PlainText, Field(description="Shown to operators and kept in the log permanently: no personal data.")
]

ListPosition = Annotated[str, StringConstraints(max_length=80, pattern=r"^[a-z][a-z0-9-]{0,39}(~ten_[0-9a-f]{32})?$")]
"""A tenant's place in the order of slugs; that of an abandoned sign-up, whose slug is free, has its id behind it."""


class Body(BaseModel):
    """Request body; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestBody(Body):
    """Request for a new tenant."""

    slug: Annotated[Slug, Field(description="The name in URLs and database roles; permanently unique.")]
    name: Annotated[PlainText, Field(description="The organisation's name, for people.", examples=["Acme"])]
    plan: Annotated[Key, Field(description="A plan of the published catalogue.")]
    region: Annotated[Key, Field(description="A region of the published blueprint.", examples=["eu-1"])]
    contact_email: Annotated[
        Email,
        Field(description="Contact address for billing. Encrypted before it is stored; never shown."),
    ]
    payment: Annotated[
        Key | None,
        Field(description="The billing provider for payments; billing's default if null.", examples=["manual"]),
    ] = None
    customer: Annotated[
        ProviderId | None,
        Field(description="An existing customer of this provider; a new one if null.", examples=["cus_Q1"]),
    ] = None
    interval: Annotated[Interval | None, Field(description="Of the price; of the first that fits if null.")] = None
    currency: Annotated[Currency | None, Field(description="Of the price; of the first that fits if null.")] = None
    quantity: Quantity = 1
    coupon: Annotated[Coupon | None, Field(description="A promotion code, or the id of a coupon at the provider.")] = (
        None
    )

    @property
    def terms(self) -> PurchaseTerms:
        """Terms of the purchase."""
        return PurchaseTerms(interval=self.interval, currency=self.currency, quantity=self.quantity, coupon=self.coupon)


class SuspendBody(Body):
    """Mode and reason of a suspension."""

    mode: Annotated[SuspensionMode, Field(description="`read_only`, or `blocked`: no access at all.")]
    reason: Reason


class ResumeBody(Body):
    """The hold to lift."""

    reason: Annotated[
        PlainText | None, Field(description="Lifts only the hold with this reason; all of them if null.")
    ] = None


class LegalHoldBody(Body):
    """The case of a legal hold."""

    case: Annotated[
        PlainText,
        Field(
            description="Reference of the case, kept in the log permanently: no personal data.", examples=["2026-17"]
        ),
    ]


class QuarantineBody(Body):
    """Reason for a quarantine."""

    reason: Reason


class OffboardBody(Body):
    """Reason for offboarding."""

    reason: Reason


class HoldView(BaseModel):
    """A reason for suspension; only its origin lifts it. A tenant can have several of operators."""

    origin: HoldOrigin
    mode: SuspensionMode
    reason: str


class EnvironmentView(BaseModel):
    """The tenant's environment. `epoch` counts its placements, and is null until the first is ready."""

    id: str
    epoch: int | None


class OverageView(BaseModel):
    """Price of usage of a metered feature beyond what is included, for each `units` units."""

    feature: str
    amount: Money
    units: int


class QuoteView(BaseModel):
    """The price that a sign-up would have; null for an existing customer, and while it is not published."""

    unit_price: Money | None
    interval: Interval | None
    quantity: int
    total: Annotated[Money | None, Field(description="Of a whole period, without the discount of the coupon.")]
    trial_days: int | None
    had_trial: Annotated[bool, Field(description="The plan has a trial, and another tenant of the customer had it.")]
    coupon: Annotated[str | None, Field(description="Not checked: the provider knows it.")]
    overage: list[OverageView]

    @classmethod
    def of(cls, quote: SignupQuote | None, terms: PurchaseTerms) -> Self:
        """Builds the view of `quote`."""
        return cls(
            unit_price=quote.price.amount if quote else None,
            interval=quote.price.interval if quote else None,
            quantity=terms.quantity,
            total=quote.total if quote else None,
            trial_days=quote.trial_days if quote else None,
            had_trial=quote is not None and quote.had_trial,
            coupon=terms.coupon,
            overage=[
                OverageView(feature=each.feature, amount=each.amount, units=each.units)
                for each in (quote.overage if quote else ())
            ],
        )


class BillingAccess(StrEnum):
    """Access that billing gives a tenant. PENDING: no subscription has given access yet."""

    PENDING = "pending"
    ENTITLED = "entitled"
    NOT_ENTITLED = "not_entitled"


class BillingView(BaseModel):
    """The last that billing published about a tenant; its own API has more."""

    access: BillingAccess
    plan: Annotated[str, Field(description="The current plan; before the first subscription the requested one.")]

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """Builds the view from the entitlement of `tenant`."""
        entitlement = tenant.entitlement
        if entitlement is None:
            return cls(access=BillingAccess.PENDING, plan=tenant.plan)
        access = BillingAccess.ENTITLED if entitlement.allows_access else BillingAccess.NOT_ENTITLED
        return cls(access=access, plan=entitlement.plan)


class Infrastructure(StrEnum):
    """State of a tenant's environment, as the provisioner last published it."""

    NONE = "none"
    BUILDING = "building"
    FAILED = "failed"
    READY = "ready"
    EXPORTING = "exporting"
    RETAINED = "retained"
    RESTORING = "restoring"
    CHANGING = "changing"
    PURGING = "purging"
    PURGED = "purged"


def infrastructure(tenant: Tenant) -> Infrastructure:
    """Returns the state of the tenant's environment. A built one stays `ready` while access is suspended."""
    match tenant.status:
        case Status.REQUESTED | Status.CANCELLED:
            return Infrastructure.NONE
        case Status.AWAITING_APPROVAL:
            return Infrastructure.RETAINED if tenant.has_left else Infrastructure.NONE
        case Status.PROVISIONING:
            return Infrastructure.BUILDING
        case Status.PROVISION_FAILED:
            return Infrastructure.FAILED
        case Status.ACTIVE | Status.SUSPENDED | Status.QUARANTINED:
            return Infrastructure.READY
        case Status.CHANGING:
            return Infrastructure.CHANGING
        case Status.OFFBOARDING:
            return Infrastructure.EXPORTING
        case Status.RETAINED:
            return Infrastructure.RETAINED
        case Status.RETURNING:
            return Infrastructure.RESTORING
        case Status.PURGING:
            return Infrastructure.PURGING
        case Status.PURGED:
            return Infrastructure.PURGED
        case _:
            assert_never(tenant.status)


class Links(BaseModel):
    """Related resources."""

    self: str


class TenantView(BaseModel):
    """A tenant and its status. Its contact address is not shown: it is encrypted in the log."""

    id: TenantId
    slug: Slug
    name: str
    status: Status
    plan: Annotated[str, Field(description="The plan requested at sign-up; `billing` has the current one.")]
    region: str
    holds: Annotated[list[HoldView], Field(description="In force now, or as soon as the environment is ready.")]
    billing: BillingView
    infrastructure: Infrastructure
    environment: EnvironmentView | None
    failure: Annotated[str | None, Field(description="Reason why the environment could not be built.")]
    retain_until: Annotated[
        Timestamp | None, Field(description="Data is kept at least until then; null until the tenant leaves.")
    ]
    offboards_at: Annotated[
        Timestamp | None,
        Field(description="Offboarding begins then, unless a subscription gives access before; null if none ended."),
    ]
    legal_holds: Annotated[
        list[str],
        Field(description="Cases for which the data is kept: no verb that leads to its deletion is accepted."),
    ]
    waits_for: Annotated[str | None, Field(description="What ends the status; null in a resting one.")]
    approval: Annotated[str | None, Field(description="Id of the approval that it waits for.")]
    debt: Annotated[list[Money], Field(description="What the customer owes at the provider, by currency.")]
    requested_at: Annotated[Timestamp | None, Field(description="Null when an earlier version recorded the request.")]
    links: Links

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """Builds the view of `tenant`."""
        environment, wait = tenant.environment_id, waiting(tenant)
        return cls(
            id=tenant.id,
            slug=tenant.slug,
            name=tenant.name,
            status=tenant.status,
            plan=tenant.plan,
            region=tenant.region,
            holds=[HoldView(origin=hold.origin, mode=hold.mode, reason=hold.reason) for hold in tenant.all_holds],
            billing=BillingView.of(tenant),
            infrastructure=infrastructure(tenant),
            environment=None if environment is None else EnvironmentView(id=environment, epoch=tenant.epoch),
            failure=tenant.failure,
            retain_until=tenant.retain_until,
            offboards_at=tenant.scheduled.at if tenant.scheduled is not None else None,
            legal_holds=list(tenant.legal_holds),
            waits_for=wait.reason if wait else None,
            approval=tenant.awaits.id if tenant.awaits else None,
            debt=list(tenant.debt),
            requested_at=tenant.requested_at,
            links=Links(self=f"/v1/tenants/{tenant.id}"),
        )


class TenantPage(BaseModel):
    """Tenants in the order of their slugs."""

    tenants: list[TenantView]
    next: Annotated[ListPosition | None, Field(description="Send it as `after` for the next page; null on the last.")]
