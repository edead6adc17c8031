"""Whole services in the test's process, each on a database of its own."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer

from paybill_runtime.app import Running, Service
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.loops import Loops
from paybill_runtime.testing.databases import Databases
from paybill_runtime.testing.signing import make_test_identity

_IDENTITIES = ("tenant", "billing", "provisioner", "agent-gateway", "operator")


@dataclass
class Served:
    """Service that runs in this process, and a client of its HTTP API with an admin's key."""

    running: Running
    client: httpx.AsyncClient


Start = Callable[..., Any]


@pytest.fixture
async def start(
    postgres: PostgresServer, databases: Databases, nats: NatsServer, tmp_path: Path
) -> AsyncIterator[Start]:
    """`await start(service, **settings)` runs a service on a fresh database until the test ends.

    loops: run its background loops instead of its own `Loops`.
    """
    identities = tmp_path / "identities"
    for name in _IDENTITIES:
        make_test_identity(identities, name)
    key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [key.stored]}))
    async with AsyncExitStack() as stack:

        async def started(service: Service, url: str | None = None, loops: Loops | None = None, **more: Any) -> Served:
            database_url = url or await databases.fresh(service.name)
            settings = service.settings(
                **{
                    "database_url": database_url,
                    "database_password_file": postgres.password_file(service.name),
                    "database_connections": 3,  # to log in is a quarter of the work of a start
                    "nats_url": nats.url,
                    "nats_user": service.name,
                    "nats_password_file": nats.password_file(service.name),
                    "api_keys_file": keys,
                    "identity_dir": identities,
                    "secrets_dir": tmp_path / "secrets",
                    "lease_s": 2,
                    **more,
                }
            )
            running = Running(service, settings)
            running.loops = loops or running.loops
            await stack.enter_async_context(running)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(_when_called(running), raise_app_exceptions=False),
                base_url="http://service",
                headers={"Authorization": f"Bearer {key.raw}"},
            )
            await stack.enter_async_context(client)
            return Served(running, client)

        yield started


def _when_called(running: Running) -> Callable[..., Any]:
    """Builds the HTTP application at its first request: many tests make none, and it takes longer than the rest."""
    built: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not built:
            built.append(running.app())
        await built[0](scope, receive, send)

    return app
