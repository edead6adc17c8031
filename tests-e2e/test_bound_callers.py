"""Every route of every service refuses the key of an agent, unless it accepts bound callers explicitly."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from paybill_embedded.users import SERVICES
from paybill_runtime.http.auth import ApiKey, Role, make_key
from service_apps import PUBLIC, routes_of, running_service

ACCEPTING = frozenset(
    {
        ("agent-gateway", "POST", "/mcp"),
        ("agent-gateway", "POST", "/v1/workflows/{name}/runs"),
        ("agent-gateway", "POST", "/v1/runs/{run}/steps/{step}"),
        ("agent-gateway", "GET", "/v1/runs/{run}"),
    }
)
"""Service, method and path of the routes that accept agents; each of them compares the tenant."""
AGENT = {
    "subject": f"agent:agt_{'1' * 32}",
    "tenant_id": f"ten_{'a' * 32}",
    "agent_role": "support",
}


@pytest.mark.parametrize("name", SERVICES)
async def test_a_route_refuses_agents_unless_it_accepts_them_explicitly(name: str, tmp_path: Path) -> None:
    key = make_key("agt-1", "support", Role.VIEWER, (f"{name}:act",), datetime.now(UTC) + timedelta(days=1))
    app = running_service(name, tmp_path, [ApiKey(**(key.stored | AGENT)).model_dump(mode="json")]).app()
    accepting, public, refusing = set(), set(), 0
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for method, path in sorted(routes_of(app)):
            if path in PUBLIC:
                public.add(path)
                continue
            url = re.sub(r"\{[^}]+\}", "x", path)
            answer = await client.request(method, url, headers={"Authorization": f"Bearer {key.raw}"})
            if answer.status_code == 403 and answer.json()["code"] == "key_bound_to_tenant":
                refusing += 1
            else:
                accepting.add((name, method, path))

    assert accepting == {each for each in ACCEPTING if each[0] == name}
    assert {"/healthz", "/readyz"} <= public
    assert refusing >= 10
