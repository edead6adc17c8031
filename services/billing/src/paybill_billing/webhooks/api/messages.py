"""What providers sent, for operators: which messages are kept, what waits to be looked at and why, look again now."""

import logging
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.errors import NotFoundError
from paybill_contracts.values import Key, ProviderId
from paybill_runtime.decisions.context import ServiceContext
from pydantic import BaseModel, Field
from sqlalchemy import Row, and_, select, text, tuple_

from paybill_billing.http import Limit, Operator, Viewer
from paybill_billing.providers.sync_queue import SYNC_QUEUE
from paybill_billing.webhooks.tables import WEBHOOKS

log = logging.getLogger(__name__)


_RETRY = text(
    "UPDATE webhook_targets SET due = :now, tries = 0 WHERE provider = :provider AND target = :target RETURNING *"
)


class NotWaitingError(NotFoundError):
    """There is nothing to try again."""

    code = "not_waiting"


class MessageState(StrEnum):
    """What became of a message. QUARANTINED: it is of another mode or account, and nothing is done about it."""

    WAITING = "waiting"
    DONE = "done"
    QUARANTINED = "quarantined"


class WaitingView(BaseModel):
    """A provider's object that is to be looked at again, and why it was not understood yet."""

    provider: str
    object: Annotated[str, Field(description="A subscription's id there, or `<kind>/<id>` of another object.")]
    customer: str | None
    messages: int
    tries: int
    due: datetime
    reason: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """What is shown of `row`."""
        return cls(
            provider=row.provider,
            object=row.target,
            customer=row.customer,
            messages=row.seq,
            tries=row.tries,
            due=row.due,
            reason=row.reason,
        )


class MessageView(BaseModel):
    """A message that a provider sent, without what it says about people."""

    provider: str
    id: str
    type: str
    state: MessageState
    object: Annotated[str | None, Field(description="What is looked at because of it; null for nothing.")]
    customer: str | None
    livemode: bool
    api_version: str | None
    created: Annotated[datetime, Field(description="When it happened, as the provider says.")]
    received_at: datetime
    done_at: datetime | None
    quarantine: Annotated[str | None, Field(description="Why nothing is done about it.")]

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """What is shown of `row`."""
        done = MessageState.WAITING if row.done_at is None else MessageState.DONE
        return cls(
            provider=row.provider,
            id=row.event_id,
            type=row.type,
            state=done if row.quarantine is None else MessageState.QUARANTINED,
            object=row.target,
            customer=row.customer,
            livemode=row.livemode,
            api_version=row.api_version,
            created=row.created,
            received_at=row.received_at,
            done_at=row.done_at,
            quarantine=row.quarantine,
        )


class MessagePage(BaseModel):
    """Messages of the last 30 days, the last first."""

    messages: list[MessageView]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

    @routes.get("")
    async def show_messages(
        _: Viewer,
        provider: Annotated[Key | None, Query(description="Only what this provider sent.")] = None,
        state: Annotated[MessageState | None, Query(description="Only what became this.")] = None,
        about: Annotated[
            ProviderId | None, Query(alias="object", description="Only what is about this subscription or object.")
        ] = None,
        after: Annotated[ProviderId | None, Query(description="`next` of the page before.")] = None,
        limit: Limit = 50,
    ) -> MessagePage:
        """What providers sent in the last 30 days, a page at a time, the last first."""
        kept = WEBHOOKS.c
        place = (kept.received_at, kept.provider, kept.event_id)
        # Whose body is kept is in an index by time; the others are told from new ones, and no more.
        wanted = select(WEBHOOKS).where(kept.body.is_not(None)).order_by(*(column.desc() for column in place))
        if provider is not None:
            wanted = wanted.where(kept.provider == provider)
        if about is not None:
            wanted = wanted.where(kept.target == about)
        if state is not None:
            wanted = wanted.where(_is(state))
        if after is not None:
            last_provider, _slash, last_id = after.partition("/")
            last = select(*place).where(and_(kept.provider == last_provider, kept.event_id == last_id))
            wanted = wanted.where(tuple_(*place) < last.scalar_subquery())
        rows = await context.rows(wanted.limit(limit + 1))
        page = [MessageView.of(row) for row in rows[:limit]]
        next_ = f"{page[-1].provider}/{page[-1].id}" if len(rows) > limit else None
        return MessagePage(messages=page, next=next_)

    @routes.get("/waiting")
    async def show_waiting(_: Viewer, limit: Limit = 50) -> list[WaitingView]:
        """Providers' objects that are still to be looked at, the longest tried first."""
        targets = SYNC_QUEUE.c
        wanted = select(SYNC_QUEUE).order_by(targets.tries.desc(), targets.provider, targets.target).limit(limit)
        return [WaitingView.of(row) for row in await context.rows(wanted)]

    @routes.post("/waiting/{provider}/{target:path}/retry")
    async def retry(
        provider: Annotated[Key, Path(description="The provider's name, such as `stripe`.")],
        target: Annotated[ProviderId, Path(description="As `GET /v1/webhooks/waiting` shows it.")],
        who: Operator,
    ) -> WaitingView:
        """Look at it now, and not when its time has come. Doing it twice looks at it twice, which changes nothing."""
        async with context.database.transaction() as connection:
            found = await connection.execute(_RETRY, {"now": context.now(), "provider": provider, "target": target})
            row = found.one_or_none()
        if row is None:
            raise NotWaitingError(f"{target} of {provider} does not wait; GET /v1/webhooks/waiting lists what does")
        log.info("%s has %s of %s looked at now", who.id, target, provider)
        return WaitingView.of(row)

    return routes


def _is(state: MessageState) -> Any:
    kept = WEBHOOKS.c
    match state:
        case MessageState.QUARANTINED:
            return kept.quarantine.is_not(None)
        case MessageState.WAITING:
            return kept.done_at.is_(None)
        case MessageState.DONE:
            return and_(kept.done_at.is_not(None), kept.quarantine.is_(None))
