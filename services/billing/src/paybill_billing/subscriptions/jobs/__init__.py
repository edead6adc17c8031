"""Background jobs of accounts, subscription changes and plan migrations."""

from paybill_runtime.jobs.effects import JobRegistry

from paybill_billing.subscriptions.jobs import accounts, changes

JOBS = JobRegistry(accounts.JOBS, changes.JOBS)
