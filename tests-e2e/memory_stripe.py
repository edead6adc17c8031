"""The Stripe fake in this process: its HTTP application without sockets, on a clock that only a test advances."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import stripe
from paybill_stripe_fake import renewals
from paybill_stripe_fake.account import Account, repeat_ids
from paybill_stripe_fake.server import create_app
from paybill_stripe_fake.store import Resource, Store

KEY = "sk_test_0123456789"
_URL = "http://stripe.invalid"


class StripeRefusedError(Exception):
    """Raised when the fake refuses a request, as it would refuse that of an operator or a customer."""


class MemoryStripe(stripe.HTTPClient):
    """An account of the fake. It is the HTTP client of Stripe's library, too."""

    name = "memory"

    def __init__(self, now: datetime, ids: str) -> None:
        super().__init__()
        self._now = now
        self._ids = ids
        self.account = _ACCOUNT
        self.begin([])

    def begin(self, resources: Sequence[Resource]) -> None:
        """Begins with an account that has only these resources."""
        repeat_ids(self._ids)
        self.account.store = Store()
        self._delivered = 0
        self._due: datetime | None = None
        self._is_due_known = False
        with self.account.work():
            self.account.set_clock(int(self._now.timestamp()))
            for resource in resources:
                self.account.put(resource)

    def next_due(self) -> datetime | None:
        """Returns the time of the next action that falls due at Stripe."""
        if not self._is_due_known:
            at = renewals.next_due(self.account)
            self._due, self._is_due_known = None if at is None else datetime.fromtimestamp(at, UTC), True
        return self._due

    def advance(self, to: datetime) -> None:
        """Does what falls due until `to`."""
        if int(to.timestamp()) == self.account.now():
            return
        if (due := self.next_due()) is not None and due <= to:
            self._is_due_known = False
        with self.account.work():
            renewals.catch_up(self.account, int(to.timestamp()))

    def new_events(self) -> list[Resource]:
        """Returns the events since the last call."""
        events = self.account.store.oldest_first("event")
        found, self._delivered = events[self._delivered :], len(events)
        return found

    def all(self, kind: str) -> list[Resource]:
        """Returns all resources of a kind, the oldest first."""
        return self.account.store.oldest_first(kind)

    async def post(self, path: str, **params: Any) -> Resource:
        """Sends a request, to the API or to the control routes. Raises StripeRefusedError."""
        control = path.startswith("/fake/")
        body = json.dumps(params) if control else urlencode(_flat(params))
        content_type = "application/json" if control else "application/x-www-form-urlencoded"
        headers = {"authorization": f"Bearer {KEY}", "content-type": content_type}
        answer, status, _ = await self.request_async("post", f"{_URL}{path}", headers, body)
        found: Resource = json.loads(answer)
        if status != 200:
            raise StripeRefusedError(f"{path}: {found['error']['message']}")
        return found

    async def delete(self, path: str) -> Resource:
        """Sends a request that deletes. Raises StripeRefusedError."""
        answer, status, _ = await self.request_async("delete", f"{_URL}{path}", {"authorization": f"Bearer {KEY}"})
        found: Resource = json.loads(answer)
        if status != 200:
            raise StripeRefusedError(f"{path}: {found['error']['message']}")
        return found

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Sends one request to the application."""
        parts, body = urlsplit(url), post_data.encode() if isinstance(post_data, str) else post_data or b""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method.upper(),
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "server": ("stripe.invalid", 80),
            "client": ("memory", 1),
            "headers": [(name.lower().encode(), str(value).encode()) for name, value in headers.items()],
        }
        received = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return received.pop() if received else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self._is_due_known = False
        await _APP(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return b"".join(message["body"] for message in sent[1:]), sent[0]["status"], answered

    async def close_async(self) -> None:
        """Closes nothing."""


def _flat(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested parameters as Stripe's forms write them."""
    found: list[tuple[str, str]] = []
    for key, value in params.items():
        name = f"{prefix}[{key}]" if prefix else key
        match value:
            case dict():
                found += _flat(value, name)
            case list():
                found += _flat({str(index): each for index, each in enumerate(value)}, name)
            case bool():
                found.append((name, str(value).lower()))
            case _:
                found.append((name, str(value)))
    return found


_FREQUENT = (
    "/v1/subscriptions/{id}",
    "/v1/invoices",
    "/v1/subscriptions",
    "/v1/checkout/sessions",
    "/v1/customers",
    "/v1/prices/{id}",
    "/v1/invoiceitems",
)
_ACCOUNT = Account(Store(), real_time=lambda: 0.0)
_APP = create_app(_ACCOUNT, KEY, lambda: None, lambda: None)  # type: ignore[arg-type,return-value]  # nothing is sent
# Routes are matched one after the other, which takes a third of a request to the last one.
_APP.router.routes.sort(key=lambda route: (*_FREQUENT, getattr(route, "path", "")).index(getattr(route, "path", "")))
