"""HTTP of webhooks for operators: stored messages, the sync queue, and its retry."""

import logging
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Key, ProviderId
from paybill_contracts.why import may_be_of_strangers
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import REQUESTED, REQUESTS, RETRY_REQUEST
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import Limit
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field, computed_field
from sqlalchemy import Row

from paybill_billing.http import Operator, Viewer
from paybill_billing.providers.sync_queue import KINDS, LEASE, NO_ACCOUNT, account_opened, kind_of, provider_of
from paybill_billing.webhooks import domain as webhooks
from paybill_billing.webhooks.domain import MessageState, NotWaitingError, customer_key
from paybill_billing.webhooks.tables import DISMISSED, DISMISSED_CUSTOMERS, REFUSED, messages

log = logging.getLogger(__name__)


class WaitingView(BaseModel):
    """An object in the sync queue. `reason` is the failure of its last sync."""

    provider: str
    object: Annotated[str, Field(description="A subscription's id there, or `<kind>/<id>` of another object.")]
    customer: str | None
    messages: int
    tries: int
    due: datetime
    reason: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Returns the view of `row`."""
        return cls(
            provider=provider_of(row.kind),
            object=row.key,
            customer=row.detail,
            messages=row.requests,
            tries=row.attempts,
            due=row.due,
            reason=row.error,
        )


class MessageView(BaseModel):
    """A message of a provider, without personal data."""

    provider: str
    id: str
    type: str
    state: MessageState
    object: Annotated[str | None, Field(description="The object that is fetched because of it; null for none.")]
    customer: str | None
    livemode: bool
    api_version: str | None
    created: Annotated[datetime, Field(description="Time of the event, as the provider states it.")]
    received_at: datetime
    done_at: datetime | None
    quarantine: Annotated[str | None, Field(description="Why it is not processed.")]

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Returns the view of `row`."""
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


class RefusedView(BaseModel):
    """Requests of one provider's route that were refused for one reason. Nothing of their content is stored."""

    provider: str
    reason: Annotated[str, Field(description="The problem's code, or `quarantined` for another mode or account.")]
    detail: Annotated[str, Field(description="The reason of the last one, for people.")]
    count: int
    first_at: datetime
    last_at: datetime
    source: Annotated[str | None, Field(description="The address that sent the last one.")]
    accepted_at: Annotated[datetime | None, Field(description="Time of the provider's last accepted message.")]
    undelivered_at: Annotated[
        datetime | None,
        Field(description="Time since then at which a message was fetched that the provider could not deliver."),
    ]

    @computed_field  # type: ignore[prop-decorator]  # https://github.com/python/mypy/issues/1362
    @property
    def may_be_of_strangers(self) -> bool:
        """True when nothing shows that the provider sent them: anybody can send a wrong signature."""
        return may_be_of_strangers(self.reason, self.undelivered_at)


class DismissBody(BaseModel):
    """Why the customer is not ours."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[PlainText, Field(description="Kept permanently in the log: no personal data.")]


class DismissedView(BaseModel):
    """A customer of a provider that is not ours, and how often one of its objects was dismissed."""

    provider: str
    customer: str
    reason: str
    count: int
    last_at: Annotated[datetime | None, Field(description="Time of the last dismissal.")]

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Returns the view of `row`."""
        provider, _, customer = row.id.partition("/")
        return cls(provider=provider, customer=customer, reason=row.reason, count=row.objects, last_at=row.last_at)


class MessagePage(BaseModel):
    """Messages of the last 30 days, newest first."""

    messages: list[MessageView]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1/webhooks", tags=["webhooks"])

    @routes.get("")
    async def show_messages(
        _: Viewer,
        provider: Annotated[Key | None, Query(description="Only messages of this provider.")] = None,
        state: Annotated[MessageState | None, Query(description="Only messages in this state.")] = None,
        about: Annotated[
            ProviderId | None, Query(alias="object", description="Only messages about this subscription or object.")
        ] = None,
        after: Annotated[ProviderId | None, Query(description="`next` of the page before.")] = None,
        limit: Limit = 50,
    ) -> MessagePage:
        """Returns the messages of the last 30 days, newest first, a page at a time."""
        query = messages(provider=provider, target=about, state=state, after=after, limit=limit + 1)
        rows = await context.rows(query)
        page = [MessageView.of(row) for row in rows[:limit]]
        next_ = f"{page[-1].provider}/{page[-1].id}" if len(rows) > limit else None
        return MessagePage(messages=page, next=next_)

    @routes.get("/waiting")
    async def show_waiting(_: Viewer, limit: Limit = 50) -> list[WaitingView]:
        """Returns the objects in the sync queue, those with the most attempts first."""
        rows = await context.rows(REQUESTS, {"kinds": KINDS, "limit": limit})
        return [WaitingView.of(row) for row in rows]

    @routes.get("/refused")
    async def show_refused(
        _: Viewer,
        provider: Annotated[Key | None, Query(description="Only requests of this provider's route.")] = None,
        limit: Limit = 50,
    ) -> list[RefusedView]:
        """Returns the counts of refused requests by reason, the latest first."""
        rows = await context.rows(REFUSED, {"provider": provider or "", "limit": limit})
        return [RefusedView.model_validate(row, from_attributes=True) for row in rows]

    @routes.post("/waiting/{provider}/{target:path}/retry")
    async def retry(
        provider: Annotated[Key, Path(description="The provider's name, such as `stripe`.")],
        target: Annotated[ProviderId, Path(description="As `GET /v1/webhooks/waiting` shows it.")],
        principal: Operator,
    ) -> WaitingView:
        """Makes the sync of an object due now. Idempotent: a further sync changes nothing."""
        async with context.database.transaction() as connection:
            values = {"now": context.now(), "kind": kind_of(provider), "key": target}
            row = (await connection.execute(RETRY_REQUEST, values)).one_or_none()
        await context.jobs_requested(LEASE)
        if row is None:
            raise NotWaitingError(
                f"{target} of {provider} is not in the sync queue; list its entries: paybill webhook waiting"
            )
        log.info("%s retries the sync of %s of %s", principal.id, target, provider)
        return WaitingView.of(row)

    _dismissal_routes(routes, context)
    return routes


def _dismissal_routes(routes: APIRouter, context: ServiceContext) -> None:
    @routes.get("/dismissed")
    async def show_dismissed(_: Viewer, limit: Limit = 50) -> list[DismissedView]:
        """Returns the customers that are not ours, in the order of their ids."""
        rows = await context.rows(DISMISSED, {"limit": limit})
        return [DismissedView.of(row) for row in rows]

    @routes.post("/waiting/{provider}/{target:path}/dismiss")
    async def dismiss(
        provider: Annotated[Key, Path(description="The provider's name, such as `stripe`.")],
        target: Annotated[ProviderId, Path(description="As `GET /v1/webhooks/waiting` shows it.")],
        body: DismissBody,
        principal: Operator,
    ) -> DismissedView:
        """Dismisses the customer of a waiting object, now and for its later objects, until it gets an account.

        Refused with `not_waiting` unless the object waits for the account of its customer.
        """
        rows = await context.rows(REQUESTED, {"kind": kind_of(provider), "key": target})
        customer = rows[0].detail if rows and rows[0].error == NO_ACCOUNT else None
        if customer is None:
            raise NotWaitingError(f"{target} of {provider} does not wait for an account; see: paybill webhook waiting")
        id_ = customer_key(provider, customer)

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            known = unit.get(DISMISSED_CUSTOMERS, id_)
            unit.record(DISMISSED_CUSTOMERS, id_, webhooks.dismiss(known, provider, customer, body.reason))

        await context.decide(
            principal.origin,
            decide,
            writes=[DISMISSED_CUSTOMERS.key(id_)],
            extra_statements=partial(account_opened, provider, customer, context.now()),
            verb="dismiss",
            target=id_,
        )
        return DismissedView(provider=provider, customer=customer, reason=body.reason, count=0, last_at=None)
