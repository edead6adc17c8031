"""A provider with responses in memory: recorded from `paybill stripe-fake`, with the ids of the requesting tenant.

It replaces the Stripe fake, whose own work in Python would otherwise be part of every figure. Ids contain all data of a
response: `cus_<tenant>` and `sub_<plan>_<tenant>`, where `<tenant>` is the 32 digits of the tenant's id.
"""

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, unquote

from typing_extensions import override

TENANT, CUSTOMER, SUBSCRIPTION = "ten_recorded", "cus_recorded", "sub_recorded"
"""Placeholders for ids in recorded responses."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DIGITS = re.compile("ten_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recorded responses. prices: by lookup key; subscriptions, sessions: by plan."""

    customer: str
    session: str
    prices: dict[str, str]
    subscriptions: dict[str, str]

    def respond(self, method: str, target: str, body: str) -> str | None:
        """Returns the response to one request; None when nothing matching was recorded."""
        path, _, query = target.partition("?")
        match method, path:
            case "GET", "/v1/customers":
                return _page([])
            case "GET", "/v1/prices":
                return _page([self.prices[parse_qs(query)["lookup_keys[0]"][0]]])
            case "POST", "/v1/customers":
                return _with_ids(self.customer, _tenant(body))
            case "POST", "/v1/checkout/sessions":
                return _with_ids(self.session, _tenant(body))
            case "GET", _ if path.startswith("/v1/subscriptions/"):
                _, plan, digits = path.rpartition("/")[2].split("_")
                return _with_ids(self.subscriptions[plan], digits, plan)
            case _:
                return None


def _with_ids(recorded: str, digits: str, plan: str = "") -> str:
    text = recorded.replace(CUSTOMER, f"cus_{digits}").replace(TENANT, f"ten_{digits}")
    return text.replace(SUBSCRIPTION, f"sub_{plan}_{digits}")


def _tenant(body: str) -> str:
    found = _DIGITS.search(unquote(body))
    return found[1] if found is not None else ""


def _page(items: list[str]) -> str:
    return f'{{"object":"list","url":"/","has_more":false,"data":[{",".join(items)}]}}'


class Connection(asyncio.Protocol):
    """One client, which sends a request after each response (HTTP/1.1)."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._received = b""
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length is not None else 0):
            return
        self._received = b""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        response = self._recorded.respond(method, target, body.decode())
        status = "200 OK" if response is not None else "404 Not Found"
        content = (response or '{"error":{"message":"this was not recorded"}}').encode()
        if self._transport is not None:
            fields = f"Content-Type: application/json\r\nContent-Length: {len(content)}"
            self._transport.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + content)


async def serve(recorded: Recorded, port: int) -> None:
    """Serves on loopback until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(recorded), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Recorded(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), int(sys.argv[2])))
