"""Tests of the messages of the MCP endpoint: what each revision accepts, and the codes of what it does not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_agent_gateway.mcp.messages import (
    CAPABILITIES_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    METHOD_NOT_FOUND,
    MODERN,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    VERSION_KEY,
    McpError,
    Message,
    read_message,
)
from paybill_agent_gateway.tools import MAX_CALL_BYTES

META = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}
CALL: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "refund", "arguments": {"ticket": "t-17"}, "_meta": META},
}
HEADERS = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "refund"}


def _read(body: object, headers: dict[str, str]) -> Message:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_message([(name.encode(), value.encode()) for name, value in headers.items()], raw)


def _error(body: object, headers: dict[str, str]) -> McpError:
    with pytest.raises(McpError) as refused:
        _read(body, headers)
    return refused.value


def test_a_call_of_the_stateless_revision_is_read() -> None:
    message = _read(CALL, HEADERS)

    assert message.revision == MODERN
    assert message.tool_call() == ("refund", {"ticket": "t-17"})


def test_a_call_of_the_earlier_revision_needs_the_version_alone() -> None:
    message = _read(CALL | {"params": {"name": "refund"}}, {"mcp-protocol-version": LEGACY})

    assert message.revision == LEGACY
    assert message.tool_call() == ("refund", {})


def test_a_name_may_be_encoded_in_its_header() -> None:
    call = CALL | {"params": CALL["params"] | {"name": "rückzahlung"}}

    assert _read(call, HEADERS | {"mcp-name": "=?base64?csO8Y2t6YWhsdW5n?="}).tool_call()[0] == "rückzahlung"
    assert _error(call, HEADERS | {"mcp-name": "=?base64?!?="}).code == HEADER_MISMATCH


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in HEADERS.items() if key != name}


def _params(**changed: object) -> dict[str, Any]:
    return CALL | {"params": CALL["params"] | changed}


@pytest.mark.parametrize(
    ("body", "headers", "code", "reason"),
    [
        pytest.param(b"{", HEADERS, PARSE_ERROR, "invalid_json", id="no JSON"),
        pytest.param(b'{"id": NaN}', HEADERS, PARSE_ERROR, "invalid_json", id="NaN"),
        pytest.param(b'{"id": 1, "id": 2}', HEADERS, INVALID_REQUEST, "repeated_key", id="repeated key"),
        pytest.param(_params(arguments={"a": 2**63}), HEADERS, INVALID_REQUEST, "number_out_of_range", id="2^63"),
        pytest.param(_params(arguments={"a": "\0"}), HEADERS, INVALID_REQUEST, "invalid_text", id="NUL"),
        pytest.param(_params(arguments={"a": "\ud800"}), HEADERS, INVALID_REQUEST, "invalid_text", id="lone surrogate"),
        pytest.param(
            _params(arguments={"a": "x" * MAX_CALL_BYTES}), HEADERS, INVALID_REQUEST, "too_large", id="256 KiB"
        ),
        pytest.param([CALL], HEADERS, INVALID_REQUEST, "batch", id="batch"),
        pytest.param("text", HEADERS, INVALID_REQUEST, "invalid_request", id="no object"),
        pytest.param(CALL | {"jsonrpc": "1.0"}, HEADERS, INVALID_REQUEST, "invalid_request", id="other JSON-RPC"),
        pytest.param(CALL | {"id": None}, HEADERS, INVALID_REQUEST, "invalid_request", id="null id"),
        pytest.param(CALL | {"id": True}, HEADERS, INVALID_REQUEST, "invalid_request", id="boolean id"),
        pytest.param(
            {"jsonrpc": "2.0", "id": 1, "result": {}}, HEADERS, INVALID_REQUEST, "invalid_request", id="result"
        ),
        pytest.param(CALL | {"params": []}, HEADERS, INVALID_PARAMS, "invalid_params", id="params in a list"),
        pytest.param(_params(_meta={}), HEADERS, INVALID_PARAMS, "invalid_params", id="no version in the body"),
        pytest.param(
            _params(_meta={VERSION_KEY: MODERN}), HEADERS, INVALID_PARAMS, "invalid_params", id="no capabilities"
        ),
        pytest.param(CALL, {}, HEADER_MISMATCH, "header_missing", id="no headers"),
        pytest.param(CALL, _without("mcp-method"), HEADER_MISMATCH, "header_mismatch", id="no method header"),
        pytest.param(CALL, _without("mcp-name"), HEADER_MISMATCH, "header_mismatch", id="no name header"),
        pytest.param(
            CALL, HEADERS | {"mcp-method": "tools/list"}, HEADER_MISMATCH, "header_mismatch", id="other method"
        ),
        pytest.param(CALL, HEADERS | {"mcp-name": "count"}, HEADER_MISMATCH, "header_mismatch", id="other tool"),
        pytest.param(
            CALL, HEADERS | {"mcp-protocol-version": LEGACY}, HEADER_MISMATCH, "header_mismatch", id="other version"
        ),
        pytest.param(
            _params(_meta=META | {VERSION_KEY: "2027-01-01"}),
            HEADERS | {"mcp-protocol-version": "2027-01-01"},
            UNSUPPORTED_VERSION,
            "unsupported_version",
            id="later version",
        ),
        pytest.param(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            {"mcp-protocol-version": "2025-06-18"},
            UNSUPPORTED_VERSION,
            "unsupported_version",
            id="version before both",
        ),
        pytest.param(
            _params() | {"method": "prompts/list"},
            HEADERS | {"mcp-method": "prompts/list"},
            METHOD_NOT_FOUND,
            "unknown_method",
            id="unknown method",
        ),
        pytest.param(
            CALL | {"method": "initialize"},
            HEADERS | {"mcp-method": "initialize"},
            METHOD_NOT_FOUND,
            "unknown_method",
            id="handshake in the stateless revision",
        ),
    ],
)
def test_other_messages_are_refused_with_the_codes_of_the_specification(
    body: object, headers: dict[str, str], code: int, reason: str
) -> None:
    error = _error(body, headers)

    assert (error.code, error.data["code"]) == (code, reason)


def test_a_repeated_header_is_refused() -> None:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    with pytest.raises(McpError) as refused:
        read_message([*headers, (b"mcp-name", b"count")], json.dumps(CALL).encode())

    assert (refused.value.code, refused.value.data["code"]) == (HEADER_MISMATCH, "header_repeated")


def test_an_unsupported_version_is_answered_with_those_that_are() -> None:
    error = _error(CALL | {"params": {}}, {"mcp-protocol-version": "2024-11-05"})

    assert error.data["supported"] == [MODERN, LEGACY]
    assert json.loads(error.document())["id"] == 1


def test_an_error_has_the_status_of_its_revision() -> None:
    unknown = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"_meta": META}}

    assert _error(unknown, HEADERS | {"mcp-method": "logging/setLevel"}).status == 404
    assert _error(unknown | {"params": {}}, {"mcp-protocol-version": LEGACY}).status == 200


def test_a_notification_needs_no_answer() -> None:
    for headers in ({"mcp-protocol-version": LEGACY}, HEADERS):
        assert _read({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers).id is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "_meta"]), inner)
        ),
    ),
    st.dictionaries(st.sampled_from(sorted(HEADERS)), st.sampled_from([MODERN, LEGACY, "tools/call", "x"])),
)
def test_each_other_message_is_refused_with_a_code(body: object, headers: dict[str, str]) -> None:
    refused = None
    try:
        _read(body, headers)
    except McpError as error:
        refused = json.loads(error.document())["error"]

    assert refused is None or refused["data"]["code"]
