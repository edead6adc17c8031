"""Requests that come whole and plain to a door: answered past parser and framework, which cost more than the work does.

One look tells them from all others, which go the long way: there uvicorn, h11 and FastAPI find out what they are. What
is taken here is what h11 would read in the same way. The edge is the same on both ways, and so are the answers.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message

FastRoutes = Mapping[str, ASGIApp]
"""What answers a POST to a path. It is given the whole body in one message, and answers in two."""

MAX_HEAD_BYTES = 16 * 1024
_FIELD = rb"[a-z0-9-]+: ?[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n"
_HEAD = re.compile(rb"POST (/[a-z0-9/-]{1,200}) HTTP/1\.1\r\n((?:%b){1,60})\r\n" % _FIELD, re.IGNORECASE)
_ONCE = (b"host", b"content-length")
_NOT_FAST = {b"transfer-encoding", b"connection", b"expect", b"upgrade", b"trailer"}
"""What changes how a message is read, or what becomes of its connection."""
_KEEP_ALIVE = (b"connection", b"keep-alive")
"""As it is without being said; many clients say it."""


class FastRequest:
    """A request to `door`, and its answer once the door was called."""

    def __init__(self, endpoint: ASGIApp, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.response = b""
        self._endpoint = endpoint
        self._path = path
        self._headers = headers
        self._body = body
        self._head = b""
        self._always: Sequence[tuple[bytes, bytes]] = ()

    async def call(self, always: Sequence[tuple[bytes, bytes]]) -> None:
        """Have it answered; `always` are headers of every answer."""
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


def parse_fast_request(data: bytes, routes: FastRoutes) -> FastRequest | None:
    """The request that `data` is from its first byte to its last; None when it has to go the long way."""
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
    return FastRequest(endpoint, match[1], headers, body) if whole else None
