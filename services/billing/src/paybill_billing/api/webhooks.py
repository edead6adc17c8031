"""Where providers send their messages: verify, keep durably, answer; what they mean is found out later."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Request
from paybill_contracts.values import Key
from paybill_runtime.http import Edge
from paybill_runtime.problems import Problem
from pydantic import BaseModel

from paybill_billing.effects import DeliveryRefusedError, Inbound
from paybill_billing.work.inbox import Inbox, Kept


class Received(BaseModel):
    """The message is kept and will not be lost. A copy of one that is kept already is received, too."""

    received: bool = True


def router(edge: Edge, inbound: Mapping[str, Inbound], kept: Callable[[str], None]) -> APIRouter:
    """The route, on this edge. inbound: how each provider's messages are read. kept: as `Inbox` has it."""
    routes = APIRouter(tags=["webhooks"])
    inbox = Inbox(edge.database, kept)

    @routes.post("/webhooks/{provider}")
    async def receive(
        provider: Annotated[Key, Path(description="Who sends it: `stripe`.")], request: Request
    ) -> Received:
        """For providers: a message, signed by its sender. 200 means that it is kept; anything else: send it again."""
        reader = inbound.get(provider)
        if reader is None:
            raise Problem(404, "unknown_provider", f"no provider {provider} sends messages here; check its settings")
        body, now = await request.body(), edge.now()
        try:
            delivery = reader.receive(body, request.headers, now)
        except DeliveryRefusedError as error:
            raise Problem(400, error.code, str(error)) from None
        traceparent = request.scope["paybill.traceparent"]
        kept = Kept(
            **asdict(delivery), provider=provider, traceparent=traceparent, body=edge.seal_raw(body), received_at=now
        )
        await inbox.keep(kept)
        return Received()

    return routes
