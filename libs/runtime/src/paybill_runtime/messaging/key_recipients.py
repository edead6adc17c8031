"""Recipients of data keys outside Paybill: subscribers that an operator lets open the personal data of a service."""

from base64 import b64encode

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event
from paybill_contracts.operations import DataKeysShared, DataKeysWithdrawn, service_event
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.group_commit import OnCommit
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.security.data_keys import RECIPIENTS
from paybill_runtime.security.identity import encrypt

COPY_KEYS = "copy_data_keys"
"""The kind of the job that renews all copies after a change of the recipients."""

_ALL = text("SELECT name, public_key FROM chassis.key_recipient WHERE public_key IS NOT NULL ORDER BY name")
_LOCK = text("LOCK TABLE chassis.key_recipient IN SHARE MODE")
_SHARE = text(
    "INSERT INTO chassis.key_recipient AS r (name, public_key, revision) VALUES (:name, :public_key, 1) "
    "ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key, revision = r.revision + 1 "
    "WHERE r.public_key IS DISTINCT FROM excluded.public_key RETURNING revision"
)
_WITHDRAW = text(
    "UPDATE chassis.key_recipient SET public_key = NULL, revision = revision + 1 "
    "WHERE name = :name AND public_key IS NOT NULL RETURNING revision"
)


class UnusableKeyError(DomainError):
    """The public key cannot be used, or the name belongs to a service."""

    code = "unusable_key"


async def fixed_recipients(connection: AsyncConnection) -> dict[str, bytes]:
    """Returns the public keys by name; none can be added or removed until the transaction ends.

    A copy that is made in the transaction therefore never replaces one for newer recipients.
    """
    await connection.execute(_LOCK)
    return {row.name: bytes(row.public_key) for row in await connection.execute(_ALL)}


class KeyRecipients:
    """Changes the recipients of one service's data keys. Each change is a fact, and renews the copies of all keys."""

    def __init__(self, service: str, database: Database, store: Store, on_commit: OnCommit) -> None:
        self._service = service
        self._database = database
        self._store = store
        self._on_commit = on_commit

    async def names(self) -> list[str]:
        """Returns the names of all recipients."""
        async with self._database.reading() as connection:
            return [row.name for row in await connection.execute(_ALL)]

    async def share(self, name: str, public_key: bytes, origin: Origin) -> None:
        """Adds a recipient, or replaces its public key (X25519, 32 bytes). Idempotent. Raises UnusableKeyError."""
        if name in {self._service, *RECIPIENTS[self._service]}:
            raise UnusableKeyError(f"{name} is a service; choose another name")
        try:
            encrypt(b"", public_key, name)
        except ValueError as error:
            # Such a key would stop the relay at the next new key.
            raise UnusableKeyError("this is no public key of X25519: 32 bytes that are not of low order") from error
        event = service_event(self._service, DataKeysShared)(
            recipient=name, public_key=b64encode(public_key).decode(), operator=origin.actor
        )
        await self._change(_SHARE, {"name": name, "public_key": public_key}, event, origin)

    async def withdraw(self, name: str, origin: Origin) -> None:
        """Removes a recipient. Idempotent."""
        event = service_event(self._service, DataKeysWithdrawn)(recipient=name, operator=origin.actor)
        await self._change(_WITHDRAW, {"name": name}, event, origin)

    async def _change(self, change: TextClause, values: dict[str, object], event: Event, origin: Origin) -> None:
        unit, renewal = UnitOfWork(clock.now(), origin), Statement()
        request_job(renewal, JobRequest(COPY_KEYS, COPY_KEYS, RELAY, clock.now(), priority=Priority.BULK))
        async with self._database.transaction() as connection:
            revision = (await connection.execute(change, values)).scalar_one_or_none()
            if revision is None:
                return
            unit.emit(event, revision)
            await self._store.write(connection, unit)
            await renewal.execute(connection)
        self._on_commit(requires_jobs=True)
