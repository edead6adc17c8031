"""What an operator sees of a service from outside: is it well, what waits, what is stuck, and how to move it on."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import text

from paybill_runtime.decisions.context import Caller, ServiceContext, caller
from paybill_runtime.errors import DatabaseUnavailableError
from paybill_runtime.http.auth import Role
from paybill_runtime.messaging.retry_queue import RetryQueue

Text500 = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]

_COUNTS = text(
    "SELECT (SELECT count(*) FROM chassis.outbox WHERE sequence IS NULL) AS outbox_waiting, "
    "(SELECT coalesce(extract(epoch FROM now() - min(recorded_at)), 0) FROM chassis.outbox WHERE sequence IS NULL) "
    "AS outbox_age_s, "
    "(SELECT count(*) FROM chassis.parked) AS parked, (SELECT count(*) FROM chassis.parked WHERE dead) AS dead, "
    "(SELECT count(*) FROM chassis.quarantine) AS quarantined, "
    "(SELECT count(*) FROM chassis.effect WHERE state = 'pending') AS effects_pending, "
    "(SELECT count(*) FROM chassis.effect WHERE state = 'failed') AS effects_failed, "
    "(SELECT coalesce(max(sequence), 0) FROM chassis.position WHERE stream = 'EVENTS') AS read_upto"
)
_PARKED = text(
    "SELECT event_id, stream, sequence, tenant, subject, attempts, dead, next_at, reason FROM chassis.parked "
    "WHERE (NOT :dead OR dead) ORDER BY sequence LIMIT :limit"
)
_QUARANTINE = text(
    "SELECT quarantine_id, publisher, subject, reason, sequence, quarantined_at FROM chassis.quarantine "
    "ORDER BY quarantined_at DESC LIMIT :limit"
)
_EFFECTS = text(
    "SELECT event_id, work, tenant, attempts, state, next_at, reason FROM chassis.effect WHERE state <> 'done' "
    "ORDER BY position LIMIT :limit"
)

Limit = Annotated[int, Query(ge=1, le=500)]
Health = Callable[[], dict[str, str]]
Lag = Callable[[], Awaitable[dict[str, int | None]]]


class Reason(BaseModel):
    """Why an operator decides so; it is kept in the log."""

    reason: Text500


class OperationResult(BaseModel):
    """What was done with a dead letter."""

    id: UUID
    done: str


def probes(service: str, alive: Callable[[], Awaitable[None]], health: Health) -> APIRouter:
    """`/healthz`: the process runs. `/readyz`: it can decide; a bus that is away only degrades it: facts wait."""
    router = APIRouter(tags=["probes"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"service": service, "status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        checks = dict(health())
        try:
            await alive()
            checks["database"] = "ok"
        except DatabaseUnavailableError:
            checks["database"] = "away"
        failed = [name for name, state in checks.items() if state != "ok" and name != "bus"]
        status = "failed" if failed else ("ok" if checks.get("bus") == "ok" else "degraded")
        response.status_code = 503 if failed else 200
        return {"service": service, "status": status, "checks": checks}

    return router


def operations(context: ServiceContext, retry_queue: RetryQueue, health: Health, lag: Lag) -> APIRouter:
    """The routes below `/v1/operations`."""
    router = APIRouter(prefix="/v1/operations", tags=["operations"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{context.service}:read"))]
    operator = Annotated[Caller, Depends(caller(Role.OPERATOR, f"{context.service}:write"))]

    async def listed(statement: Any, **values: Any) -> list[dict[str, Any]]:  # a query and its values
        return [dict(row._mapping) for row in await context.rows(statement, values)]  # noqa: SLF001  # SQLAlchemy's public name

    @router.get("")
    async def overview(_: viewer) -> dict[str, Any]:
        """How much waits where. `lag` counts the messages that are still to be heard, by loop; null when unknown."""
        counts = (await listed(_COUNTS))[0]
        counts["outbox_age_s"] = round(float(counts["outbox_age_s"]), 1)
        return {"service": context.service, "checks": health(), "lag": await lag(), **counts}

    @router.get("/dead-letters")
    async def dead_letters(_: viewer, limit: Limit = 100, *, only_dead: bool = False) -> list[dict[str, Any]]:
        """Facts that could not be handled, and those that wait behind them."""
        return await listed(_PARKED, limit=limit, dead=only_dead)

    @router.post("/dead-letters/{event_id}/redrive")
    async def redrive(event_id: UUID, who: operator) -> OperationResult:
        """Have it tried again now."""
        await retry_queue.redrive(event_id, who.origin)
        return OperationResult(id=event_id, done="redriven")

    @router.post("/dead-letters/{event_id}/skip")
    async def skip(event_id: UUID, body: Reason, who: operator) -> OperationResult:
        """Give it up, so that its tenant's queue goes on. This cannot be undone."""
        await retry_queue.skip(event_id, who.origin, body.reason)
        return OperationResult(id=event_id, done="skipped")

    @router.get("/quarantine")
    async def quarantine(_: viewer, limit: Limit = 100) -> list[dict[str, Any]]:
        """What publishers sent and this service refused, newest first."""
        return await listed(_QUARANTINE, limit=limit)

    @router.get("/effects")
    async def effects(_: viewer, limit: Limit = 100) -> list[dict[str, Any]]:
        """Calls to the outside world that are not done."""
        return await listed(_EFFECTS, limit=limit)

    return router
