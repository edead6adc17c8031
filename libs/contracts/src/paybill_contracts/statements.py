"""Events about the statement of a customer: money and usage, as the invoices of its provider show them."""

from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Key, ProviderId, TenantId, Timestamp


class UsageDifference(Value):
    """Usage of a meter that differs on its final invoice, or is on none. meter: the provider's name for it."""

    meter: ProviderId
    period_start: Timestamp
    period_end: Timestamp
    reported: Count
    invoiced: Count
    invoice: ProviderId | None


class StatementChanged(Event, type="billing.statement_changed", version=1, aggregate="statement", key="tenant_id"):
    """The statement of a tenant's customer changed at the provider. Each amount is a sum, one for each currency.

    received: payments of invoices. returned: refunds and lost disputes of these. credit: given by invoices, and not
    used up by later ones. usage: where the invoices of the last 100 days differ from what was reported. unpaid_credit:
    given by invoices of the last 100 days for time of a period that was not paid.
    """

    tenant_id: TenantId
    provider: Key
    received: tuple[Money, ...]
    returned: tuple[Money, ...]
    credit: tuple[Money, ...]
    usage: tuple[UsageDifference, ...]
    unpaid_credit: tuple[Money, ...] = ()
