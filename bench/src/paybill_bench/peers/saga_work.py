"""The work of a saga that both of its peers do: fetch the subscription, build the tenant's resources, make its facts.

The resources are those of a pooled tenant of the local driver: a PostgreSQL role with two group memberships, a folder,
and with `credentials_at_once` the role's password with its secret (encrypted, 0600, synced). A resource has a fact of
its own then; without it one fact has all resources. Each function may be repeated after a crash.
"""

import asyncio
import json
import os
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg
import orjson
import uvicorn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paybill_contracts.event import partition_of
from paybill_embedded.databases import ITERATIONS, scram_verifier

from paybill_bench.access import ServerAccess
from paybill_bench.activations import read_response
from paybill_bench.facts import Message

ROLE_PREFIX = "bench_"
"""Prefix of the roles of tenants, which are dropped after a run."""
GROUPS = ("bench-members", "bench-writers")
"""Groups of which each tenant's role becomes a member, as in a pool of the local driver."""
DRIVER_CONNECTIONS = 4
RESOURCES = ("folder.data", "postgres.database", "postgres.schema", "postgres.role", "secret.database")

_NONCE_BYTES = 12
_REFERENCE = "secret://bench/{}?v=1"


@dataclass(frozen=True, slots=True)
class SagaSettings:
    """Settings of a peer: its servers, the port of its endpoint, the provider, and where it builds resources.

    credentials_at_once: it makes a password for each tenant; otherwise nobody has requested one yet.
    """

    servers: ServerAccess
    port: int
    webhook_secret_file: str
    provider_port: int
    driver_url: str
    driver_password_file: str
    directory: str
    credentials_at_once: bool

    @property
    def webhook_secret(self) -> str:
        """Returns the secret that signs webhooks."""
        return Path(self.webhook_secret_file).read_text(encoding="utf-8").strip()

    def argument(self) -> str:
        """Returns the command-line argument for a child process."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, argument: str) -> Self:
        """Returns the settings that `argument` contains."""
        values = json.loads(argument)
        return cls(**values | {"servers": ServerAccess(**values["servers"])})


@dataclass(frozen=True, slots=True)
class Checkout:
    """A paid checkout, as the webhook names it."""

    event_id: str
    tenant: str
    subscription: str

    @classmethod
    def of(cls, body: bytes | str) -> Self:
        """Reads the body of a `checkout.session.completed`."""
        event = orjson.loads(body)
        session = event["data"]["object"]
        return cls(event["id"], session["client_reference_id"], session["subscription"])


class ProviderClient:
    """Client of the provider with persistent connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def subscription(self, id_: str) -> dict[str, Any]:
        """Returns the provider's current subscription."""
        connection = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        incoming, outgoing = connection
        outgoing.write(f"GET /v1/subscriptions/{id_} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head, body = await read_response(incoming)
        self._free.append(connection)
        if not head.startswith(b"HTTP/1.1 200"):
            raise LookupError(f"the provider has no subscription {id_}: {body[:200]!r}")
        found: dict[str, Any] = orjson.loads(body)
        return found


class TenantResources:
    """Builds the resources of tenants with the role of the local driver, and below `directory`."""

    def __init__(self, pool: Any, directory: Path) -> None:
        self._pool = pool
        self._secrets = directory / "secrets"
        self._folders = directory / "tenants"
        for folder in (directory, self._secrets, self._folders):
            folder.mkdir(mode=0o700, exist_ok=True)
        key_file = directory / "key"
        if not key_file.exists():
            _write_durably(key_file, AESGCM.generate_key(256))
        self._cipher = AESGCM(key_file.read_bytes())

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: SagaSettings) -> AsyncIterator[Self]:
        """Opens the connections and creates the groups."""
        password = Path(settings.driver_password_file).read_text(encoding="utf-8").strip()
        async with asyncpg.create_pool(
            settings.driver_url, password=password, min_size=1, max_size=DRIVER_CONNECTIONS
        ) as pool:
            for group in GROUPS:
                if not await pool.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", group):
                    await pool.execute(f'CREATE ROLE "{group}" NOLOGIN NOINHERIT')
            yield cls(pool, Path(settings.directory))

    def password(self, tenant: str) -> str:
        """Returns the stored password of the tenant, or a new one."""
        path = self._secrets / tenant
        if not path.exists():
            return secrets.token_urlsafe(32)
        stored = path.read_bytes()
        return self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], tenant.encode()).decode()

    async def store_secret(self, tenant: str, password: str) -> str:
        """Stores the password; returns its reference."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        content = nonce + self._cipher.encrypt(nonce, password.encode(), tenant.encode())
        await asyncio.to_thread(_write_durably, self._secrets / tenant, content)
        return _REFERENCE.format(tenant)

    async def create_folder(self, tenant: str) -> None:
        """Creates the tenant's folder."""
        await asyncio.to_thread(self._create_folder, tenant)

    def _create_folder(self, tenant: str) -> None:
        (self._folders / tenant).mkdir(mode=0o700, exist_ok=True)
        _sync(self._folders)

    async def create_role(self, tenant: str, password: str | None) -> None:
        """Creates the tenant's role, with the memberships of a tenant that may write."""
        role = f"{ROLE_PREFIX}{tenant.removeprefix('ten_')}"
        options = "NOINHERIT LOGIN CONNECTION LIMIT 20"
        if password is not None:
            options += f" PASSWORD '{await asyncio.to_thread(scram_verifier, password, ITERATIONS)}'"
        groups = ", ".join(f'"{group}"' for group in GROUPS)
        grant = f'GRANT {groups} TO "{role}" WITH INHERIT TRUE, SET FALSE'
        try:
            await self._pool.execute(f'CREATE ROLE "{role}" {options}; {grant}')
        except asyncpg.DuplicateObjectError:
            await self._pool.execute(f'ALTER ROLE "{role}" {options}; {grant}')


def _write_durably(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def plan_facts(checkout: Checkout, subscription: dict[str, Any]) -> list[Message]:
    """Returns the first four facts of a saga: those that are true before anything is built.

    Their contents are shorter than ours. Ids follow from the tenant, so that a fact that is published again after a
    crash has the same id.
    """
    price = subscription["items"]["data"][0]["price"]["lookup_key"]
    summary = {key: subscription[key] for key in ("id", "customer", "status", "created")}
    steps = [{"action": "create", "address": address, "properties": _properties(checkout)} for address in RESOURCES]
    bodies: Sequence[tuple[str, dict[str, Any]]] = (
        ("subscription_activated", {"subscription": summary, "price": price}),
        ("entitlements_set", {"plan": price, "features": list(RESOURCES)}),
        ("environment_planned", {"plan": {"region": "eu-central", "steps": steps}}),
        ("provisioning_started", {"environment": checkout.tenant}),
    )
    return [_fact(checkout, number, *body) for number, body in enumerate(bodies)]


def outcome_facts(checkout: Checkout, secret: str | None) -> list[Message]:
    """Returns the other facts: about the built resources, one for each if there is a secret, and the active tenant."""
    built = [{"address": address, "outputs": _properties(checkout)} for address in RESOURCES]
    bodies: Sequence[tuple[str, dict[str, Any]]] = (
        *(("resource_built", body) for body in ([{"resources": built}] if secret is None else built)),
        ("environment_ready", {"endpoint": {"host": "127.0.0.1", "role": checkout.tenant, "secret": secret}}),
        ("tenant_activated", {"environment": checkout.tenant}),
    )
    return [_fact(checkout, number, *body) for number, body in enumerate(bodies, start=4)]


def _fact(checkout: Checkout, number: int, name: str, body: dict[str, Any]) -> Message:
    id_ = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{checkout.tenant}/{number}"))
    headers = headers_of(id_, f"tenant.{name}", checkout.event_id, checkout.tenant)
    subject = f"paybill.events.{partition_of(checkout.tenant)}.tenant.{name}.v1"
    return Message(subject, headers, orjson.dumps({"tenant_id": checkout.tenant} | body))


def headers_of(id_: str, type_: str, cause: str, tenant: str) -> dict[str, str]:
    """Returns the headers of a fact, as few as in the bare hop."""
    return {"Nats-Msg-Id": id_, "ce-id": id_, "ce-type": type_, "pb-cause": cause, "pb-tenant": tenant}


def _properties(checkout: Checkout) -> dict[str, str]:
    return {"name": f"environments/{checkout.tenant}/database", "host": "127.0.0.1", "database": "pool_eu_central"}


def webhook_server(application: Any, port: int) -> uvicorn.Server:
    """Returns the HTTP server of a peer."""
    config = uvicorn.Config(
        application, port=port, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    return uvicorn.Server(config)
