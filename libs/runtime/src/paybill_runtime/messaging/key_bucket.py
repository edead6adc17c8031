"""Distribution of data keys: copies in the NATS key bucket, encrypted for each service that may open the data."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from nats.js.errors import NotFoundError as MessageNotFoundError
from sqlalchemy import Row

from paybill_runtime.database.pool import Database
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.streams import KEYS
from paybill_runtime.security.data_keys import MARK_COPIED, RECIPIENTS, UNCOPIED
from paybill_runtime.security.identity import Identity

COPIES_AT_ONCE = 64
"""The server confirms each copy only when it is on disk; one after the other, a few hundred in a second."""


class KeyBucket:
    """Publishes the data keys of one service, and fetches those that other services published for it."""

    def __init__(self, service: str, identity: Identity, database: Database, broker: Broker) -> None:
        self._service = service
        self._identity = identity
        self._database = database
        self._broker = broker

    async def publish_new(self) -> None:
        """Publishes new keys for each recipient; called before the facts that need them are published."""
        # All keys that exist now, because the next facts may need any of them. Keys created meanwhile belong to later
        # facts: waiting for them too would stop publishing while tenants sign up faster than keys are copied.
        async with self._database.reading() as connection:
            rows = (await connection.execute(UNCOPIED)).all()
        for start in range(0, len(rows), COPIES_AT_ONCE):
            await self._publish_some(rows[start : start + COPIES_AT_ONCE])

    async def fetch(self, owner: str, tenant: str) -> bytes | None:
        """Returns the key of `owner` for `tenant`, encrypted for this service; None when it is deleted."""
        try:
            message = await self._broker.client.jetstream().get_last_msg(KEYS, _subject(owner, tenant), direct=True)
        except MessageNotFoundError:
            return None
        copies = json.loads(message.data or b"{}")
        return b64decode(copies[self._service]) if self._service in copies else None

    async def _publish_some(self, rows: Sequence[Row[Any]]) -> None:
        results = await asyncio.gather(
            *(self._publish(row.tenant, bytes(row.wrapped)) for row in rows), return_exceptions=True
        )
        for failure in results:
            if failure is not None:
                raise failure
        async with self._database.transaction() as connection:
            await connection.execute(MARK_COPIED, {"tenants": [row.tenant for row in rows]})

    async def _publish(self, tenant: str, wrapped: bytes) -> None:
        key = self._identity.decrypt(wrapped)
        copies = {
            recipient: b64encode(self._identity.encrypt_for(key, recipient)).decode()
            for recipient in RECIPIENTS.get(self._service, ())
        }
        if copies:
            await self._broker.client.jetstream().publish(
                _subject(self._service, tenant), json.dumps(copies).encode(), stream=KEYS
            )


def _subject(owner: str, tenant: str) -> str:
    return f"$KV.keys.{owner}.{tenant}"
