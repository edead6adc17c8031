"""Background jobs of webhooks: the worker and the sync of one provider object."""

from paybill_billing.webhooks.jobs.worker import WebhookWorker as WebhookWorker
