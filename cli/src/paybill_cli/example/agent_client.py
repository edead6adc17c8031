"""A client of the agents' MCP endpoint in plain HTTP: what any MCP client sends and gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

_REVISION = "2026-07-28"
_META = {
    "io.modelcontextprotocol/protocolVersion": _REVISION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "paybill", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a call of a tool. refused: its code; None when the call was executed."""

    content: dict[str, Any]
    refused: str | None

    @property
    def text(self) -> str:
        """The refusal for people, or the fields of the answer."""
        return f"{self.refused}: {self.content['message']}" if self.refused else f"run {self.content['run']}"


class AgentClient:
    """An agent with its key."""

    def __init__(self, http: httpx.AsyncClient, address: str, key: str) -> None:
        self._http, self.address, self._key = http, address, key
        self._ids = count(1)

    async def tools(self) -> list[str]:
        """Returns the names of the tools that the agent may use."""
        response = await self._request("tools/list", {})
        return [tool["name"] for tool in response["result"]["tools"]]

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Reply:
        """Calls a tool. Also an unknown tool is a reply: it was refused."""
        response = await self._request("tools/call", {"name": tool, "arguments": dict(arguments)})
        if "error" in response:
            error = response["error"]
            return Reply({"message": error["message"]}, str(error.get("data", {}).get("code", error["code"])))
        content = response["result"]["structuredContent"]
        return Reply(content, content["code"] if response["result"].get("isError") else None)

    async def _request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": _REVISION,
            "Mcp-Method": method,
            **({"Mcp-Name": params["name"]} if "name" in params else {}),
        }
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": {**params, "_meta": _META}}
        try:
            response = await self._http.post(self.address, json=message, headers=headers)
            content: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._no_answer(f"{type(error).__name__}: {error}") from error
        if "result" not in content and "error" not in content:
            raise self._no_answer(f"{response.status_code} {response.text[:500]}")
        return content

    def _no_answer(self, why: str) -> CliError:
        return CliError(
            "service_unreachable",
            f"the agent gateway does not answer at {self.address}",
            why=why,
            next="paybill doctor",
            exit_code=ExitCode.UNREACHABLE,
        )
