"""Checks at a provider as jobs: bounded attempts, and an incident from the last one until a retry succeeds."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from paybill_contracts.envelope import Origin
from paybill_contracts.incidents import Evidence, Finding
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, RetryAfter

from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.port import MalformedObjectError, ProviderRefusedError, ProviderUnavailableError

MAX_ATTEMPTS = 8
"""Attempts to fetch objects that the provider refuses, or that are malformed."""


class GivenUpError(Exception):
    """Raised when the last attempt of a check was refused. The message is the reason."""


@contextmanager
def attempt(job: ClaimedJob) -> Iterator[None]:
    """Translates a provider's errors. Raises RetryAfter, AttemptFailedError, and GivenUpError at the last attempt."""
    try:
        yield
    except ProviderUnavailableError as error:
        raise RetryAfter(error.after_s, str(error)) from error
    except (ProviderRefusedError, MalformedObjectError) as error:
        reason = f"{type(error).__name__}: {error}"[:400]
        if job.attempts + 1 < MAX_ATTEMPTS:
            raise AttemptFailedError(reason) from error
        raise GivenUpError(reason) from error


async def give_up(
    context: ServiceContext,
    job: ClaimedJob,
    error: GivenUpError,
    *,
    kind: str,
    subject: str,
    summary: str,
    tenant_id: str | None,
) -> None:
    """Ends the job as failed, with an incident of this kind: its result is unknown until it is retried."""
    reason = str(error)
    finding = Finding(
        kind=kind,
        subject=subject,
        summary=summary,
        evidence=(Evidence(name="reason", value=single_line(reason)),),
        tenant_id=tenant_id,
        command=f"paybill jobs retry {job.id}",
    )
    await context.decide(
        origin_of(job),
        lambda unit, at: INCIDENTS.open(unit, finding, at.now),
        writes=[INCIDENTS.key_of(kind, subject)],
        extra_statements=lambda statement: job.fail(statement, reason),
        leases=job.leases,
    )


def close_unknown(unit: UnitOfWork, kind: str, subject: str, reason: str, now: datetime) -> bool:
    """Closes the incident of `give_up`, if it is open; returns whether it was: then its failed job is obsolete."""
    known = unit.get(INCIDENTS, INCIDENTS.key_of(kind, subject).id)
    INCIDENTS.close(unit, kind, subject, reason, now)
    return known is not None and known.status == "open"


def origin_of(job: ClaimedJob) -> Origin:
    """Returns the origin of what a check records."""
    cause = f"job:{job.kind}/{job.key}"
    return Origin(cause, cause, "service:billing", "")
