"""Data keys of personal data: one for each service and tenant, so that deleting a key erases its data."""

import secrets
from collections.abc import Awaitable, Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from paybill_contracts.errors import ConflictError
from paybill_contracts.personal import NONCE_BYTES, Personal, UnsealingError, seal, unseal
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.security.identity import Identity

RECIPIENTS: dict[str, tuple[str, ...]] = {"tenant": ("billing",)}
"""The services that may open another service's personal data. NATS permissions enforce the same."""

MAX_PENDING_KEYS = 10_000

_ONE = text("SELECT wrapped FROM chassis.data_key WHERE tenant = :tenant")
_ADD = text(
    "INSERT INTO chassis.data_key (tenant, wrapped) VALUES (:tenant, :wrapped) ON CONFLICT DO NOTHING RETURNING tenant"
)
UNCOPIED = text("SELECT tenant, wrapped FROM chassis.data_key WHERE NOT copied")
"""Keys that the key bucket does not have yet."""
COPIED = text(
    "SELECT tenant, wrapped FROM chassis.data_key WHERE copied AND tenant > :after ORDER BY tenant LIMIT :limit "
    "FOR KEY SHARE"
)
"""The next keys that the key bucket has; they cannot be deleted until the transaction ends."""
MARK_COPIED = text("UPDATE chassis.data_key SET copied = true WHERE tenant = ANY(:tenants)")

FetchCopy = Callable[[str, str], Awaitable[bytes | None]]
"""Returns the key of another service (owner, tenant) from the key bucket, encrypted for this service."""


class KeyConflictError(ConflictError):
    """Two requests created the first key of one tenant at once; this request has to be sent again."""

    code = "try_again"


class DataKeys:
    """Seals and opens personal values. A new key is stored in the transaction that first uses it."""

    def __init__(self, service: str, identity: Identity, database: Database, fetch_copy: FetchCopy) -> None:
        self._service = service
        self._identity = identity
        self._database = database
        self._fetch_copy = fetch_copy
        self._fresh: dict[str, bytes] = {}

    async def seal(self, tenant: str, value: str) -> Personal[str]:
        """Returns `value` under this service's key for `tenant`; pass the result to `decide(seals=…)`."""
        key = self._fresh.get(tenant) or await self._own(tenant)
        if key is None:
            while len(self._fresh) >= MAX_PENDING_KEYS:
                self._fresh.pop(next(iter(self._fresh)))
            # A concurrent call may have created one during the query: the first one is used.
            key = self._fresh.setdefault(tenant, AESGCM.generate_key(256))
        return seal(value, key=key, name=f"{self._service}/{tenant}", nonce=secrets.token_bytes(NONCE_BYTES))

    async def store(self, connection: AsyncConnection, sealed: Personal[str]) -> None:
        """Stores the key that `sealed` was sealed under, if it is new. Idempotent when the transaction is retried.

        Raises KeyConflictError when another key of this tenant was stored first, so that `sealed` could not be opened.
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
            raise KeyConflictError("two requests for one tenant were sent at once; send it again") from None

    def stored(self, sealed: Sequence[Personal[str]]) -> None:
        """Removes the pending keys of these values, after the transaction of `store` was committed."""
        for value in sealed:
            self._fresh.pop(value.key.partition("/")[2], None)

    async def open(self, value: Personal[str]) -> str:
        """Returns the plain value. Raises UnsealingError when the key is deleted or this service is not entitled."""
        owner, _, tenant = value.key.partition("/")
        key = await self._own(tenant) if owner == self._service else await self._copy(owner, tenant)
        if key is None:
            raise UnsealingError(f"the key {value.key} is deleted: its data was erased")
        return unseal(value, key)

    async def _own(self, tenant: str) -> bytes | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(_ONE, {"tenant": tenant})).one_or_none()
        return self._identity.decrypt(bytes(row.wrapped)) if row is not None else None

    async def _copy(self, owner: str, tenant: str) -> bytes | None:
        if self._service not in RECIPIENTS.get(owner, ()):
            raise UnsealingError(f"{self._service} may not open personal data of {owner}")
        wrapped = await self._fetch_copy(owner, tenant)
        return self._identity.decrypt(wrapped) if wrapped is not None else None


class ServiceSeal:
    """Seals values that belong to no tenant yet, such as a webhook, under a key derived from the service's identity."""

    def __init__(self, identity: Identity) -> None:
        private = identity.private.private_bytes_raw()
        self._cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"paybill-raw-v1").derive(private))

    def seal(self, value: bytes) -> bytes:
        """Returns the sealed form: nonce and AES-256-GCM output."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, None)

    def open(self, value: bytes) -> bytes:
        """Returns the plain value. Raises UnsealingError."""
        try:
            return self._cipher.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise UnsealingError("this value was not sealed by this service") from error
