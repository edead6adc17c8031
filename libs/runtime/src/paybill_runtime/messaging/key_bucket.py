"""Distribution of data keys: copies in the NATS key bucket, encrypted for each recipient that may open the data."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from nats.js.errors import NotFoundError as MessageNotFoundError
from paybill_contracts.key_copies import copy_for, encode_copies, key_subject
from sqlalchemy import Row

from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.key_recipients import COPY_KEYS, fixed_recipients
from paybill_runtime.messaging.streams import KEYS
from paybill_runtime.security.data_keys import COPIED, MARK_COPIED, RECIPIENTS, UNCOPIED
from paybill_runtime.security.identity import Identity, encrypt

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
            some = rows[start : start + COPIES_AT_ONCE]
            async with self._database.transaction() as connection:
                await self._publish(some, await fixed_recipients(connection))
                await connection.execute(MARK_COPIED, {"tenants": [row.tenant for row in some]})

    def renewal(self) -> Kind:
        """Returns the kind of the job that publishes every key again, for changed recipients."""

        async def run(_: ClaimedJob) -> None:
            await self.publish_again()

        return Kind(COPY_KEYS, run, RELAY, Priority.BULK, exclusive=True)

    async def publish_again(self) -> None:
        """Publishes all keys that were published before; the relay publishes the others."""
        last = ""
        while True:
            async with self._database.transaction() as connection:
                recipients = await fixed_recipients(connection)
                # The rows are locked, so that a key that is being erased is not published behind its deletion.
                rows = (await connection.execute(COPIED, {"after": last, "limit": COPIES_AT_ONCE})).all()
                await self._publish(rows, recipients)
            if len(rows) < COPIES_AT_ONCE:
                return
            last = rows[-1].tenant

    async def fetch(self, owner: str, tenant: str) -> bytes | None:
        """Returns the key of `owner` for `tenant`, encrypted for this service; None when it is deleted."""
        try:
            message = await self._broker.client.jetstream().get_last_msg(KEYS, key_subject(owner, tenant), direct=True)
        except MessageNotFoundError:
            return None
        return copy_for(self._service, message.data or b"")

    async def _publish(self, rows: Sequence[Row[Any]], recipients: Mapping[str, bytes]) -> None:
        results = await asyncio.gather(
            *(self._publish_one(row.tenant, bytes(row.wrapped), recipients) for row in rows), return_exceptions=True
        )
        for failure in results:
            if failure is not None:
                raise failure

    async def _publish_one(self, tenant: str, wrapped: bytes, recipients: Mapping[str, bytes]) -> None:
        key = self._identity.decrypt(wrapped)
        copies = {name: encrypt(key, public_key, name) for name, public_key in recipients.items()}
        copies |= {name: self._identity.encrypt_for(key, name) for name in RECIPIENTS.get(self._service, ())}
        if copies:
            await self._broker.client.jetstream().publish(
                key_subject(self._service, tenant), encode_copies(copies), stream=KEYS
            )
