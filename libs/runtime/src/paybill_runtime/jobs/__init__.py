"""Background jobs: effects and timers.

Guarantees: an effect runs at least once after its fact is committed, never inside a transaction, in the order of its
tenant's facts, and with the fact's id as idempotency key; its outcome is recorded only while the lease of the partition
is held; a timer fires once.
"""

from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused, RetryAfter, Timer

__all__ = ["Job", "JobRegistry", "Outcome", "Refused", "RetryAfter", "Timer"]
