"""Messages of the Model Context Protocol, revisions 2026-07-28 and 2025-11-25: what is accepted, and what is answered.

They are our own: the SDK's types cost 8 MB and 70 ms at each start, and its server at least twice as much for each
call (decision 0044). The tests speak to the official client.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
from paybill_runtime.http.strict_json import JsonError, read_json

from paybill_agent_gateway.tools import MAX_CALL_BYTES

Json: TypeAlias = Mapping[str, Any]
MessageId: TypeAlias = str | int
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

MODERN = "2026-07-28"
"""Stateless revision: each request names its version, and its headers repeat its method and tool."""
LEGACY = "2025-11-25"
"""Revision with a handshake; this server keeps no session."""
SUPPORTED = (MODERN, LEGACY)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"

LIST_TTL_MS = 10_000
DISCOVER_TTL_MS = 3_600_000
SERVER: Json = {"name": "paybill-agent-gateway", "title": "Paybill agent gateway", "version": "1"}

_ROUTING = {b"mcp-protocol-version": "MCP-Protocol-Version", b"mcp-method": "Mcp-Method", b"mcp-name": "Mcp-Name"}
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")
_METHODS: Mapping[str, frozenset[str]] = {
    MODERN: frozenset({"server/discover", "tools/list", "tools/call"}),
    LEGACY: frozenset({"initialize", "ping", "tools/list", "tools/call"}),
}


class McpError(Exception):
    """An error response of JSON-RPC. status: of HTTP. reason: a stable code in its data."""

    def __init__(
        self, code: int, reason: str, message: str, *, status: int = 400, id_: MessageId | None = None, **data: Any
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.id = id_
        self.data = {"code": reason, **data}

    def document(self) -> bytes:
        """Returns the response."""
        error = {"code": self.code, "message": str(self), "data": self.data}
        return orjson.dumps({"jsonrpc": "2.0", "id": self.id, "error": error})


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or a notification, which has no id and no answer."""

    id: MessageId | None
    method: str
    params: Json
    revision: str

    @property
    def traceparent(self) -> str | None:
        """The span of the client that the call belongs to."""
        meta = self.params.get("_meta")
        found = meta.get("traceparent") if isinstance(meta, dict) else None
        return found if isinstance(found, str) else None

    def refusal(self, code: int, reason: str, message: str) -> McpError:
        """Returns an error response to this request. The earlier revision knows no other status than 200 for it."""
        status = 200 if self.revision == LEGACY else 404 if code == METHOD_NOT_FOUND else 400
        return McpError(code, reason, message, status=status, id_=self.id)

    def answer(self, result: Json) -> bytes:
        """Returns the response with a result."""
        if self.revision == MODERN:
            result = {**result, "resultType": "complete", "_meta": {SERVER_KEY: SERVER}}
        return orjson.dumps({"jsonrpc": "2.0", "id": self.id, "result": result})

    def tool_call(self) -> tuple[str, Json]:
        """Returns the name and the arguments of `tools/call`. Raises McpError."""
        name, arguments = self.params.get("name"), self.params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise self.refusal(
                INVALID_PARAMS, "invalid_params", "params needs `name`, a string, and may have `arguments`, an object"
            )
        return name, arguments


def read_message(headers: Headers, body: bytes) -> Message:
    """Returns the message of a POST. Raises McpError for everything that one of the revisions does not allow."""
    if len(body) > MAX_CALL_BYTES:
        raise McpError(INVALID_REQUEST, "too_large", f"a message may have {MAX_CALL_BYTES} bytes at most", status=413)
    routing = _routing_headers(headers)
    document = _document(body)
    id_, method, params = document.get("id"), document["method"], document.get("params", {})
    try:
        revision = _revision(routing, method, params, is_request="id" in document)
    except McpError as error:
        error.id = id_
        raise
    message = Message(id_, method, params, revision)
    if id_ is not None and method not in _METHODS[revision]:
        raise message.refusal(
            METHOD_NOT_FOUND,
            "unknown_method",
            f"{method[:100]!a} is no method of revision {revision} that this server has",
        )
    return message


def initialized(message: Message) -> Json:
    """Returns the result of `initialize`: the one revision with a handshake. Raises McpError."""
    if not isinstance(message.params.get("protocolVersion"), str):
        raise message.refusal(INVALID_PARAMS, "invalid_params", "params needs `protocolVersion`, a string")
    return {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": SERVER}


def discovered() -> Json:
    """Returns the result of `server/discover`."""
    return {
        "supportedVersions": SUPPORTED,
        "capabilities": {"tools": {}},
        "ttlMs": DISCOVER_TTL_MS,
        "cacheScope": "private",
    }


def listed(message: Message, tools: Sequence[Json]) -> Json:
    """Returns the result of `tools/list`, which has one page. Raises McpError."""
    if message.params.get("cursor") is not None:
        raise message.refusal(INVALID_PARAMS, "invalid_params", "there is no further page: send no `cursor`")
    if message.revision == LEGACY:
        return {"tools": tools}
    return {"tools": tools, "ttlMs": LIST_TTL_MS, "cacheScope": "private"}


def called(structured: Json, *, is_error: bool) -> Json:
    """Returns the result of `tools/call`: the value, and the same as a text for clients that read only texts.

    Keys are sorted, so that a repeated call gets the same bytes.
    """
    document = orjson.dumps(structured, option=orjson.OPT_SORT_KEYS)
    content = [{"type": "text", "text": document.decode()}]
    return {"content": content, "structuredContent": orjson.Fragment(document), "isError": is_error}


def _document(body: bytes) -> dict[str, Any]:
    """Returns a request or a notification of JSON-RPC."""
    try:
        document = read_json(body)
    except JsonError as error:
        code = PARSE_ERROR if error.code == "invalid_json" else INVALID_REQUEST
        raise McpError(code, error.code, f"the body is refused: {error}") from None
    if isinstance(document, list):
        raise McpError(INVALID_REQUEST, "batch", "batches are not supported; send each request by itself")
    if not isinstance(document, dict):
        raise McpError(INVALID_REQUEST, "invalid_request", "the body is no object")
    id_ = document.get("id")
    is_id = isinstance(id_, str) or (isinstance(id_, int) and not isinstance(id_, bool))
    if "id" in document and not is_id:
        raise McpError(INVALID_REQUEST, "invalid_request", "`id` must be a string or an integer")
    if document.get("jsonrpc") != "2.0" or not isinstance(document.get("method"), str):
        raise McpError(INVALID_REQUEST, "invalid_request", 'a request needs "jsonrpc": "2.0" and a `method`', id_=id_)
    if not isinstance(document.get("params", {}), dict):
        raise McpError(INVALID_PARAMS, "invalid_params", "`params` must be an object", id_=id_)
    return document


def _routing_headers(headers: Headers) -> dict[bytes, str]:
    """Returns the values of the headers that repeat the body. Raises McpError for one that is repeated itself."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name not in _ROUTING:
            continue
        if name in found:
            raise McpError(HEADER_MISMATCH, "header_repeated", f"send the header {_ROUTING[name]} once")
        found[name] = value.decode("latin-1").strip()
    return found


def _revision(routing: Mapping[bytes, str], method: str, params: Json, *, is_request: bool) -> str:
    """Returns the revision that headers and body agree on. Raises McpError."""
    header, meta = routing.get(b"mcp-protocol-version"), params.get("_meta")
    envelope = meta if isinstance(meta, dict) else {}
    named = envelope.get(VERSION_KEY)
    if named is None and header is None and method == "initialize":
        return LEGACY
    if header is None:
        raise McpError(
            HEADER_MISMATCH,
            "header_missing",
            f"send the header MCP-Protocol-Version: {MODERN}, or {LEGACY} after `initialize`",
        )
    if named not in (None, header):
        raise _mismatch("MCP-Protocol-Version", f"params._meta[{VERSION_KEY!r}]")
    if header not in SUPPORTED:
        raise McpError(
            UNSUPPORTED_VERSION,
            "unsupported_version",
            f"protocol version {header[:50]!a} is not supported; use one of {', '.join(SUPPORTED)}",
            supported=list(SUPPORTED),
            requested=header[:50],
        )
    if not is_request:
        return header
    if header == MODERN and (named is None or CAPABILITIES_KEY not in envelope):
        raise McpError(INVALID_PARAMS, "invalid_params", f"params._meta needs {VERSION_KEY!r} and {CAPABILITIES_KEY!r}")
    if routing.get(b"mcp-method", "" if header == MODERN else method) != method:
        raise _mismatch("Mcp-Method", "method")
    tool = params.get("name") if method == "tools/call" else None
    if tool is not None and _decoded(routing.get(b"mcp-name", "" if header == MODERN else tool)) != tool:
        raise _mismatch("Mcp-Name", "params.name")
    return header


def _mismatch(header: str, place: str) -> McpError:
    return McpError(HEADER_MISMATCH, "header_mismatch", f"the header {header} must be equal to {place} of the body")


def _decoded(value: Any) -> Any:
    """Returns the text of a header, which is in base64 when it is more than ASCII; None when it is neither."""
    match = _ENCODED.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    try:
        return base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
