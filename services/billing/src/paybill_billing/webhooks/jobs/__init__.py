"""Background jobs of webhooks: the sync of provider objects, and the cleanup of stored messages."""

from paybill_billing.webhooks.jobs.sync import ProviderSync as ProviderSync
from paybill_billing.webhooks.jobs.sync import cleanup as cleanup
