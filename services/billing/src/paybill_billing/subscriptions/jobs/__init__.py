"""Background jobs of accounts, subscription changes and plan migrations."""

from paybill_runtime.jobs.effects import JobRegistry

from paybill_billing.subscriptions.jobs import accounts
from paybill_billing.subscriptions.jobs.changes import ChangeEffects, ReportUsage


def jobs(report_usage: ReportUsage) -> JobRegistry:
    """Returns the effects of the context. report_usage: as of ChangeEffects."""
    return JobRegistry(accounts.JOBS, ChangeEffects(report_usage).jobs())
