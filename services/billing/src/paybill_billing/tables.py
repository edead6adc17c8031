"""All aggregates and tables of the service, merged from its contexts."""

from paybill_billing import incidents
from paybill_billing.catalogue import tables as catalogue
from paybill_billing.database import Base
from paybill_billing.entitlements import tables as entitlements
from paybill_billing.licences import tables as licences
from paybill_billing.providers import tables as providers
from paybill_billing.providers.manual import tables as manual
from paybill_billing.reconciliation import tables as reconciliation
from paybill_billing.statements import tables as statements
from paybill_billing.subscriptions import tables as subscriptions
from paybill_billing.usage import tables as usage
from paybill_billing.webhooks import tables as webhooks

STATES = (
    *catalogue.STATES,
    *providers.STATES,
    *manual.STATES,
    *subscriptions.STATES,
    *entitlements.STATES,
    *usage.STATES,
    *statements.STATES,
    *webhooks.STATES,
    *licences.STATES,
    *reconciliation.STATES,
    *incidents.STATES,
)
OTHER_TABLES = (webhooks.WEBHOOKS, webhooks.REFUSED_WEBHOOKS, webhooks.DISMISSED_OBJECTS, reconciliation.LISTED_OBJECTS)
"""Tables that hold no aggregates; a replay does not rebuild them."""
METADATA = Base.metadata
"""All of these tables, for Alembic."""
