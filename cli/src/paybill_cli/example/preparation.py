"""Prepares the example on a running stack: a paying tenant with rows, the published bundle, and a registered agent."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from paybill_contracts.agent_access import AgentRightsGranted
from paybill_contracts.event import partition_of
from paybill_contracts.schemas import name_of
from paybill_embedded.credentials import private_dir, write_private
from paybill_runtime.http.auth import Role
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_stack.layout import STRIPE_FAKE, Layout
from paybill_stack.operator_key import temporary_key
from paybill_stack.supervisor import Supervisor
from paybill_stripe_fake.client import FakeControl

from paybill_cli.client.event_log import connected, messages, read_event
from paybill_cli.client.stack import NatsAccess
from paybill_cli.errors import CliError
from paybill_cli.example.agent_client import AgentClient
from paybill_cli.example.files import ExampleFiles
from paybill_cli.exit_codes import ExitCode

GATEWAY = "agent-gateway"
OPERATOR = "operator"
TENANT = "acme"
AGENT = "helpdesk"
ROLE = "support"
PLAN = "starter"
_KEY_LIFETIME = timedelta(minutes=30)
_AGENT_LIFETIME_S = 90 * 86_400
_SCOPES = ("tenant:write", "tenant:read", "billing:read", "provisioner:write", "provisioner:read")
_GATEWAY_SCOPES = ("agent-gateway:write", "agent-gateway:read")
_TIMEOUT_S = 60.0
_REQUEST_S = 20.0
_POLL_S = 0.1
_EARLY = {"blueprint_unknown", "tenant_unknown"}
"""Refusals of the agent gateway until it has handled the facts of the other services."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The example as a person uses it. address: of the MCP endpoint.

    key: of the agent; empty when a person has ended it, or when its key was never stored.
    """

    tenant: str
    agent_id: str
    address: str
    key: str


async def prepare(stack: Supervisor, files: ExampleFiles, report: Callable[[str], None]) -> Prepared:
    """Prepares what is missing; what an earlier start prepared stays as it is. Raises CliError."""
    layout = stack.layout
    with temporary_key(layout.api_keys, "example", Role.ADMIN, (*_SCOPES, *_GATEWAY_SCOPES), _KEY_LIFETIME) as key:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(headers=headers, timeout=_REQUEST_S, trust_env=False) as http:
            return await _Preparation(stack, files, http, report).run()


class _Preparation:
    """One preparation, with a key of its own."""

    def __init__(
        self, stack: Supervisor, files: ExampleFiles, http: httpx.AsyncClient, report: Callable[[str], None]
    ) -> None:
        self._stack, self._files, self._http, self._report = stack, files, http, report

    async def run(self) -> Prepared:
        """Prepares tenant, rows, bundle and agent, in this order."""
        blueprint = await self._blueprint()
        tenant_id = await self._tenant(str(blueprint["content"]["regions"][0]))
        self._report(f"{TENANT}'s rows are written with its own login")
        await self._write_rows(tenant_id)
        await self._publish(str(blueprint["content"]["name"]))
        return await self._agent(tenant_id)

    async def _blueprint(self) -> dict[str, Any]:
        """Returns the first blueprint in force. Raises CliError when the stack is not that of the example."""
        found = await self._request("provisioner", "GET", "/v1/blueprint")
        tables = {table["name"] for table in found["content"]["tables"]}
        if "tickets" not in tables:
            raise CliError(
                "another_product",
                f"the stack in {self._stack.layout.root} has another product than the example",
                why=f"its blueprint {found['content']['name']} has no table tickets",
                next="paybill up --example support-agent --data-dir .example, or another empty directory",
                exit_code=ExitCode.CONFLICT,
            )
        return found

    async def _tenant(self, region: str) -> str:
        """Returns the id of the active tenant, after its sign-up and payment."""
        rows = (await self._request("tenant", "GET", f"/v1/tenants?slug={TENANT}"))["tenants"]
        if rows:
            self._report(f"the tenant {TENANT} is there already")
            id_ = str(rows[0]["id"])
        else:
            self._report(f"the tenant {TENANT} signs up and pays")
            body = {
                "slug": TENANT,
                "name": "Acme",
                "plan": PLAN,
                "region": region,
                "contact_email": f"billing@{TENANT}.example",
            }
            id_ = str((await self._request("tenant", "POST", "/v1/tenants", body))["id"])

        async def active() -> bool:
            tenant = await self._request("tenant", "GET", f"/v1/tenants/{id_}")
            if tenant["status"] == "active":
                return True
            account = await self._found("billing", f"/v1/tenants/{id_}/account")
            checkout = account and not account["subscriptions"] and account["checkout_url"]
            if checkout:
                await asyncio.to_thread(self._pay, str(checkout).rpartition("/")[2])
            return False

        await _until(active, f"{TENANT} is active")
        return id_

    def _pay(self, checkout: str) -> None:
        key = self._stack.layout.stripe_api_key.read_text(encoding="ascii").strip()
        with FakeControl(self._stack.addresses.url(STRIPE_FAKE), key) as fake:
            if fake.checkout(checkout)["status"] == "open":  # billing learns of a payment a moment later
                fake.pay_checkout(checkout)

    async def _write_rows(self, tenant_id: str) -> None:
        """Writes the rows with the tenant's own login; rows that exist stay."""
        path = f"/v1/environments/{tenant_id}/credentials"
        await self._request("provisioner", "POST", path)
        connection: dict[str, Any] = {}

        async def made() -> bool:
            found = await self._request("provisioner", "GET", path)
            connection.update(found["connections"][0])
            return bool(found["complete"]) and not found["requested"]

        await _until(made, f"the password of {TENANT} is made")
        layout = self._stack.layout
        secrets = FileSecrets(layout.secrets, Identity.load(layout.identities, "operator"))
        client = await asyncpg.connect(
            host=connection["host"],
            port=connection["port"],
            database=connection["database"],
            user=connection["username"],
            password=await secrets.get(connection["secret"]),
            timeout=_REQUEST_S,
        )
        try:
            await client.execute(self._files.data.read_text(encoding="utf-8"))
        finally:
            await client.close()

    async def _publish(self, blueprint: str) -> None:
        """Publishes the bundle, unless one is in force: a person may have changed it since."""
        listed = (await self._request(GATEWAY, "GET", "/v1/bundles"))["bundles"]
        if any(each["in_force"] for each in listed):
            self._report("a bundle of agents is in force already")
        else:
            self._report("the agents' bundle is published")
            body = {"files": self._files.bundle(), "blueprint": blueprint}
            await self._request(GATEWAY, "POST", "/v1/bundles", body)

    async def _agent(self, tenant_id: str) -> Prepared:
        """Returns the agent of an earlier start, whose key is in a file (0600); a new one when that has expired.

        An agent that a person has ended is not registered again.
        """
        layout = self._stack.layout
        path = key_file(layout)
        listed = (await self._request(GATEWAY, "GET", f"/v1/agents?tenant={tenant_id}"))["agents"]
        named = sorted(
            (each for each in listed if each["name"] == AGENT),
            key=lambda each: str(each["registered_at"]),
            reverse=True,
        )
        found = next((each for each in named if each["status"] == "active"), named[0] if named else None)
        if found is not None and found["status"] != "expired":
            key = ""
            with suppress(FileNotFoundError):
                key = path.read_text(encoding="ascii").strip()
            if found["status"] == "active" and key:
                self._report(f"the agent {AGENT} is registered already")
                return await self._ready(tenant_id, str(found["id"]), key)
            self._report(f"the agent {AGENT} is {found['status']}, and is not registered again")
            return Prepared(TENANT, str(found["id"]), f"{self._stack.addresses.url(GATEWAY)}/mcp", "")
        self._report(f"the agent {AGENT} is registered")
        body = {"tenant": tenant_id, "name": AGENT, "role": ROLE, "lifetime_s": _AGENT_LIFETIME_S}
        made = await self._request(GATEWAY, "POST", "/v1/agents", body)
        private_dir(path.parent)
        write_private(path, f"{made['key']}\n")
        return await self._ready(tenant_id, str(made["id"]), str(made["key"]))

    async def _ready(self, tenant_id: str, agent_id: str, key: str) -> Prepared:
        """Waits until the agents' login has its rights, and the gateway offers tools to the agent."""
        bus = self._stack.addresses.bus
        access = NatsAccess(bus.url, OPERATOR, bus.password(OPERATOR))
        filters = [f"paybill.events.{partition_of(tenant_id)}.{name_of(AgentRightsGranted)}"]
        try:
            async with asyncio.timeout(_TIMEOUT_S), connected(access) as client:
                async for message in messages(client, filters, 1, None):
                    granted, _ = read_event(message.subject, message.headers or {}, message.data)
                    if granted is not None and granted.tenant == tenant_id:
                        break
        except TimeoutError as error:
            raise _too_late("the login of the agents has its rights") from error
        agent = AgentClient(self._http, f"{self._stack.addresses.url(GATEWAY)}/mcp", key)

        async def has_tools() -> bool:
            return bool(await agent.tools())

        await _until(has_tools, "the agent has tools")
        return Prepared(TENANT, agent_id, agent.address, key)

    async def _found(self, service: str, path: str) -> dict[str, Any] | None:
        """Returns the response, or None while the service does not know the object."""
        try:
            return await self._request(service, "GET", path)
        except CliError as error:
            if error.exit_code is not ExitCode.NOT_FOUND:
                raise
            return None

    async def _request(
        self, service: str, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the response of a service, and waits while it lacks facts of others. Raises CliError."""
        url = self._stack.addresses.url(service) + path
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                response = await self._http.request(method, url, json=body)
                content: dict[str, Any] = response.json()
            except (httpx.HTTPError, ValueError) as error:
                raise CliError(
                    "service_unreachable",
                    f"the {service} service does not answer at {url}",
                    why=f"{type(error).__name__}: {error}",
                    next="paybill doctor",
                    exit_code=ExitCode.UNREACHABLE,
                ) from error
            if response.is_success:
                return content
            code = str(content.get("code", f"http_{response.status_code}"))
            is_early = response.status_code == httpx.codes.SERVICE_UNAVAILABLE or code in _EARLY
            if not is_early or time.monotonic() > deadline:
                raise CliError(
                    code,
                    f"{service} refused {method} {path}: {content.get('detail', response.reason_phrase)}",
                    next="paybill doctor",
                    exit_code=ExitCode.NOT_FOUND if response.status_code == httpx.codes.NOT_FOUND else ExitCode.FAILED,
                )
            await asyncio.sleep(_POLL_S)


def key_file(layout: Layout) -> Path:
    """Returns the path of the file with the agent's key."""
    return layout.clients / f"{AGENT}.key"


async def _until(condition: Callable[[], Awaitable[bool]], text: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not await condition():
        if time.monotonic() > deadline:
            raise _too_late(text)
        await asyncio.sleep(_POLL_S)


def _too_late(text: str) -> CliError:
    return CliError(
        "still_running",
        f"not within {_TIMEOUT_S:g} s: {text}",
        next=f"paybill why {TENANT}",
        exit_code=ExitCode.TIMEOUT,
    )
