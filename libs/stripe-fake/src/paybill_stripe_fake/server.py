"""The HTTP server: keys, bodies, idempotency, and Stripe's error responses."""

import asyncio
import hashlib
import hmac
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from paybill_stripe_fake import (
    API_VERSION,
    adjustments,
    charges,
    checkout,
    collection,
    control,
    coupons,
    customers,
    disputes,
    events,
    invoice_api,
    invoice_items,
    meter_stream,
    meters,
    pages,
    pauses,
    payment_methods,
    payments,
    portal,
    previews,
    prices,
    products,
    refunds,
    renewals,
    schedules,
    subscription_changes,
    subscription_items,
    subscriptions,
    thin_events,
    webhook_endpoints,
)
from paybill_stripe_fake.account import Account, ApiRequest, new_id
from paybill_stripe_fake.bodies import parameters
from paybill_stripe_fake.errors import (
    ApiError,
    AuthenticationError,
    IdempotencyError,
    InvalidRequestError,
    KeyInUseError,
    UnknownUrlError,
)
from paybill_stripe_fake.expand import MAX_PATHS, expanded
from paybill_stripe_fake.forms import Params, Value
from paybill_stripe_fake.lists import shortened
from paybill_stripe_fake.sender import Sender
from paybill_stripe_fake.store import Resource

Handler: TypeAlias = Callable[..., Resource]

_MAX_KEY = 255
_KEPT_S = 24 * 3600
_TICK_S = 1.0
_MODULES = (
    adjustments,
    charges,
    checkout,
    collection,
    coupons,
    customers,
    disputes,
    events,
    invoice_api,
    invoice_items,
    meter_stream,
    meters,
    pauses,
    payment_methods,
    payments,
    portal,
    previews,
    prices,
    products,
    refunds,
    schedules,
    subscription_changes,
    subscription_items,
    subscriptions,
    thin_events,
    webhook_endpoints,
)
_logger = logging.getLogger("paybill_stripe_fake.server")


def create_app(account: Account, api_key: str, sender: Callable[[], Sender], started: Callable[[], None]) -> Starlette:
    """Returns the application; `sender` is created, and `started` called, once the event loop runs."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(sender().run()), asyncio.create_task(_keep_time(account))]
        for task in tasks:
            task.add_done_callback(_stop_if_failed)
        started()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    server = _Server(account, api_key)
    table: dict[str, dict[str, Handler]] = {}
    for method, path, handler in [*(entry for module in _MODULES for entry in module.ENDPOINTS), *control.ENDPOINTS]:
        table.setdefault(path, {})[method] = handler
    routes = [
        # A literal path precedes one with an id in its place.
        Route(path, server.endpoint(path, by_method), methods=list(by_method))
        for path, by_method in sorted(table.items(), key=lambda entry: entry[0].count("{"))
    ]
    fixed_routes = [Route("/healthz", _healthz), *pages.routes(account, server.answer_without_key)]
    handlers: dict[Any, Any] = {HTTPException: _unknown_url, ApiError: _refused, Exception: _failed}
    app = Starlette(routes=[*fixed_routes, *routes], lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


class _Server:
    def __init__(self, account: Account, api_key: str) -> None:
        self._account = account
        self._api_key = api_key.encode()
        self._in_progress: set[str] = set()

    def endpoint(self, path: str, handlers: dict[str, Handler]) -> Callable[[Request], Any]:
        """Returns an endpoint for one path that checks the key and runs the method's handler in one transaction."""
        fake = path.startswith("/fake/")

        async def run(request: Request) -> Response:
            self._authenticate(request)
            tree = await parameters(request, json_too=fake or path.startswith("/v2/"))
            method = "GET" if request.method == "HEAD" else request.method
            handler, arguments = handlers[method], list(request.path_params.values())
            if fake:
                return self._run(request, handler, tree, arguments, None)
            traffic = self._account.traffic
            faults = traffic.admit(method, path, request.url.path)
            with self._exclusive(request):
                if faults["delay_s"]:
                    await asyncio.sleep(faults["delay_s"])
                answer = (
                    self._idempotent(request, handler, tree, arguments)
                    if method == "POST"
                    else self._run(request, handler, tree, arguments, None)
                )
            if faults["lost"]:
                raise traffic.lost_response()
            return answer

        return run

    @contextmanager
    def _exclusive(self, request: Request) -> Iterator[None]:
        """Refuses a second request with the same idempotency key while the first is in progress."""
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key is None:
            yield
            return
        if key in self._in_progress:
            raise KeyInUseError(key[:_MAX_KEY])
        self._in_progress.add(key)
        try:
            yield
        finally:
            self._in_progress.discard(key)

    async def answer_without_key(self, request: Request, handler: Handler, argument: str) -> Response:
        """Runs the action of a page; its unguessable path replaces the key."""
        return self._run(request, handler, await parameters(request, json_too=True), [argument], None)

    def _authenticate(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if request.url.path == meter_stream.STREAM and meter_stream.may_stream(self._account, key.strip()):
            return
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._api_key):
            raise AuthenticationError(present=bool(key))

    def _idempotent(self, request: Request, handler: Handler, tree: dict[str, Value], arguments: list[str]) -> Response:
        """Runs a request once per Idempotency-Key, and repeats its response to later requests."""
        key = request.headers.get("idempotency-key")
        if not key:
            return self._run(request, handler, tree, arguments, None)
        if len(key) > _MAX_KEY:
            raise InvalidRequestError(f"Idempotency keys can have at most {_MAX_KEY} characters.")
        request_parameters = json.dumps([request.url.path, tree], sort_keys=True)
        digest = hashlib.sha256(request_parameters.encode()).hexdigest()
        stored = self._account.store.find("idempotency", key)
        if stored is None or stored["at"] < time.time() - _KEPT_S:
            return self._run(request, handler, tree, arguments, (key, digest))
        if stored["path"] != request.url.path:
            raise IdempotencyError(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('{request.url.path}' vs '{stored['path']}'). Try using a key other than '{key}'."
            )
        if stored["digest"] != digest:
            raise IdempotencyError(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request."
            )
        replayed = {"Idempotent-Replayed": "true", "Original-Request": stored["request"]}
        return _answer(stored["body"], stored["status"], idempotency_key=key, headers=replayed)

    def _run(
        self,
        request: Request,
        handler: Handler,
        tree: dict[str, Value],
        arguments: list[str],
        key: tuple[str, str] | None,
    ) -> Response:
        """Runs one request in one transaction; the response to a declined card is stored under the key, too."""
        account = self._account
        request_id, headers = new_id("req"), {}
        # Events that a control route causes name no API request.
        fixed_routes = not request.url.path.startswith("/fake/")
        called = ApiRequest(request_id, key[0] if key else None) if fixed_routes else ApiRequest()

        def keep(status: int, body: Resource) -> None:
            if key is not None:
                entry = {"at": time.time(), "path": request.url.path, "digest": key[1], "request": request_id}
                account.store.put("idempotency", key[0], {**entry, "status": status, "body": body})

        try:
            with account.work(called):
                try:
                    status, body = 200, self._handled(handler, tree, arguments)
                    keep(status, body)
                except ApiError as error:
                    if error.keep:
                        keep(error.status, error.body())
                    raise
        except ApiError as error:
            status, body, headers = error.status, error.body(), error.headers
        return _answer(body, status, request_id=request_id, idempotency_key=key and key[0], headers=headers)

    def _handled(self, handler: Handler, tree: dict[str, Value], arguments: list[str]) -> Resource:
        params = Params(tree)
        paths = params.texts("expand", most=MAX_PATHS) or []
        body = handler(self._account, params, *arguments)
        params.finish()
        body = expanded(self._account, body, paths)
        # A preview is not stored, so no address could serve the rest of its lines.
        return body if handler is previews.create_preview else shortened(body)


def _stop_if_failed(task: asyncio.Task[None]) -> None:
    """Ends the process when a background task fails; a partly working fake would mislead."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.critical("a background task failed; the process ends", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


async def _keep_time(account: Account) -> None:
    """Runs due actions as real time passes."""
    while True:
        with account.work():
            renewals.catch_up(account)
        await asyncio.sleep(_TICK_S)


def _answer(
    body: Resource,
    status: int,
    *,
    request_id: str | None = None,
    idempotency_key: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    answered = {"Request-Id": request_id or new_id("req"), "Stripe-Version": API_VERSION, **(headers or {})}
    if idempotency_key:
        answered["Idempotency-Key"] = idempotency_key
    return JSONResponse(body, status_code=status, headers=answered)


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refused(_request: Request, error: ApiError) -> Response:
    return _answer(error.body(), error.status, headers=error.headers)


async def _unknown_url(request: Request, _error: HTTPException) -> Response:
    error = UnknownUrlError(request.method, request.url.path[:200])
    return _answer(error.body(), error.status)


async def _failed(_request: Request, _error: Exception) -> Response:
    body = {
        "error": {
            "type": "api_error",
            "message": "The Stripe fake failed; see its log for the cause. Nothing was changed.",
        }
    }
    return _answer(body, 500)
