"""Handler of POST /mcp: checks the request, executes the call through `act`, and answers in JSON."""

import re
from functools import cached_property
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from paybill_contracts.envelope import Origin
from paybill_runtime import clock
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.auth import AGENT, Role
from paybill_runtime.http.caller import actor_of, authenticate
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from paybill_runtime.telemetry import is_valid_traceparent, span
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paybill_agent_gateway.act import Gate, act
from paybill_agent_gateway.domain.answers import Answer, RefusalError, refusal
from paybill_agent_gateway.domain.calls import Call, CallCaller, Start, Take, target_of
from paybill_agent_gateway.domain.refusals import InvalidInputError, UnknownToolError
from paybill_agent_gateway.domain.runs import is_run_id
from paybill_agent_gateway.mcp.messages import (
    INVALID_PARAMS,
    Json,
    McpError,
    Message,
    called,
    discovered,
    initialized,
    listed,
    read_message,
)
from paybill_agent_gateway.mcp.tool_lists import ToolLists
from paybill_agent_gateway.tools import SEPARATOR, Tool

PATH = "/mcp"
_LOOPBACK = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_NO_TOOL = {UnknownToolError.code, "run_not_found", "step_not_allowed"}
"""Refusals of a call whose tool is not listed: it may be of a run that began under an earlier bundle."""


_ERROR: dict[str, Any] = {
    "description": "An error of JSON-RPC, or of HTTP.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["jsonrpc", "id", "error"],
                "properties": {"error": {"type": "object", "required": ["code", "message", "data"]}},
            }
        }
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"description": "A notification, which has no answer."},
    **dict.fromkeys((400, 404, 413), _ERROR),
}


class McpEndpoint:
    """Fast route of POST /mcp."""

    def __init__(self, context: ServiceContext, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._tools = ToolLists(gate)

    @cached_property
    def _origins(self) -> frozenset[str]:
        """Origins of browsers' pages that may send requests, besides those of this machine."""
        found: frozenset[str] = self._context.settings.origins()
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        response = await self.respond(scope, (await receive())["body"])
        await response(scope, receive, send)

    async def respond(self, scope: Scope, body: bytes) -> Response:
        """Returns the response to a request. Raises Problem for what is wrong before the message is read."""
        headers = Headers(scope=scope)
        self._check(headers)
        caller = self._caller(headers.get("authorization", ""))
        try:
            message = read_message(scope["headers"], body)
            if message.id is None:
                return Response(status_code=202)
            result = await self._result(scope, caller, message)
        except McpError as error:
            return Response(error.document(), error.status, media_type="application/json")
        return Response(message.answer(result), media_type="application/json")

    def _caller(self, authorization: str) -> CallCaller:
        """Returns the agent of a request. Raises Problem."""
        scheme, _, raw = authorization.partition(" ")
        if scheme.lower() != "bearer" or not raw:
            raise Problem(401, "no_key", "send the agent's key as `Authorization: Bearer pbk_…`")
        key = authenticate(
            self._context.key_ring, raw.strip(), Role.OPERATOR, "agent-gateway:write", accepts_bound=True
        )
        if key.tenant_id is None:
            raise Problem(403, "no_agent", "this endpoint is for agents; `paybill agent new` registers one")
        return CallCaller(key.tenant_id, actor_of(key), key.subject.removeprefix(AGENT), key.agent_role)

    def _check(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and _LOOPBACK.fullmatch(origin) is None and origin not in self._origins:
            raise Problem(
                403, "origin_refused", "pages of this origin may not call agents; PAYBILL_AGENT_ORIGINS lists origins"
            )
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Problem(415, "wrong_content_type", "send `Content-Type: application/json`")
        accepted = {each.partition(";")[0].strip().lower() for each in headers.get("accept", "").split(",")}
        if accepted.isdisjoint({"application/json", "application/*", "*/*"}):
            raise Problem(406, "not_acceptable", "send `Accept: application/json, text/event-stream`")

    async def _result(self, scope: Scope, caller: CallCaller, message: Message) -> Json:
        match message.method:
            case "initialize":
                return initialized(message)
            case "ping":
                return {}
            case "server/discover":
                return discovered()
            case "tools/list":
                tools = await self._tools.tools(caller)
                return listed(message, [tool.document for tool in tools.values()])
            case _:
                return await self._called(scope, caller, message)

    async def _called(self, scope: Scope, caller: CallCaller, message: Message) -> Json:
        """Executes `tools/call`. Raises McpError for a tool that the caller does not have."""
        name, arguments = message.tool_call()
        tool = await self._tools.tool(caller, name)
        parent, own = message.traceparent, scope["paybill.traceparent"]
        try:
            if parent is not None and is_valid_traceparent(parent):
                with span("mcp tools/call", parent) as current:
                    answer = await self._acted(_origin(scope, caller, current), caller, name, tool, arguments)
            else:
                answer = await self._acted(_origin(scope, caller, own), caller, name, tool, arguments)
        except RefusalError as error:
            if tool is None and error.code in _NO_TOOL:
                raise _unknown_tool(message, name) from None
            return called(error.document(), is_error=True)
        return called(answer.document(), is_error=False)

    async def _acted(self, origin: Origin, caller: CallCaller, name: str, tool: Tool | None, arguments: Json) -> Answer:
        """Executes the call of a tool. A call that names no step of a run is refused as a fact, too."""
        try:
            call = _call(origin, caller, name, tool, arguments)
        except (InvalidInputError, UnknownToolError) as error:
            target = target_of(*name.split(SEPARATOR, 1))
            raise refusal(await self._gate.refused.refuse(self._context, caller, origin, target, error)) from error
        return await act(self._gate, call)


def _origin(scope: Scope, caller: CallCaller, traceparent: str) -> Origin:
    request_id: str = scope.get("paybill.request_id") or clock.new_id()
    scope["paybill.request_id"] = request_id
    return Origin(request_id, request_id, caller.subject, traceparent)


def _call(origin: Origin, caller: CallCaller, name: str, tool: Tool | None, arguments: Json) -> Call:
    """Returns the call of a tool. Raises UnknownToolError, and InvalidInputError for a step without run and number.

    The run has the form that the tool's schema says: facts have it in clear.
    """
    if tool is not None and tool.step is None:
        return Call(caller, Start(tool.workflow, arguments, origin.correlation), origin)
    values: dict[str, Any] = dict(arguments)
    run, seq = values.pop("run", None), values.pop("seq", None)
    is_run = isinstance(run, str) and is_run_id(run)
    if tool is None and (SEPARATOR not in name or not is_run):
        raise UnknownToolError(f"{name[:100]!a} is no tool of this agent")
    if not is_run or not isinstance(seq, int) or isinstance(seq, bool):
        raise InvalidInputError("send `run`, a string, and `seq`, an integer, as the last answer has them")
    workflow, _, step = name.partition(SEPARATOR)
    if tool is not None:
        workflow, step = tool.workflow, str(tool.step)
    return Call(caller, Take(run, seq, step, values, workflow), origin)


def _unknown_tool(message: Message, name: str) -> McpError:
    return message.refusal(
        INVALID_PARAMS, "unknown_tool", f"{name[:100]!a} is no tool of this agent; `tools/list` lists its tools"
    )


def router(context: ServiceContext, gate: Gate) -> APIRouter:
    """Returns the ordinary route of the endpoint, which has its documentation; the fast route answers requests."""
    routes = Router(
        tags=["mcp"],
        problems={403: ("no_agent", "origin_refused"), 406: ("not_acceptable",), 415: ("wrong_content_type",)},
    )
    endpoint = McpEndpoint(context, gate)
    context.fast_routes[PATH] = endpoint

    @routes.post(
        PATH,
        responses=_RESPONSES,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The key of an agent."))],
    )
    async def mcp(request: Request) -> Any:
        """Answers one message of the Model Context Protocol, revision 2026-07-28 or 2025-11-25, in JSON.

        Methods: `server/discover` or `initialize`, `tools/list`, `tools/call`, `ping` (docs/agent-api.md).
        """
        return await endpoint.respond(request.scope, await request.body())

    return routes
