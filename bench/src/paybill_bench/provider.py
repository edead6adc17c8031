"""A provider whose answers are in memory: what `paybill stripe-fake` said once, with the ids of whoever asks.

It stands in for the stand-in, whose own work in Python would otherwise be in every figure. Ids say all that an answer
needs: `cus_<tenant>` and `sub_<plan>_<tenant>`, where `<tenant>` is the 32 digits of the tenant's id.
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
"""What is put in the place of ids where answers are recorded."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DIGITS = re.compile("ten_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Answers by what was asked. prices: by lookup key; subscriptions, sessions: by plan."""

    customer: str
    session: str
    prices: dict[str, str]
    subscriptions: dict[str, str]

    def answer(self, method: str, target: str, body: str) -> str | None:
        """The answer to one request; None when nothing like it was recorded."""
        path, _, query = target.partition("?")
        match method, path:
            case "GET", "/v1/customers":
                return _page([])
            case "GET", "/v1/prices":
                return _page([self.prices[parse_qs(query)["lookup_keys[0]"][0]]])
            case "POST", "/v1/customers":
                return _told(self.customer, _tenant(body))
            case "POST", "/v1/checkout/sessions":
                return _told(self.session, _tenant(body))
            case "GET", _ if path.startswith("/v1/subscriptions/"):
                _, plan, digits = path.rpartition("/")[2].split("_")
                return _told(self.subscriptions[plan], digits, plan)
            case _:
                return None


def _told(recorded: str, digits: str, plan: str = "") -> str:
    told = recorded.replace(CUSTOMER, f"cus_{digits}").replace(TENANT, f"ten_{digits}")
    return told.replace(SUBSCRIPTION, f"sub_{plan}_{digits}")


def _tenant(body: str) -> str:
    found = _DIGITS.search(unquote(body))
    return found[1] if found is not None else ""


def _page(items: list[str]) -> str:
    return f'{{"object":"list","url":"/","has_more":false,"data":[{",".join(items)}]}}'


class Connection(asyncio.Protocol):
    """One client, that asks again when it has been answered (HTTP/1.1)."""

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
        said = self._recorded.answer(method, target, body.decode())
        status = "200 OK" if said is not None else "404 Not Found"
        answer = (said or '{"error":{"message":"this was not recorded"}}').encode()
        if self._transport is not None:
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
            )
            self._transport.write(head + answer)


async def serve(recorded: Recorded, port: int) -> None:
    """Answer on loopback, for ever."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(recorded), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Recorded(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), int(sys.argv[2])))
