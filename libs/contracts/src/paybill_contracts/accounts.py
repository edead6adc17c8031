"""Events of billing about accounts after sign-up: their checkouts, and what remains when a tenant leaves."""

from enum import StrEnum

from paybill_contracts.changes import PendingEnvironment
from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.values import Digest, Key, ProviderId, TenantId, Timestamp, Url


class CheckoutOpened(Event, type="billing.checkout_opened", version=1, aggregate="account", key="tenant_id"):
    """The customer can pay at `checkout_url`, which replaces the checkout before.

    is_return: a subscription of the tenant ended, and it can return at this checkout.
    """

    tenant_id: TenantId
    provider: Key
    checkout: ProviderId
    checkout_url: Url
    is_return: bool = False


class CheckoutExpired(Event, type="billing.checkout_expired", version=1, aggregate="account", key="tenant_id"):
    """The checkout can no longer be used; another one can be requested."""

    tenant_id: TenantId
    provider: Key
    checkout: ProviderId


class LeftoverAction(StrEnum):
    """Policy for what can still charge the customer of a tenant that left."""

    CANCEL = "cancel"
    REPORT = "report"


class LeftoverKind(StrEnum):
    """Kind of an object at the provider that can charge a customer.

    SCHEDULE: has not started its subscription. INVOICE_ITEM: waits for the next invoice.
    """

    SUBSCRIPTION = "subscription"
    SCHEDULE = "schedule"
    CHECKOUT = "checkout"
    INVOICE_ITEM = "invoice_item"


class DebtChanged(Event, type="billing.debt_changed", version=1, aggregate="account", key="tenant_id"):
    """The customer owes these amounts at the provider, one for each currency: invoices that could not be collected.

    They stay owed after their subscription has ended. Empty when all of them are paid or void.
    """

    tenant_id: TenantId
    provider: Key
    debt: tuple[Money, ...]


class PendingEnvironmentNoted(
    Event, type="billing.pending_environment_noted", version=1, aggregate="account", key="tenant_id"
):
    """Billing knows whether the tenant's environment has followed its plan; quotes show it. pending: None if it has."""

    tenant_id: TenantId
    pending: PendingEnvironment | None


class TrialClaimed(Event, type="billing.trial_claimed", version=1, aggregate="trial", key="trial_id"):
    """This tenant may have the trial of a plan, once for each customer until `until`.

    trial_id: digest of the customer's contact digest and the plan.
    """

    trial_id: Digest
    tenant_id: TenantId
    plan: Key
    until: Timestamp


class TrialReleased(Event, type="billing.trial_released", version=1, aggregate="trial", key="trial_id"):
    """The sign-up was abandoned before its trial began: the customer may have the trial later."""

    trial_id: Digest
    tenant_id: TenantId


class AccountClosed(Event, type="billing.account_closed", version=1, aggregate="account", key="tenant_id"):
    """The tenant left because its last subscription ended. What remains at the provider is found next.

    customer: None when the account was never open.
    """

    tenant_id: TenantId
    provider: Key
    customer: ProviderId | None


class AccountReopened(Event, type="billing.account_reopened", version=1, aggregate="account", key="tenant_id"):
    """The tenant returned: subscriptions of its customer count again."""

    tenant_id: TenantId


class LeftoverFound(Event, type="billing.leftover_found", version=1, aggregate="account", key="tenant_id"):
    """Something can still charge the customer of a tenant that left. action: it is cancelled, or reported.

    subscription: the provider's id of the object of this kind.
    """

    tenant_id: TenantId
    provider: Key
    customer: ProviderId
    subscription: ProviderId
    action: LeftoverAction
    kind: LeftoverKind = LeftoverKind.SUBSCRIPTION


class LeftoverEnded(Event, type="billing.leftover_ended", version=1, aggregate="account", key="tenant_id"):
    """A leftover can no longer charge: it ended, or is gone from the provider.

    subscription: the provider's id of the object of this kind.
    """

    tenant_id: TenantId
    provider: Key
    subscription: ProviderId
    kind: LeftoverKind = LeftoverKind.SUBSCRIPTION
