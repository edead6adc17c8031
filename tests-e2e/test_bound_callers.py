"""Every route of every service refuses the key of an agent, unless it accepts bound callers explicitly."""

import json
import re
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from paybill_embedded.users import SERVICES
from paybill_runtime.app import Running, Service
from paybill_runtime.http.auth import ApiKey, Role, make_key
from paybill_runtime.security.identity import make_identity

ACCEPTING = frozenset(
    {
        ("agent-gateway", "POST", "/mcp"),
        ("agent-gateway", "POST", "/v1/workflows/{name}/runs"),
        ("agent-gateway", "POST", "/v1/runs/{run}/steps/{step}"),
        ("agent-gateway", "GET", "/v1/runs/{run}"),
    }
)
"""Service, method and path of the routes that accept agents; each of them compares the tenant."""
PUBLIC = {
    *("/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"),
    *("/.well-known/license-keys.json", "/.well-known/license-revocations", "/webhooks/{provider}"),
}
"""Paths of the routes that need no API key."""
AGENT = {
    "subject": f"agent:agt_{'1' * 32}",
    "tenant_id": f"ten_{'a' * 32}",
    "agent_role": "support",
}


def service_of(name: str) -> Service:
    declared: Service = import_module(f"paybill_{name.replace('-', '_')}.app").service()
    return declared


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Returns method and path of each route: those of the document, and those that it does not list."""
    found = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    for route in app.routes:
        for method in getattr(route, "methods", None) or ():
            if isinstance(route, APIRoute) or method == "GET":
                found.add((method, str(getattr(route, "path", ""))))
    return found


@pytest.fixture
def running(tmp_path: Path) -> Any:
    """Returns `running(service)`: its application without its loops, and a key of an agent that it knows."""

    def built(name: str) -> tuple[Running, str]:
        service = service_of(name)
        for each in (*SERVICES, "operator"):
            make_identity(tmp_path / "identities", each)
        end = datetime.now(UTC) + timedelta(days=1)
        key = make_key("agt-1", "support", Role.VIEWER, (f"{name}:act",), end)
        (tmp_path / "keys.json").write_text(
            json.dumps({"keys": [ApiKey(**(key.stored | AGENT)).model_dump(mode="json")]})
        )
        (tmp_path / "secret").write_text("secret")
        settings: dict[str, Any] = {
            "database_url": "postgresql://nobody@127.0.0.1:1/nothing",
            "nats_url": "nats://127.0.0.1:1",
            "nats_user": name,
            "nats_password_file": tmp_path / "secret",
            "api_keys_file": tmp_path / "keys.json",
            "identity_dir": tmp_path / "identities",
            "secrets_dir": tmp_path / "secrets",
        }
        if name == "provisioner":
            settings |= {"local_database_url": settings["database_url"], "local_dir": tmp_path}
        if name == "billing":
            settings |= {"default_provider": "manual"}
        return Running(service, service.settings(**settings)), key.raw

    return built


@pytest.mark.parametrize("name", SERVICES)
async def test_a_route_refuses_agents_unless_it_accepts_them_explicitly(name: str, running: Any) -> None:
    process, key = running(name)
    app = process.app()
    accepting, public, refusing = set(), set(), 0
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for method, path in sorted(routes_of(app)):
            if path in PUBLIC:
                public.add(path)
                continue
            url = re.sub(r"\{[^}]+\}", "x", path)
            answer = await client.request(method, url, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code == 403 and answer.json()["code"] == "key_bound_to_tenant":
                refusing += 1
            else:
                accepting.add((name, method, path))

    assert accepting == {each for each in ACCEPTING if each[0] == name}
    assert {"/healthz", "/readyz"} <= public
    assert refusing >= 10
