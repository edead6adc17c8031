"""A minimal endpoint for Stripe's webhooks that acknowledges only durable messages.

Raw ASGI on uvicorn with httptools, the faster of its two parsers of HTTP. It checks the signature and its age, reads
the event's id, and responds when the body is in PostgreSQL: concurrent requests share one statement. Not routed, not
traced, not bounded, not sealed; nothing processes the stored messages.
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

from paybill_bench.access import ServerAccess, from_command_line

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
    """Group commit: one statement at a time, with all messages that arrived meanwhile."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._pending: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()

    async def keep(self, event_id: str, body: bytes) -> None:
        """Returns once the message is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((event_id, body, done))
        self._arrived.set()
        await done

    async def write(self) -> None:
        """Writes groups until the process is stopped."""
        keep = await self._connection.prepare(KEEP)
        while True:
            await self._arrived.wait()
            group, self._pending = self._pending[:MAX_GROUP], self._pending[MAX_GROUP:]
            if not self._pending:
                self._arrived.clear()
            await keep.fetch([event_id for event_id, _, _ in group], [body for _, body, _ in group])
            for _, _, done in group:
                if not done.done():
                    done.set_result(None)


class Application:
    """The ASGI application."""

    def __init__(self, inbox: Inbox, secret: str) -> None:
        self._inbox = inbox
        self._secret = secret.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handles one request."""
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
        answer = b'{"received":true}' if status == 200 else b'{"received":false}'  # noqa: PLR2004  # HTTP status
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


async def run(access: ServerAccess, port: int, secret: str) -> None:
    """Serves until the process is stopped."""
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    await connection.execute(TABLES)
    inbox = Inbox(connection)
    config = uvicorn.Config(
        Application(inbox, secret),
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.write())
        tasks.create_task(uvicorn.Server(config).serve())


if __name__ == "__main__":
    asyncio.run(run(from_command_line(), int(sys.argv[2]), Path(sys.argv[3]).read_text(encoding="utf-8").strip()))
