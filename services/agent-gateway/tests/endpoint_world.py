"""A gateway that listens on a port, with tenants in a pool database and agents with keys."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
from gateway_world import World, world
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from paybill_runtime.serving import serving

_NUMBERS = count(1)


@dataclass
class Endpoints:
    """Both endpoints of a gateway. port: of its server; operator: an admin's client of the REST API."""

    world: World
    port: int

    @property
    def operator(self) -> httpx.AsyncClient:
        """A client of the application itself, with an admin's key."""
        return self.world.served.client

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    async def agent(self, tenant_id: str, role: str = "support", **body: Any) -> dict[str, Any]:
        """Registers an agent; its view has the key."""
        request = {"tenant": tenant_id, "name": f"helper-{next(_NUMBERS)}", "role": role, "lifetime_s": 3600} | body
        response = await self.operator.post("/v1/agents", json=request)
        assert response.status_code == 201, response.text
        return response.json()

    @asynccontextmanager
    async def client(self, key: str, mode: str) -> AsyncIterator[Client]:
        """Connects the official client. mode: a revision, `legacy` for the handshake, or `auto`."""
        async with (
            create_mcp_http_client(headers={"Authorization": f"Bearer {key}"}) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield client

    def rest(self, key: str) -> httpx.AsyncClient:
        """Returns a client of the server with a key."""
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"})


@asynccontextmanager
async def endpoints(start: Any, postgres: Any, **options: Any) -> AsyncIterator[Endpoints]:
    """Provides a gateway with the example's bundle in force; `options` are those of `world`."""
    async with world(start, postgres, **options) as found:
        running = found.served.running
        async with serving(running) as port:
            yield Endpoints(found, port)
