"""Lists of background jobs in pages: of the pending ones, the failed ones, and the ended ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from paybill_contracts.errors import DomainError
from sqlalchemy import Row, text

from paybill_runtime.database.pool import Database

COLUMNS = (
    "job_id, kind, key, queue, priority, state, due, deadline, attempts, waits, error, requests, detail, event_id, "
    "ended_at"
)
_FILTER = "(:kind = '' OR kind = :kind) AND (:tenant = '' OR queue = :tenant)"
_BEGIN = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


class JobFilter(StrEnum):
    """Jobs to list. ENDED: done, failed or cancelled, newest first."""

    PENDING = "pending"
    FAILED = "failed"
    ENDED = "ended"


class CursorError(DomainError):
    """The cursor is not one of this list."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class _Order:
    """Order of a list. condition: rows after the cursor, whose columns are `positions`. begin: before the first row."""

    where: str
    condition: str
    order_by: str
    begin: dict[str, Any]

    def cursor(self, row: Row[Any]) -> str:
        """Returns the cursor of a row."""
        values = (getattr(row, name) for name in self.begin)
        return "/".join(value.isoformat() if isinstance(value, datetime) else str(value) for value in values)

    def after(self, cursor: str) -> dict[str, Any]:
        """Returns the values of a cursor. Raises CursorError."""
        parts = cursor.split("/")
        try:
            return {
                name: datetime.fromisoformat(part) if isinstance(first, datetime) else type(first)(part)
                for (name, first), part in zip(self.begin.items(), parts, strict=True)
            }
        except ValueError as error:
            raise CursorError(f"{cursor!r} is no cursor of this list; begin again without `after`") from error


_ORDERS = {
    JobFilter.PENDING: _Order(
        "state = 'pending'",
        "(priority, due, job_id) > (CAST(:priority AS smallint), CAST(:due AS timestamptz), CAST(:job_id AS uuid))",
        "priority, due, job_id",
        {"priority": -1, "due": _BEGIN, "job_id": UUID(int=0)},
    ),
    JobFilter.FAILED: _Order("state = 'failed'", "position > CAST(:position AS bigint)", "position", {"position": 0}),
    JobFilter.ENDED: _Order(
        "ended_at IS NOT NULL",
        "(ended_at, job_id) < (CAST(:ended_at AS timestamptz), CAST(:job_id AS uuid))",
        "ended_at DESC, job_id DESC",
        {"ended_at": _END, "job_id": UUID(int=0)},
    ),
}
_QUERIES = {
    state: text(
        f"SELECT {COLUMNS}, position FROM chassis.job WHERE {order.where} AND {order.condition} AND {_FILTER} "  # noqa: S608  # only our own text
        f"ORDER BY {order.order_by} LIMIT :limit"
    )
    for state, order in _ORDERS.items()
}

_WAITING = text(
    "SELECT DISTINCT ON (queue) job_id, queue, kind, error, detail, attempts + waits AS tries, due FROM chassis.job "
    "WHERE state = 'pending' AND (waits > 0 OR attempts > 0) AND event_id IS NOT NULL "
    "AND (CAST(:tenants AS text[]) IS NULL OR queue = ANY(:tenants)) ORDER BY queue, position LIMIT :limit"
)


async def list_jobs(
    database: Database, state: JobFilter, kind: str, tenant: str, after: str, limit: int
) -> Sequence[tuple[Row[Any], str]]:
    """Returns a page of jobs, each with its cursor. kind, tenant, after: empty for all. Raises CursorError."""
    order = _ORDERS[state]
    position = order.after(after) if after else order.begin
    async with database.reading() as connection:
        values = {"kind": kind, "tenant": tenant, "limit": limit, **position}
        rows = (await connection.execute(_QUERIES[state], values)).all()
    return [(row, order.cursor(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job of a tenant that could not be done yet, and is tried again at `due`.

    tries: since its beginning or its last retry by an operator. detail: as the job reported it, such as a step.
    """

    id: UUID
    tenant: str
    kind: str
    reason: str
    detail: str
    tries: int
    due: datetime


async def waiting_jobs(database: Database, tenants: Sequence[str] | None, limit: int = 500) -> dict[str, WaitingJob]:
    """Returns the first job of each tenant that waits for another attempt. tenants: None for all."""
    values = {"tenants": None if tenants is None else list(tenants), "limit": limit}
    async with database.reading() as connection:
        rows = (await connection.execute(_WAITING, values)).all()
    return {
        row.queue: WaitingJob(row.job_id, row.queue, row.kind, row.error or "", row.detail or "", row.tries, row.due)
        for row in rows
    }
