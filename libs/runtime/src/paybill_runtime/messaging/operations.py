"""Routes for operators: probes, backlog and lag, dead letters, quarantine and effects."""

from base64 import b64decode
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field
from sqlalchemy import text

from paybill_runtime.database.leases import UNOWNED_PARTITIONS
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.errors import DatabaseUnavailableError
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router
from paybill_runtime.jobs.routes import Limit, Reason
from paybill_runtime.messaging.key_recipients import KeyRecipients
from paybill_runtime.messaging.retry_queue import RetryQueue

_COUNTS = text(
    "SELECT (SELECT count(*) FROM chassis.publication WHERE sequence IS NULL) AS outbox_waiting, "  # noqa: S608  # only our own text
    "coalesce((SELECT extract(epoch FROM now() - recorded_at) FROM chassis.publication JOIN chassis.outbox "
    "USING (position) WHERE sequence IS NULL ORDER BY position LIMIT 1), 0) AS outbox_age_s, "
    "(SELECT count(*) FROM chassis.parked) AS parked, (SELECT count(*) FROM chassis.parked WHERE dead) AS dead, "
    "(SELECT count(*) FROM chassis.quarantine) AS quarantined, "
    f"({UNOWNED_PARTITIONS}) AS unowned, "
    "effects AS effects_pending, failing - security AS jobs_failing, security AS security_jobs_failing, "
    "(SELECT count(*) FROM chassis.job WHERE state = 'failed') AS effects_failed, "
    "(SELECT coalesce(max(sequence), 0) FROM chassis.position WHERE stream = 'EVENTS') AS read_upto "
    "FROM (SELECT count(*) FILTER (WHERE event_id IS NOT NULL) AS effects, "
    "count(*) FILTER (WHERE attempts >= :attempts) AS failing, "
    "count(*) FILTER (WHERE attempts >= :attempts AND priority = 0) AS security "
    "FROM chassis.job WHERE state = 'pending') AS pending"
)
_UNKNOWN = text(
    "SELECT kind, count(*) AS jobs FROM chassis.job WHERE state = 'pending' "
    "AND NOT kind = ANY(CAST(:kinds AS text[])) AND NOT split_part(kind, '/', 1) = ANY(CAST(:kinds AS text[])) "
    "GROUP BY kind ORDER BY kind LIMIT 20"
)
_RETRY_QUEUE = text(
    "SELECT event_id, stream, sequence, tenant, subject, attempts, dead, next_at, reason FROM chassis.parked "
    "WHERE (NOT :dead OR dead) ORDER BY sequence LIMIT :limit"
)
_QUARANTINE = text(
    "SELECT quarantine_id, publisher, subject, reason, sequence, quarantined_at FROM chassis.quarantine "
    "ORDER BY quarantined_at DESC LIMIT :limit"
)
_EFFECT = (
    "(SELECT position, event_id, kind AS work, CASE queue WHEN '-' THEN '' ELSE queue END AS tenant, attempts, state, "
    "due AS next_at, error AS reason FROM chassis.job WHERE state = '{state}' AND event_id IS NOT NULL "
    "ORDER BY position LIMIT :limit)"
)
# A part for each state, because each has an index of its own.
_EFFECTS = text(
    "SELECT event_id, work, tenant, attempts, state, next_at, reason FROM ("  # noqa: S608  # only our own text
    f"{_EFFECT.format(state='pending')} UNION ALL {_EFFECT.format(state='failed')}) AS e ORDER BY position LIMIT :limit"
)

MAX_OUTBOX_AGE_S = 30.0
"""Largest age of a fact in the outbox; publishing usually takes milliseconds."""
FAILING_ATTEMPTS = 3
"""Failed attempts after which a job that is retried counts as failing."""
DEGRADING = {"bus", "intake_stream", "loops"}
"""Checks that do not make a service unready: it still answers requests."""
Health = Callable[[], dict[str, str]]
Lag = Callable[[], Awaitable[dict[str, int | None]]]


class OperationResult(BaseModel):
    """The change of a dead letter."""

    id: UUID
    done: str


class PublicKey(BaseModel):
    """The public key of a subscriber."""

    public_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$", description="X25519, 32 bytes in base64.")]


def probes(service: str, alive: Callable[[], Awaitable[None]], health: Health) -> APIRouter:
    """Returns `/healthz` (the process runs) and `/readyz` (it can decide; DEGRADING checks do not refuse requests).

    `/readyz` writes nothing: that PostgreSQL takes writes is the result of the last test, which is one of `health`.
    """
    router = Router(tags=["probes"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"service": service, "status": "ok"}

    @router.get("/readyz", responses={503: {"content": {"application/json": {"schema": {"type": "object"}}}}})
    async def readyz(response: Response) -> dict[str, Any]:
        checks = dict(health())
        try:
            await alive()
            checks.setdefault("database", "ok")
        except DatabaseUnavailableError:
            checks["database"] = "away"
        failed = [name for name, state in checks.items() if state != "ok" and name not in DEGRADING]
        degraded = any(state != "ok" for state in checks.values())
        status = "failed" if failed else ("degraded" if degraded else "ok")
        response.status_code = 503 if failed else 200
        return {"service": service, "status": status, "checks": checks}

    return router


def operations(
    context: ServiceContext,
    retry_queue: RetryQueue,
    health: Health,
    lag: Lag,
    test_writes: Callable[[], Awaitable[dict[str, str]]],
    kinds: Collection[str],
) -> APIRouter:
    """Returns the routes below `/v1/operations`.

    test_writes: tests now which parts take a write. kinds: of the jobs that this version of the service can run.
    """
    router = Router(prefix="/v1/operations", tags=["operations"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{context.service}:read"))]
    operator = Annotated[Caller, Depends(caller(Role.OPERATOR, f"{context.service}:write"))]

    async def rows(statement: Any, **values: Any) -> list[dict[str, Any]]:  # a query and its values
        return [dict(row._mapping) for row in await context.rows(statement, values)]  # noqa: SLF001  # public in SQLAlchemy

    @router.get("")
    async def overview(_: viewer, *, deep: bool = False) -> dict[str, Any]:
        """Counts of waiting facts, effects, and jobs that fail again and again.

        With `deep`, `writes` has for each part `ok`, or why it takes no write: `database` and `intake_stream` are
        tested now by a row and a message of no meaning; `events` by the last publication and the oldest fact's age.

        `lag`: messages not handled yet, by consumer; null when unknown. `unowned`: partitions without a live owner.
        `jobs_unknown`: pending jobs of kinds that this version of the service does not have, by kind.
        """
        counts = (await rows(_COUNTS, attempts=FAILING_ATTEMPTS))[0]
        counts["outbox_age_s"] = round(float(counts["outbox_age_s"]), 1)
        unknown = {row["kind"]: row["jobs"] for row in await rows(_UNKNOWN, kinds=list(kinds))}
        report = {"service": context.service, "checks": health(), "lag": await lag(), "jobs_unknown": unknown}
        if deep:
            writes = await test_writes()
            if writes["events"] == "ok" and counts["outbox_age_s"] > MAX_OUTBOX_AGE_S:
                writes["events"] = f"the oldest fact waits for its publication since {counts['outbox_age_s']:.0f} s"
            report["writes"] = writes
        return report | counts

    @router.get("/dead-letters")
    async def dead_letters(_: viewer, limit: Limit = 100, *, only_dead: bool = False) -> list[dict[str, Any]]:
        """The retry queue: facts that failed, and facts that wait behind them."""
        return await rows(_RETRY_QUEUE, limit=limit, dead=only_dead)

    @router.post("/dead-letters/{event_id}/redrive")
    async def redrive(event_id: UUID, caller_: operator) -> OperationResult:
        """Retries it now."""
        await retry_queue.redrive(event_id, caller_.origin)
        return OperationResult(id=event_id, done="redriven")

    @router.post("/dead-letters/{event_id}/skip")
    async def skip(event_id: UUID, body: Reason, caller_: operator) -> OperationResult:
        """Drops it, so that its tenant's queue continues. This cannot be undone."""
        await retry_queue.skip(event_id, caller_.origin, body.reason)
        return OperationResult(id=event_id, done="skipped")

    @router.get("/quarantine")
    async def quarantine(_: viewer, limit: Limit = 100) -> list[dict[str, Any]]:
        """Intake events that this service refused, newest first."""
        return await rows(_QUARANTINE, limit=limit)

    @router.get("/effects")
    async def effects(_: viewer, limit: Limit = 100) -> list[dict[str, Any]]:
        """Effects that are pending or failed."""
        return await rows(_EFFECTS, limit=limit)

    return router


def key_recipients(service: str, recipients: KeyRecipients) -> APIRouter:
    """Returns the routes for the subscribers that may open the personal data of a service."""
    router = Router(prefix="/v1/operations/key-recipients", tags=["operations"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{service}:read"))]
    admin = Annotated[Caller, Depends(caller(Role.ADMIN, f"{service}:write"))]
    subscriber = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

    @router.get("")
    async def names(_: viewer) -> list[str]:
        """The subscribers that may open this service's personal data."""
        return await recipients.names()

    @router.put("/{name}")
    async def share(name: subscriber, body: PublicKey, caller_: admin) -> list[str]:
        """Lets a subscriber open this service's personal data. A job encrypts the existing keys for it."""
        await recipients.share(name, b64decode(body.public_key), caller_.origin)
        return await recipients.names()

    @router.delete("/{name}")
    async def withdraw(name: subscriber, caller_: admin) -> list[str]:
        """Withdraws the right. A job removes the copies of the keys; values that it has opened stay with it."""
        await recipients.withdraw(name, caller_.origin)
        return await recipients.names()

    return router
