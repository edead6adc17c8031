"""Background jobs of accounts, subscription changes and plan migrations."""

from paybill_runtime.jobs.effects import JobRegistry

from paybill_billing.subscriptions.jobs import accounts
from paybill_billing.subscriptions.jobs.changes import ChangeEffects
from paybill_billing.subscriptions.jobs.usage_reports import ReportUsage, UnreportedUsage


def jobs(report_usage: ReportUsage, unreported_usage: UnreportedUsage) -> JobRegistry:
    """Returns the effects of the context. report_usage: before the provider ends or changes a subscription.

    unreported_usage: for its quote.
    """
    cancellation, changes = accounts.CancellationEffect(report_usage), ChangeEffects(report_usage, unreported_usage)
    return JobRegistry(accounts.JOBS, cancellation.jobs(), changes.jobs())
