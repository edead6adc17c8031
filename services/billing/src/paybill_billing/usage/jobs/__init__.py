"""Background jobs of usage: closing of windows, reports to the providers, and the publishers at the start."""

from paybill_billing.usage.jobs.closing import CUTOFF_DUE as CUTOFF_DUE
from paybill_billing.usage.jobs.closing import WINDOWS_DUE as WINDOWS_DUE
from paybill_billing.usage.jobs.closing import WindowCloser as WindowCloser
from paybill_billing.usage.jobs.reports import JOBS as JOBS
from paybill_billing.usage.jobs.reports import configure_publishers as configure_publishers
