"""Measures who may call each route, and writes it to docs/security.md: `python tests-e2e/route_rights.py`.

Each route of each service is called with a key of each role and of each scope. A request that is allowed ends before
its handler: its Idempotency-Key is invalid, which is checked after the rights.
"""

import asyncio
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from paybill_embedded.users import SERVICES
from paybill_runtime.http.auth import ApiKey, Role, make_key
from paybill_runtime.http.fast_route import FastRouter
from service_apps import PUBLIC, routes_of, running_service

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/security.md"
BEGIN, END = "<!-- routes and roles: written by tests-e2e/route_rights.py -->", "<!-- end of routes and roles -->"
FORBIDDEN = {"wrong_scope", "key_bound_to_tenant", "no_agent"}
AGENT = {"subject": f"agent:agt_{'1' * 32}", "tenant_id": f"ten_{'a' * 32}", "agent_role": "support"}
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Idempotency-Key": "not valid"}

Route = tuple[str, str]
"""Method and path."""


@dataclass(frozen=True)
class Rights:
    """Roles that may call a route, the scope that each needs, and whether agents may call it."""

    roles: frozenset[Role]
    scope: str
    agents: bool


class Service:
    """A service with keys of each kind, by name."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.keys: dict[str, str] = {}
        self._stored: list[dict[str, Any]] = []
        other = next(each for each in SERVICES if each != name)
        for role in Role:
            self._add(role.name, role, ("*",))
        for access in ("read", "write"):
            self._add(access, Role.ADMIN, (f"{name}:{access}",))
            self._add(f"other {access}", Role.ADMIN, (f"{other}:{access}",))
        self._add("agent", Role.VIEWER, (f"{name}:act",), **AGENT)
        self._add("other agent", Role.VIEWER, (f"{other}:act",), **AGENT)
        self._add("expired", Role.ADMIN, ("*",), expires_at=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
        self._add("revoked", Role.ADMIN, ("*",))
        self.keys["wrong secret"] = self.keys["ADMIN"][:-4] + "AAAA"
        self.keys["unknown"] = make_key("nobody", "nobody", Role.ADMIN, ("*",), datetime.now(UTC)).raw
        revoked = ApiKey.model_validate(self._stored.pop())
        running = running_service(name, folder, self._stored)
        running.key_ring.add(revoked)
        running.key_ring.revoke(revoked.id)
        app = running.app()
        self.routes = sorted((each for each in routes_of(app) if each[1] not in PUBLIC), key=lambda each: each[::-1])
        self._transport = httpx.ASGITransport(FastRouter(running.fast_routes(), app))

    def _add(self, name: str, role: Role, scopes: tuple[str, ...], **fields: Any) -> None:
        key = make_key(f"k{len(self.keys)}", "test", role, scopes, datetime.now(UTC) + timedelta(days=1))
        self._stored.append(ApiKey.model_validate(key.stored | fields).model_dump(mode="json"))
        self.keys[name] = key.raw

    async def answers(self) -> dict[Route, dict[str, str]]:
        """Returns the answer of each route to each key: the code of a refusal, or `allowed`."""
        async with httpx.AsyncClient(transport=self._transport, base_url="http://service") as client:
            return {
                route: {
                    name: await self._answer(client, route, {"Authorization": f"Bearer {key}"})
                    for name, key in self.keys.items()
                }
                | {"no key": await self._answer(client, route, {})}
                for route in self.routes
            }

    async def _answer(self, client: httpx.AsyncClient, route: Route, headers: Mapping[str, str]) -> str:
        method, path = route
        url = re.sub(r"\{[^}]+\}", "x", path)
        answer = await client.request(method, url, headers=_HEADERS | headers, content=b"{}")
        if method == "GET":
            head = await client.head(url, headers=_HEADERS | headers)
            assert head.status_code == answer.status_code, route
        code = answer.json().get("code", "")
        if answer.status_code == 401 or (answer.status_code == 403 and code in FORBIDDEN):
            return f"{answer.status_code} {code}"
        assert code == "invalid_idempotency_key" or path == "/mcp", (route, answer.text)
        return "allowed"


def rights_of(service: str, answers: Mapping[str, str]) -> Rights:
    """Returns the rights that the answers of a route show."""
    roles = frozenset(role for role in Role if answers[role.name] == "allowed")
    scopes = [f"{service}:{access}" for access in ("read", "write") if answers[access] == "allowed"]
    agents = answers["agent"] == "allowed"
    (scope,) = scopes or [f"{service}:act"]
    return Rights(roles, scope, agents)


def measure(folder: Path) -> dict[str, dict[Route, dict[str, str]]]:
    """Returns the answers of every service."""
    return {name: asyncio.run(Service(name, folder / name).answers()) for name in SERVICES}


def section(answers: Mapping[str, Mapping[Route, Mapping[str, str]]]) -> str:
    """Returns the matrix for the document; routes of every service are listed once."""
    rights = {name: {route: rights_of(name, found) for route, found in each.items()} for name, each in answers.items()}
    common = set.intersection(*(set(each) for each in rights.values()))
    lines = [BEGIN, "", "Without a key: " + ", ".join(f"`{path}`" for path in sorted(PUBLIC)) + "."]
    tables = {
        "every service": {route: rights["tenant"][route] for route in sorted(common, key=lambda each: each[::-1])}
    }
    for name, each in rights.items():
        tables[name] = {route: found for route, found in each.items() if route not in common}
    for name, routes in tables.items():
        lines += ["", f"| route of {name} | scope | {' | '.join(role.name.lower() for role in Role)} | agent |"]
        lines += ["|---|---|" + "---|" * (len(Role) + 1)]
        for (method, path), found in routes.items():
            scope = found.scope.replace("tenant:", "<service>:") if name == "every service" else found.scope
            marks = ["x" if role in found.roles else "" for role in Role] + ["x" if found.agents else ""]
            lines.append(f"| `{method} {path}` | `{scope}` | {' | '.join(marks)} |")
    return "\n".join([*lines, "", END])


def current(text: str) -> str:
    """Returns the matrix in the document's text."""
    return BEGIN + text.partition(BEGIN)[2].partition(END)[0] + END


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        written = DOCUMENT.read_text()
        DOCUMENT.write_text(written.replace(current(written), section(measure(Path(made)))))
