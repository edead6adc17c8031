"""Accounts of tenants at their billing provider, from sign-up to offboarding."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from paybill_contracts.accounts import (
    AccountClosed,
    AccountReopened,
    CheckoutExpired,
    CheckoutOpened,
    DebtChanged,
    LeftoverEnded,
    LeftoverFound,
    LeftoverKind,
    PendingEnvironmentNoted,
)
from paybill_contracts.billing import (
    AccessState,
    AccountAdopted,
    AccountFailed,
    AccountOpened,
    AccountRegistered,
    CancellationRequested,
    Subscription,
)
from paybill_contracts.catalogue import PlanVersion
from paybill_contracts.changes import PendingEnvironment
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.money import Money
from paybill_contracts.personal import Personal
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_contracts.purchases import FIRST_PRICE, PurchaseTerms, named_prices, price_for
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted, ReturnRuledOut, TenantCancelled, TenantRequested

from paybill_billing.catalogue.domain.catalogue import Catalogue, on_sale
from paybill_billing.providers.domain import Choice, choose
from paybill_billing.providers.port.snapshots import OpenedAccount, OpenedCheckout, PendingCharge

AccountEvent = (
    AccountRegistered
    | AccountOpened
    | AccountAdopted
    | AccountFailed
    | CheckoutOpened
    | CheckoutExpired
    | CancellationRequested
    | AccountClosed
    | AccountReopened
    | LeftoverFound
    | LeftoverEnded
    | DebtChanged
    | PendingEnvironmentNoted
)


class UnknownTenantError(NotFoundError):
    code = "unknown_tenant"


class AccountOrderError(DomainError):
    """Raised when an event precedes the registration of its account."""

    code = "account_order"


class NoCheckoutError(ConflictError):
    """The tenant cannot pay at a checkout: its account is not open, it leaves, or it has a subscription."""

    code = "no_checkout"


class NoSuchPriceError(DomainError):
    """The plan has no price with the interval and currency that the sign-up chose."""

    code = "no_such_price"


class Status(StrEnum):
    """The status of an account at its provider."""

    OPENING = "opening"
    OPEN = "open"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant as a customer of a billing provider.

    adopts: the provider's customer that existed before the tenant. leaving: the tenant is offboarding, and all that
    it has at the provider is cancelled. checkout_url: None also after the checkout expired. closed: the tenant left
    because its last subscription ended. leftovers: subscriptions at the provider that can charge although it left.
    has_trial: False when the customer has had the plan's trial. debt: what the customer owes, by currency.
    environment: a change of plan that the tenant's environment has not followed. charges: the leftovers that are no
    subscriptions. return_checkout: opened after a subscription ended, so that the tenant can return. abandoned: the
    sign-up was not paid in time.
    """

    id: str
    name: str
    contact_email: Personal[str]
    plan: str
    plan_version: int
    provider: str
    retention_s: int
    status: Status = Status.OPENING
    customer: str | None = None
    checkout: str | None = None
    checkout_url: str | None = None
    failure: str | None = None
    leaving: bool = False
    adopts: str | None = None
    closed: bool = False
    leftovers: tuple[str, ...] = ()
    has_trial: bool = True
    trial_id: str | None = None
    debt: tuple[Money, ...] = ()
    terms: PurchaseTerms | None = None
    environment: PendingEnvironment | None = None
    charges: tuple[PendingCharge, ...] = ()
    return_checkout: str | None = None
    abandoned: bool = False

    @property
    def is_gone(self) -> bool:
        """True when the tenant left, or is leaving."""
        return self.leaving or self.closed


def on_tenant_requested(
    account: Account | None,
    catalogue: Catalogue,
    providers: Choice,
    event: TenantRequested,
    *,
    has_trial: bool = True,
    trial_id: str | None = None,
) -> list[AccountEvent]:
    """Registers an account at the provider that the tenant chose.

    has_trial, trial_id: whether the customer may have the plan's trial, and its id. Raises UnknownPlanError,
    NoSuchPriceError, UnknownProviderError.
    """
    if account is not None:
        return []
    plan = on_sale(catalogue, event.plan)
    if event.terms is not None and price_for(plan.prices, event.terms) is None:
        raise NoSuchPriceError(f"{plan.plan}@{plan.version} has no such price; its prices: {named_prices(plan.prices)}")
    return [
        AccountRegistered(
            tenant_id=event.tenant_id,
            name=event.name,
            contact_email=event.contact_email,
            plan=plan.plan,
            plan_version=plan.version,
            provider=choose(providers, event.payment),
            retention_s=plan.retention_s,
            adopts=event.customer,
            has_trial=has_trial,
            trial_id=trial_id,
            terms=event.terms,
        )
    ]


def sold_plan(account: Account, plan: PlanVersion, *, is_first: bool = True) -> PlanVersion:
    """Returns the plan as it is sold to the account: without a trial that its customer has had.

    is_first: the account has had no subscription yet.
    """
    return plan if account.has_trial and is_first else plan.model_copy(update={"trial_days": 0})


def sold_terms(account: Account, *, is_first: bool = True) -> PurchaseTerms:
    """Returns the terms of the sign-up; its coupon is for the first subscription only."""
    terms = account.terms or FIRST_PRICE
    return terms if is_first else terms.model_copy(update={"coupon": None})


def opened(account: Account, at_provider: OpenedAccount) -> list[AccountEvent]:
    """Records the new customer. If the tenant has left meanwhile, its checkout is cancelled."""
    return _opened(
        account,
        AccountOpened(
            tenant_id=account.id,
            provider=account.provider,
            customer=at_provider.customer,
            checkout=at_provider.checkout,
            checkout_url=at_provider.checkout_url,
        ),
    )


def adopted(account: Account, customer: str) -> list[AccountEvent]:
    """Records that the tenant is this existing customer of the provider."""
    return _opened(account, AccountAdopted(tenant_id=account.id, provider=account.provider, customer=customer))


def failed(account: Account, reason: str) -> list[AccountEvent]:
    """Records that the provider refused the customer."""
    match account.status:
        case Status.OPENING:
            return [AccountFailed(tenant_id=account.id, provider=account.provider, reason=reason)]
        case Status.OPEN | Status.FAILED:
            return []
        case _:
            assert_never(account.status)


class DebtOpenError(ConflictError):
    """The customer owes for an earlier subscription, and the policy is to sell nothing more until it is paid."""

    code = "debt_open"


def debt_fetched(account: Account, unpaid: Iterable[Money]) -> list[AccountEvent]:
    """Records what the customer owes, if it has changed. unpaid: the amounts of its invoices."""
    sums: dict[str, int] = {}
    for amount in unpaid:
        sums[amount.currency] = sums.get(amount.currency, 0) + amount.minor
    debt = tuple(Money(minor=minor, currency=currency) for currency, minor in sorted(sums.items()) if minor > 0)
    if debt == account.debt:
        return []
    return [DebtChanged(tenant_id=account.id, provider=account.provider, debt=debt)]


def require_no_debt(account: Account) -> None:
    """Raises DebtOpenError while the customer owes something."""
    if account.debt:
        owed = " and ".join(amount.text for amount in account.debt)
        raise DebtOpenError(f"the customer of {account.id} owes {owed}; it has to be paid first")


def require_checkout(account: Account, subscriptions: Iterable[Subscription]) -> str:
    """Returns the customer that may pay at a checkout. subscriptions: those of the account. Raises NoCheckoutError."""
    if account.leaving:
        raise NoCheckoutError(f"{account.id} is leaving, and all that it has at {account.provider} is cancelled")
    if account.customer is None:
        raise NoCheckoutError(account.failure or f"{account.provider} has not opened the account yet; try again later")
    held = [each for each in subscriptions if each.access not in {AccessState.ENDED, AccessState.PENDING}]
    if held:
        subscription = held[0]
        raise NoCheckoutError(
            f"{account.id} has a subscription that is {subscription.access} ({subscription.subscription_id}); its "
            "customer pays in the portal"
        )
    return account.customer


def checkout_opened(account: Account, checkout: OpenedCheckout, held: Iterable[Subscription]) -> list[AccountEvent]:
    """Records the checkout at which the customer can pay now. held: the subscriptions of the account.

    After the end of one the tenant can return at this checkout, also before its offboarding begins.
    """
    is_return = account.closed or any(each.access is AccessState.ENDED for each in held)
    is_known = (account.checkout, account.checkout_url) == (checkout.id, checkout.url)
    if is_known and (not is_return or account.return_checkout == checkout.id):
        return []
    return [
        CheckoutOpened(
            tenant_id=account.id,
            provider=account.provider,
            checkout=checkout.id,
            checkout_url=checkout.url,
            is_return=is_return,
        )
    ]


def checkout_expired(account: Account, checkout: str) -> list[AccountEvent]:
    """Records that the current checkout can no longer be used; an earlier one is ignored."""
    if account.checkout != checkout or account.checkout_url is None:
        return []
    return [CheckoutExpired(tenant_id=account.id, provider=account.provider, checkout=checkout)]


def on_tenant_leaving(
    account: Account | None, event: OffboardingStarted | TenantCancelled | ReturnRuledOut
) -> list[AccountEvent]:
    """Cancels all that the tenant has at its provider. If its last subscription has ended, finds what remains there.

    The checkout of an abandoned sign-up is closed: the slug is free, so nobody may pay for it.
    """
    if account is None or account.leaving:
        return []
    cancellation = _cancellation(account, account.customer)
    if isinstance(event, ReturnRuledOut) or event.origin is HoldOrigin.OPERATOR:
        return [cancellation]
    if isinstance(event, TenantCancelled) and event.is_abandoned:
        return [cancellation.model_copy(update={"is_abandoned": True})]
    if account.closed:
        return []
    return [AccountClosed(tenant_id=account.id, provider=account.provider, customer=account.customer)]


def on_tenant_returning(account: Account | None) -> list[AccountEvent]:
    """Counts subscriptions of the customer again."""
    return [AccountReopened(tenant_id=account.id)] if account is not None and account.closed else []


def on_environment_change(
    account: Account | None, fact: EnvironmentChangePending | EnvironmentChangeSettled
) -> list[AccountEvent]:
    """Records that the environment has not followed the plan, or that nothing is pending any more."""
    if account is None:
        return []
    match fact:
        case EnvironmentChangePending():
            pending: PendingEnvironment | None = PendingEnvironment(
                from_tier=fact.from_tier,
                from_placement=fact.from_preset,
                to_tier=fact.to_tier,
                to_placement=fact.to_preset,
                since=fact.since,
                reason=fact.reason,
                waits_for=fact.waits_for,
            )
        case EnvironmentChangeSettled():
            pending = None
        case _:
            assert_never(fact)
    return [] if pending == account.environment else [PendingEnvironmentNoted(tenant_id=account.id, pending=pending)]


def evolve(account: Account | None, event: AccountEvent) -> Account:
    """Returns the account after `event`; only `AccountRegistered` may come first."""
    if isinstance(event, AccountRegistered):
        return Account(
            id=event.tenant_id,
            name=event.name,
            contact_email=event.contact_email,
            plan=event.plan,
            plan_version=event.plan_version,
            provider=event.provider,
            retention_s=event.retention_s,
            adopts=event.adopts,
            has_trial=event.has_trial,
            trial_id=event.trial_id,
            terms=event.terms,
        )
    if account is None:
        raise AccountOrderError(f"{event.TYPE} came before the registration of the account of {event.tenant_id}")
    match event:
        case AccountOpened():
            return replace(
                account,
                status=Status.OPEN,
                customer=event.customer,
                checkout=event.checkout,
                checkout_url=event.checkout_url,
                failure=None,
            )
        case AccountAdopted():
            return replace(account, status=Status.OPEN, customer=event.customer, failure=None)
        case AccountFailed():
            return replace(account, status=Status.FAILED, failure=event.reason)
        case CheckoutOpened():
            after = replace(account, checkout=event.checkout, checkout_url=event.checkout_url)
            return replace(after, return_checkout=event.checkout) if event.is_return else after
        case CheckoutExpired():
            return replace(account, checkout_url=None)
        case CancellationRequested():
            return replace(account, leaving=True, abandoned=account.abandoned or event.is_abandoned)
        case AccountClosed():
            return replace(account, closed=True)
        case AccountReopened():
            return replace(account, closed=False)
        case LeftoverFound() | LeftoverEnded() if event.kind is not LeftoverKind.SUBSCRIPTION:
            charge = PendingCharge(event.kind, event.subscription)
            others = tuple(each for each in account.charges if each != charge)
            return replace(account, charges=(*others, charge) if isinstance(event, LeftoverFound) else others)
        case LeftoverFound():
            return replace(account, leftovers=(*account.leftovers, event.subscription))
        case DebtChanged():
            return replace(account, debt=event.debt)
        case PendingEnvironmentNoted():
            return replace(account, environment=event.pending)
        case LeftoverEnded():
            left = tuple(each for each in account.leftovers if each != event.subscription)
            return replace(account, leftovers=left)
        case _:
            assert_never(event)


def _opened(account: Account, fact: AccountOpened | AccountAdopted) -> list[AccountEvent]:
    match account.status:
        case Status.OPENING | Status.FAILED:
            return [fact, _cancellation(account, fact.customer)] if account.leaving else [fact]
        case Status.OPEN:
            return []
        case _:
            assert_never(account.status)


def _cancellation(account: Account, customer: str | None) -> CancellationRequested:
    return CancellationRequested(tenant_id=account.id, provider=account.provider, customer=customer)
