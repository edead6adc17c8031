"""Where providers send their messages: verify, keep durably, answer; what they mean is found out later."""

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request
from paybill_contracts.values import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.problems import Problem
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from paybill_billing.providers.port import DeliveryRefusedError, Inbound
from paybill_billing.webhooks.inbox import Inbox, Kept


class Received(BaseModel):
    """The message is kept and will not be lost. A copy of one that is kept already is received, too."""

    received: bool = True


_RECEIVED = JSONResponse(Received().model_dump())


class Door:
    """Where one provider's messages come in."""

    def __init__(self, context: ServiceContext, provider: str, reader: Inbound, inbox: Inbox) -> None:
        self._context = context
        self._provider = provider
        self._reader = reader
        self._inbox = inbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the message in a request, and say that it is kept."""
        await self.take(scope, (await receive())["body"])
        await _RECEIVED(scope, receive, send)

    async def take(self, scope: Scope, body: bytes) -> None:
        """Return once a message is durable. Raises Problem, and what `Inbox.keep` raises."""
        now = self._context.now()
        try:
            delivery = self._reader.receive(body, Headers(scope=scope), now)
        except DeliveryRefusedError as error:
            raise Problem(400, error.code, str(error)) from None
        traceparent = scope["paybill.traceparent"]
        sealed = self._context.seal_raw(body)
        await self._inbox.keep(Kept(delivery, self._provider, traceparent, sealed, now))


def router(context: ServiceContext, inbound: Mapping[str, Inbound], kept: Callable[[str], None]) -> APIRouter:
    """The route, on this edge. inbound: how each provider's messages are read. kept: as `Inbox` has it."""
    routes = APIRouter(tags=["webhooks"])
    inbox = Inbox(context.database, kept)
    doors = {name: Door(context, name, reader, inbox) for name, reader in inbound.items()}
    context.fast_routes.update((f"/webhooks/{name}", door) for name, door in doors.items())

    @routes.post("/webhooks/{provider}")
    async def receive(
        provider: Annotated[Key, Path(description="Who sends it: `stripe`.")], request: Request
    ) -> Received:
        """For providers: a message, signed by its sender. 200 means that it is kept; anything else: send it again."""
        if provider not in doors:
            raise Problem(404, "unknown_provider", f"no provider {provider} sends messages here; check its settings")
        await doors[provider].take(request.scope, await request.body())
        return Received()

    return routes
