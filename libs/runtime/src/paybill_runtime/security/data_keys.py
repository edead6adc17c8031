"""The keys of personal data: one for each service and tenant, and a copy for each service that may read it."""

import asyncio
import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nats.js.errors import NotFoundError as MessageNotFoundError
from paybill_contracts.errors import ConflictError
from paybill_contracts.personal import NONCE_BYTES, Personal, UnsealingError, seal, unseal
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.streams import KEYS
from paybill_runtime.security.identity import Identity

RECIPIENTS: dict[str, tuple[str, ...]] = {"tenant": ("billing",)}
"""Which services may open another's personal data. NATS permissions say the same."""

MAX_PENDING_KEYS = 10_000
COPIED_AT_ONCE = 64
"""The server confirms each only when it is on disk; one after the other, a few hundred in a second."""

_ONE = text("SELECT wrapped FROM chassis.data_key WHERE tenant = :tenant")
_ADD = text(
    "INSERT INTO chassis.data_key (tenant, wrapped) VALUES (:tenant, :wrapped) ON CONFLICT DO NOTHING RETURNING tenant"
)
_UNCOPIED = text("SELECT tenant, wrapped FROM chassis.data_key WHERE NOT copied")
_COPIED = text("UPDATE chassis.data_key SET copied = true WHERE tenant = ANY(:tenants)")


class KeyConflictError(ConflictError):
    """Two requests made the first key of one tenant at once; this one has to be sent again."""

    code = "try_again"


class DataKeys:
    """Seals and opens personal values. A new key is stored in the transaction that first uses it."""

    def __init__(self, service: str, identity: Identity, database: Database, broker: Broker) -> None:
        self._service = service
        self._identity = identity
        self._database = database
        self._broker = broker
        self._fresh: dict[str, bytes] = {}

    async def seal(self, tenant: str, value: str) -> Personal[str]:
        """`value` under this service's key for `tenant`; pass the result to `decide(seals=…)`."""
        key = self._fresh.get(tenant) or await self._own(tenant)
        if key is None:
            while len(self._fresh) >= MAX_PENDING_KEYS:
                self._fresh.pop(next(iter(self._fresh)))
            # Somebody else may have made one while we looked: the first one counts.
            key = self._fresh.setdefault(tenant, AESGCM.generate_key(256))
        return seal(value, key=key, name=f"{self._service}/{tenant}", nonce=secrets.token_bytes(NONCE_BYTES))

    async def store(self, connection: AsyncConnection, sealed: Personal[str]) -> None:
        """Keep the key that `sealed` was sealed under, if it is new. May be called again when the transaction fails.

        Raises KeyRaceError when it could not be opened later, because another key of this tenant was kept first.
        """
        tenant = sealed.key.partition("/")[2]
        key = self._fresh.get(tenant)
        if key is not None:
            wrapped = self._identity.encrypt_for(key, self._service)
            added = await connection.execute(_ADD, {"tenant": tenant, "wrapped": wrapped})
            key = key if added.one_or_none() is not None else None
        if key is None:
            row = (await connection.execute(_ONE, {"tenant": tenant})).one_or_none()
            key = self._identity.decrypt(bytes(row.wrapped)) if row is not None else None
        try:
            unseal(sealed, key or bytes(32))
        except UnsealingError:
            self._fresh.pop(tenant, None)
            raise KeyConflictError("two requests for one tenant met; send it again") from None

    def stored(self, sealed: Sequence[Personal[str]]) -> None:
        """The transaction that `store` was part of is committed: what is kept there need not be remembered."""
        for value in sealed:
            self._fresh.pop(value.key.partition("/")[2], None)

    async def open(self, value: Personal[str]) -> str:
        """The value in clear. Raises UnsealingError when the key is gone or we are not entitled to it."""
        owner, _, tenant = value.key.partition("/")
        key = await self._own(tenant) if owner == self._service else await self._copy(owner, tenant)
        if key is None:
            raise UnsealingError(f"the key {value.key} is gone: its data was erased")
        return unseal(value, key)

    async def publish_keys(self) -> None:
        """Put new keys into the key bucket, locked for each entitled reader; before the facts that need them."""
        # All that are there now, for which of them the next facts need is not known here. Those that come meanwhile are
        # for later facts: waiting for them too, no fact would go out while tenants sign up faster than this copies.
        async with self._database.reading() as connection:
            rows = (await connection.execute(_UNCOPIED)).all()
        for start in range(0, len(rows), COPIED_AT_ONCE):
            await self._copy_some(rows[start : start + COPIED_AT_ONCE])

    async def _copy_some(self, rows: Sequence[Row[Any]]) -> None:
        said = await asyncio.gather(
            *(self._publish(row.tenant, bytes(row.wrapped)) for row in rows), return_exceptions=True
        )
        for failure in said:
            if failure is not None:
                raise failure
        async with self._database.transaction() as connection:
            await connection.execute(_COPIED, {"tenants": [row.tenant for row in rows]})

    async def _publish(self, tenant: str, wrapped: bytes) -> None:
        key = self._identity.decrypt(wrapped)
        boxes = {
            reader: b64encode(self._identity.encrypt_for(key, reader)).decode()
            for reader in RECIPIENTS.get(self._service, ())
        }
        if boxes:
            await self._broker.client.jetstream().publish(
                f"$KV.keys.{self._service}.{tenant}", json.dumps(boxes).encode(), stream=KEYS
            )

    async def _own(self, tenant: str) -> bytes | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(_ONE, {"tenant": tenant})).one_or_none()
        return self._identity.decrypt(bytes(row.wrapped)) if row is not None else None

    async def _copy(self, owner: str, tenant: str) -> bytes | None:
        if self._service not in RECIPIENTS.get(owner, ()):
            raise UnsealingError(f"{self._service} may not open personal data of {owner}")
        try:
            message = await self._broker.client.jetstream().get_last_msg(
                KEYS, f"$KV.keys.{owner}.{tenant}", direct=True
            )
        except MessageNotFoundError:
            return None
        boxes = json.loads(message.data or b"{}")
        return self._identity.decrypt(b64decode(boxes[self._service])) if self._service in boxes else None


class ServiceSeal:
    """Seals what belongs to no tenant yet, such as a provider's webhook, under a key derived from the own identity."""

    def __init__(self, identity: Identity) -> None:
        private = identity.private.private_bytes_raw()
        self._box = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"paybill-raw-v1").derive(private))

    def seal(self, value: bytes) -> bytes:
        """The sealed form: nonce and AES-256-GCM output."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, value, None)

    def open(self, value: bytes) -> bytes:
        """The value in clear; raises UnsealingError."""
        try:
            return self._box.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise UnsealingError("this was not sealed by us") from error
