"""Fast route: requests that arrive whole and in a simple form are answered without h11 and FastAPI.

One regular expression selects them; all others take the ordinary route through uvicorn, h11 and FastAPI. A selected
request is one that h11 would parse to the same result. Middleware and responses are the same on both routes.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message

FastRoutes = Mapping[str, ASGIApp]
"""ASGI endpoints that answer a POST, by path. Each receives the whole body in one message, and sends two."""

MAX_HEAD_BYTES = 16 * 1024
_FIELD = rb"[a-z0-9-]+: ?[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n"
_HEAD = re.compile(rb"POST (/[a-z0-9/-]{1,200}) HTTP/1\.1\r\n((?:%b){1,60})\r\n" % _FIELD, re.IGNORECASE)
_ONCE = (b"host", b"content-length")
_NOT_FAST = {b"transfer-encoding", b"connection", b"expect", b"upgrade", b"trailer"}
"""Headers that change how a message is framed, or end its connection."""
_KEEP_ALIVE = (b"connection", b"keep-alive")
"""The default of HTTP/1.1; many clients send it."""


class FastRouteRequest:
    """A request to an endpoint, and its response after `call`."""

    def __init__(self, endpoint: ASGIApp, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.response = b""
        self._endpoint = endpoint
        self._path = path
        self._headers = headers
        self._body = body
        self._head = b""
        self._always: Sequence[tuple[bytes, bytes]] = ()

    async def call(self, always: Sequence[tuple[bytes, bytes]]) -> None:
        """Calls the endpoint; `always` are headers of every response."""
        self._always = always
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path.decode(),
            "raw_path": self._path,
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
            "state": {},
        }
        await self._endpoint(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status = HTTPStatus(message["status"])
            fields = b"".join(b"%b: %b\r\n" % field for field in (*self._always, *message["headers"]))
            self._head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, status.phrase.encode(), fields)
        else:
            self.response = self._head + message["body"]


def match_fast_route(data: bytes, routes: FastRoutes) -> FastRouteRequest | None:
    """Returns the request that `data` is exactly; None when it has to take the ordinary route."""
    match = _HEAD.match(data, 0, MAX_HEAD_BYTES)
    endpoint = routes.get(match[1].decode()) if match is not None else None
    if match is None or endpoint is None:
        return None
    headers = []
    for field in match[2].split(b"\r\n")[:-1]:
        name, _, value = field.partition(b":")
        headers.append((name.lower(), value.lstrip()))
    names = [field[0] for field in headers if field != _KEEP_ALIVE]
    if any(names.count(name) != 1 for name in _ONCE) or not _NOT_FAST.isdisjoint(names):
        return None
    body = data[match.end() :]
    whole = dict(headers)[b"content-length"] == b"%d" % len(body)
    return FastRouteRequest(endpoint, match[1], headers, body) if whole else None
