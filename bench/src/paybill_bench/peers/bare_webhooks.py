"""A door for Stripe's webhooks with nothing behind it: the least that answers only what is durable.

Raw ASGI on the server that every service of ours has (uvicorn with h11). It checks the signature and its age, reads the
event's id, and answers when the body is in PostgreSQL: all that wait at a time share one statement. Not routed, not
traced, not bounded, not sealed; nobody works on what was kept.
"""

import asyncio
import hashlib
import hmac
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import uvicorn

from paybill_bench.place import Place, here

MAX_GROUP = 256
TOLERANCE_S = 300

TABLES = """
CREATE TABLE webhooks (
    event_id text PRIMARY KEY, body bytea NOT NULL, received_at timestamptz NOT NULL DEFAULT now()
)
"""
KEEP = (
    "INSERT INTO webhooks (event_id, body) SELECT * FROM unnest($1::text[], $2::bytea[]) AS n (event_id, body) "
    "ORDER BY event_id ON CONFLICT DO NOTHING"
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Inbox:
    """Group commit: one statement at a time, with all that came meanwhile."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()

    async def keep(self, event_id: str, body: bytes) -> None:
        """Return once it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event_id, body, done))
        self._arrived.set()
        await done

    async def write(self) -> None:
        """For ever."""
        keep = await self._connection.prepare(KEEP)
        while True:
            await self._arrived.wait()
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            if not self._waiting:
                self._arrived.clear()
            await keep.fetch([event_id for event_id, _, _ in group], [body for _, body, _ in group])
            for _, _, done in group:
                if not done.done():
                    done.set_result(None)


class Door:
    """The application."""

    def __init__(self, inbox: Inbox, secret: str) -> None:
        self._inbox = inbox
        self._secret = secret.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(parts)
        status = 400
        if self._signed(dict(scope["headers"]).get(b"stripe-signature", b""), body):
            await self._inbox.keep(orjson.loads(body)["id"], body)
            status = 200
        answer = b'{"received":true}' if status == 200 else b'{"received":false}'  # noqa: PLR2004  # HTTP's own number
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _signed(self, header: bytes, body: bytes) -> bool:
        parts = dict(part.split(b"=", 1) for part in header.split(b",") if b"=" in part)
        at = parts.get(b"t", b"")
        if not at.isdigit() or abs(time.time() - int(at)) > TOLERANCE_S:
            return False
        made = hmac.digest(self._secret, at + b"." + body, hashlib.sha256).hex().encode()
        return hmac.compare_digest(made, parts.get(b"v1", b""))


async def run(place: Place, port: int, secret: str) -> None:
    """For ever."""
    connection = await asyncpg.connect(place.database_url, password=place.database_password)
    await connection.execute(TABLES)
    inbox = Inbox(connection)
    config = uvicorn.Config(
        Door(inbox, secret),
        port=port,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.write())
        tasks.create_task(uvicorn.Server(config).serve())


if __name__ == "__main__":
    asyncio.run(run(here(), int(sys.argv[2]), Path(sys.argv[3]).read_text(encoding="utf-8").strip()))
