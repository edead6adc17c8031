"""Events of billing about accounts after sign-up: their checkouts, and what remains when a tenant leaves."""

from paybill_contracts.event import Event
from paybill_contracts.values import Key, ProviderId, TenantId, Url


class CheckoutOpened(Event, type="billing.checkout_opened", version=1, aggregate="account", key="tenant_id"):
    """The customer can pay at `checkout_url`, which replaces the checkout before."""

    tenant_id: TenantId
    provider: Key
    checkout: ProviderId
    checkout_url: Url


class CheckoutExpired(Event, type="billing.checkout_expired", version=1, aggregate="account", key="tenant_id"):
    """The checkout can no longer be used; another one can be requested."""

    tenant_id: TenantId
    provider: Key
    checkout: ProviderId
