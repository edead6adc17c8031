"""Part of a service in the diagnosis of one tenant: its state, its pending work, and the health of the service."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paybill_contracts.event import UnknownEventError, decode, partition_of
from paybill_contracts.incidents import Incident, IncidentStatus
from paybill_contracts.invariants import Violation, ViolationStatus
from paybill_contracts.sentences import sentence
from paybill_contracts.why import (
    BillingState,
    EnvironmentState,
    OpenIncident,
    OpenJob,
    OpenViolation,
    QueuedMessage,
    RecentFact,
    ServicePart,
    TenantState,
)
from sqlalchemy import text

from paybill_runtime.database.arrays import texts
from paybill_runtime.database.leases import OWNED, partition_lease
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.http.listing import load_page
from paybill_runtime.messaging.message import INTAKE_PARTITION

MAX_ROWS = 20
MAX_FACTS = 12

_FACTS = text(
    "SELECT f.* FROM unnest(CAST(:aggregates AS text[])) AS a (name) CROSS JOIN LATERAL ("
    "SELECT event_id, subject, payload, recorded_at FROM chassis.outbox WHERE aggregate = a.name "
    "ORDER BY revision DESC LIMIT :limit) AS f ORDER BY f.recorded_at DESC LIMIT :limit"
)
_JOB = (
    "(SELECT job_id, kind, key, state, attempts, waits, error, due FROM chassis.job WHERE queue = :tenant "
    "AND state = '{state}' ORDER BY position LIMIT :limit)"
)
# A part for each state, because each has an index of its own.
_JOBS = text(f"{_JOB.format(state='failed')} UNION ALL {_JOB.format(state='pending')}")
_MESSAGES = text(
    "SELECT event_id, subject, attempts, dead, reason FROM chassis.parked "
    "WHERE partition = ANY(CAST(:partitions AS text[])::smallint[]) AND tenant = :tenant ORDER BY sequence LIMIT :limit"
)
_OUTBOX = text(
    "SELECT (SELECT count(*) FROM chassis.publication WHERE sequence IS NULL) AS waiting, "
    "coalesce((SELECT extract(epoch FROM now() - recorded_at) FROM chassis.publication JOIN chassis.outbox "
    "USING (position) WHERE sequence IS NULL ORDER BY position LIMIT 1), 0)::bigint AS age_s"
)


@dataclass(frozen=True, slots=True)
class OwnState:
    """State of one tenant at a service. aggregates: `<kind>/<id>` of the states whose facts explain it."""

    aggregates: Sequence[str] = ()
    tenant: TenantState | None = None
    account: BillingState | None = None
    environment: EnvironmentState | None = None


ReadState = Callable[[ServiceContext, str], Awaitable[OwnState]]
"""Returns what a service knows about a tenant."""


async def tenant_part(
    context: ServiceContext,
    tenant_id: str,
    own: OwnState,
    checks: dict[str, str],
    lag: int | None,
    incidents: Incidents | None,
    violations: Violations | None,
) -> ServicePart:
    """Returns the part of a service."""
    partition = partition_of(tenant_id)
    outbox = (await context.rows(_OUTBOX))[0]
    open_incidents: list[Incident] = []
    open_violations: list[Violation] = []
    if incidents is not None:
        open_incidents, _ = await load_page(
            context, incidents, None, MAX_ROWS, status=IncidentStatus.OPEN, tenant_id=tenant_id
        )
    if violations is not None:
        open_violations, _ = await load_page(
            context, violations, None, MAX_ROWS, status=ViolationStatus.OPEN, tenant_id=tenant_id
        )
    return ServicePart(
        service=context.service,
        now=context.now(),
        checks={**checks, "database": "ok"},
        outbox_waiting=outbox.waiting,
        outbox_age_s=max(outbox.age_s, 0),
        lag=lag,
        owned=(await context.rows(OWNED, {"name": partition_lease(partition)}))[0][0],
        facts=await _facts(context, own.aggregates),
        jobs=await _jobs(context, tenant_id),
        messages=await _messages(context, tenant_id, partition),
        incidents=tuple(
            OpenIncident(id=each.id, kind=each.kind, summary=each.summary, command=each.command, since=each.since)
            for each in open_incidents
        ),
        violations=tuple(
            OpenViolation(
                number=each.number, statement=each.statement, left=each.left, right=each.right, since=each.since
            )
            for each in open_violations
        ),
        tenant=own.tenant,
        account=own.account,
        environment=own.environment,
    )


async def _facts(context: ServiceContext, aggregates: Sequence[str]) -> tuple[RecentFact, ...]:
    rows = await context.rows(_FACTS, {"aggregates": list(aggregates), "limit": MAX_FACTS})
    return tuple(
        RecentFact(
            id=str(row.event_id),
            type=_type(row.subject),
            at=row.recorded_at,
            sentence=_sentence(row.subject, row.payload),
        )
        for row in reversed(rows)
    )


def _sentence(subject: str, payload: bytes) -> str:
    """Returns a fact for people; its type when a later version of the service recorded it."""
    try:
        return sentence(decode(_type(subject), int(subject.rpartition(".v")[2]), payload))
    except UnknownEventError:
        return _type(subject)


async def _jobs(context: ServiceContext, tenant_id: str) -> tuple[OpenJob, ...]:
    rows = await context.rows(_JOBS, {"tenant": tenant_id, "limit": MAX_ROWS})
    return tuple(
        OpenJob(
            id=str(row.job_id),
            kind=row.kind,
            key=row.key,
            state=row.state,
            attempts=row.attempts,
            waits=row.waits,
            error=row.error,
            due=row.due,
        )
        for row in rows
    )


async def _messages(context: ServiceContext, tenant_id: str, partition: int) -> tuple[QueuedMessage, ...]:
    values: dict[str, Any] = {
        "partitions": texts([partition, INTAKE_PARTITION]),
        "tenant": tenant_id,
        "limit": MAX_ROWS,
    }
    return tuple(
        QueuedMessage(
            id=str(row.event_id),
            type=_type(row.subject),
            attempts=row.attempts,
            dead=row.dead,
            reason=row.reason,
        )
        for row in await context.rows(_MESSAGES, values)
    )


def _type(subject: str) -> str:
    """Returns the type of a fact, `<owner>.<event>`."""
    return ".".join(subject.split(".")[-3:-1])
