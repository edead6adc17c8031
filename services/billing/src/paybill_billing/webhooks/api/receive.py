"""HTTP route that receives webhooks: verifies a message, stores it and answers; the worker processes it later."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request
from paybill_contracts.values import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.problems import ANY_CODE, Problem
from paybill_runtime.http.router import Router
from paybill_runtime.telemetry import OUTCOME, PROVIDER, TENANT, annotate, exporting, meter
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from paybill_billing.providers.port import MAX_BODY_BYTES, DeliveryRefusedError, Inbound
from paybill_billing.webhooks.inbox import InboxMessage, MessageOwner, RefusalCounts, WebhookInbox


class Received(BaseModel):
    """The message is durable; so is one that was stored before."""

    received: bool = True


_RECEIVED = JSONResponse(Received().model_dump())
_WEBHOOKS = meter.create_counter("paybill.webhooks", "{message}", "Webhooks by provider and outcome.")


class WebhookRoute:
    """Fast route for the messages of one provider."""

    def __init__(
        self, context: ServiceContext, provider: str, inbound: Inbound, inbox: WebhookInbox, refusals: RefusalCounts
    ) -> None:
        self._context = context
        self._provider = provider
        self._inbound = inbound
        self._inbox = inbox
        self._refusals = refusals
        _WEBHOOKS.add(0, {PROVIDER: provider, OUTCOME: "accepted"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stores the message of a request and acknowledges it."""
        await self.store(scope, (await receive())["body"])
        await _RECEIVED(scope, receive, send)

    async def store(self, scope: Scope, body: bytes) -> None:
        """Returns when the message is durable. Raises Problem, and the errors of `WebhookInbox.store`."""
        now = self._context.now()
        try:
            delivery = self._inbound.receive(body, Headers(scope=scope), now)
        except DeliveryRefusedError as error:
            self._refuse(scope, error.code, str(error))
            self._measure("refused")
            raise Problem(400, error.code, str(error)) from None
        if delivery.quarantine is not None:
            self._refuse(scope, "quarantined", delivery.quarantine)
        traceparent = scope["paybill.traceparent"]
        encrypted = self._context.seal_raw(body)
        owner, outcome = None, "unavailable"
        try:
            owner = await self._inbox.store(InboxMessage(delivery, self._provider, traceparent, encrypted, now))
            outcome = "accepted" if delivery.quarantine is None else "quarantined"
        finally:
            self._measure(outcome, delivery.type, owner)

    def body_refused(self, scope: Scope) -> None:
        """Counts a request whose body is too large."""
        self._measure("refused")
        self._refuse(scope, "too_large", f"the body has more than {MAX_BODY_BYTES} bytes")

    def _measure(self, outcome: str, type_: str = "", owner: MessageOwner | None = None) -> None:
        """Counts a message, and describes it in the span of its request."""
        counted = {PROVIDER: self._provider, OUTCOME: outcome}
        _WEBHOOKS.add(1, counted)
        if exporting():
            described = counted | ({"paybill.webhook.type": type_} if type_ else {})
            described |= {TENANT: owner.tenant} if owner is not None else {}
            annotate(described, [owner.begun] if owner is not None and owner.begun is not None else [])

    def _refuse(self, scope: Scope, reason: str, detail: str) -> None:
        client = scope.get("client")
        self._refusals.add(self._provider, reason, detail, client[0] if client else None)


def router(context: ServiceContext, inbound: Mapping[str, Inbound]) -> APIRouter:
    """Returns the route. inbound: by provider."""
    routes = Router(
        tags=["webhooks"],
        problems={400: (ANY_CODE,), 404: ("unknown_provider",)},
    )
    inbox, refusals = WebhookInbox(context), RefusalCounts(context)
    by_provider = {name: WebhookRoute(context, name, one, inbox, refusals) for name, one in inbound.items()}
    context.fast_routes.update((f"/webhooks/{name}", route) for name, route in by_provider.items())
    context.bodies_refused.update((f"/webhooks/{name}", route.body_refused) for name, route in by_provider.items())

    @routes.post("/webhooks/{provider}")
    async def receive(
        provider: Annotated[Key, Path(description="The provider, such as `stripe`.")], request: Request
    ) -> Received:
        """Receives a signed message of a provider. 200 means that it is durable; on any other status, send it again."""
        if provider not in by_provider:
            raise Problem(404, "unknown_provider", f"no provider {provider} sends messages here; check its settings")
        await by_provider[provider].store(request.scope, await request.body())
        return Received()

    return routes
