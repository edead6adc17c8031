"""Background jobs in one queue: effects, timers, retries, and the kinds that a service declares.

Guarantees: a job is required in the transaction that makes it necessary; no two jobs work on one resource at a time; a
job of the class SECURITY waits for no other class; an effect runs at least once after its fact is committed, never
inside a transaction, in the order of its tenant's facts on a resource, and with the fact's id as idempotency key; its
outcome is recorded only while the lease of the partition is held; a timer fires once.
"""

from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused, Timer
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, Limit, RetryAfter

__all__ = ["ClaimedJob", "Job", "JobRegistry", "Kind", "Limit", "Outcome", "Refused", "RetryAfter", "Timer"]
