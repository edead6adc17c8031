"""Queue of provider objects that must be fetched: one job for each, whose key is the object."""

from collections.abc import Sequence
from datetime import datetime

from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.job_rows import (
    JobRequest,
    Priority,
    request_job,
    request_jobs,
    wake_requests,
)
from paybill_runtime.jobs.kinds import Limit

LEASE = "webhooks"
"""Lease of the process that calls the providers: several together would exceed their rate limits."""

CONCURRENCY = 8
"""Syncs of one provider at once: one that does not answer leaves the other slots to other jobs."""
EFFECTS = Limit("effects", CONCURRENCY, per="provider")
"""Effects that call one provider at once."""
NO_ACCOUNT = "no account has this customer"
"""The error of a job that waits until the account of its customer is open. Its detail is the customer."""

CUSTOMER = "customer"
"""Kind of the target for what can charge a customer without a subscription."""

_KIND = "sync/"
KINDS = f"{_KIND}%"
"""Pattern of the kinds."""


def kind_of(provider: str) -> str:
    """Returns the kind of the jobs that fetch objects of a provider."""
    return f"{_KIND}{provider}"


def provider_of(kind: str) -> str:
    """Returns the provider of a kind of jobs."""
    return kind.removeprefix(_KIND)


def enqueue_received(messages: str) -> str:
    """Returns the statement that queues the targets of stored messages.

    messages: a table with provider, target, customer, received_at, quarantine. A further message of a customer without
    an account does not make its job due: the account will. The order of the names prevents deadlocks.
    """
    rows = (
        f"SELECT {_columns(Priority.INTERACTIVE)}, max(received_at) AS due, "  # noqa: S608  # our own text
        f"count(*) AS requests, max(customer) AS detail FROM {messages} "
        "WHERE target IS NOT NULL AND quarantine IS NULL GROUP BY provider, target ORDER BY provider, target"
    )
    change = (
        f"due = CASE WHEN j.error = '{NO_ACCOUNT}' THEN j.due ELSE excluded.due END, "
        "priority = least(j.priority, excluded.priority)"
    )
    return request_jobs(rows, change, detail=True)


def _columns(priority: Priority) -> str:
    """Returns the columns of jobs for rows with provider and target."""
    return (
        f"'{_KIND}' || provider AS kind, target AS key, '{_KIND}' || provider || '/' || target AS queue, "
        f"'{LEASE}'::text AS lease, {int(priority)}::smallint AS priority"
    )


def enqueue_sync(provider: str, target: str, now: datetime, statement: Statement) -> None:
    """Queues an object in the transaction of the statement."""
    kind = kind_of(provider)
    request_job(statement, JobRequest(kind, target, LEASE, now, queue=f"{kind}/{target}"))


def enqueue_overdue(subscriptions: str, now: datetime, statement: Statement) -> None:
    """Queues subscriptions behind those that webhooks name; one that is queued keeps its time.

    subscriptions: a query for the provider and the target.
    """
    at = statement.value(now)
    rows = (
        f"SELECT {_columns(Priority.BULK)}, {at}::timestamptz AS due "  # noqa: S608  # our own text
        f"FROM ({subscriptions}) AS s ORDER BY kind, key"
    )
    statement.add(request_jobs(rows, ""))
    statement.wake_owner(LEASE)


def account_opened(
    provider: str, customer: str, now: datetime, statement: Statement, without: Sequence[str] = ()
) -> None:
    """Makes the objects of a customer due whose account is open now. without: those that the statement queues."""
    wake_requests(statement, kind_of(provider), LEASE, customer, now, without)
