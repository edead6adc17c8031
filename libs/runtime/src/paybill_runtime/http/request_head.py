"""Checks of a request's head that httptools leaves to the application (RFC 9112)."""

from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Scope

from paybill_runtime.http.problems import problem
from paybill_runtime.telemetry import child, log_context

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100


@dataclass(frozen=True, slots=True)
class HeadCheck:
    """The result of a check. refusal: the response to a head that is ambiguous or too large.

    closes: the connection ends with the response. chunked: the length of the body is not known in advance.
    """

    refusal: Response | None = None
    closes: bool = False
    chunked: bool = False


_GOOD = HeadCheck()
_CHUNKED = HeadCheck(chunked=True)
_LAST = HeadCheck(closes=True)


def check(scope: Scope) -> HeadCheck:
    """Checks the head of a request.

    Two servers that read an ambiguous head in different ways can be made to see different requests (request smuggling).
    """
    headers = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"])
    hosts, encodings, has_length, connection, upgrade = 0, [], False, b"", False
    for name, value in headers:
        size += len(name) + len(value)
        match name:
            case b"host":
                hosts += 1
            case b"content-length":
                has_length = value != b"0"
            case b"transfer-encoding":
                encodings.append(value.lower())
            case b"connection":
                connection += value.lower()
            case b"upgrade":
                upgrade = True
    if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
        return _refused(431, "too_large", f"a head has {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers at most")
    if hosts != 1 and (hosts or scope["http_version"] == "1.1"):
        return _refused(400, "bad_request", "a request has exactly one Host header")
    if encodings and (encodings != [b"chunked"] or scope["http_version"] != "1.1"):
        return _refused(400, "bad_request", "the only transfer coding is `chunked`, once, with HTTP/1.1")
    if upgrade and b"upgrade" in connection:
        # httptools drops the body and reads no further request (https://github.com/Kludex/uvicorn/issues/2722).
        if has_length or encodings:
            return _refused(400, "bad_request", "a request with a body cannot ask for an upgrade; send it as HTTP/1.1")
        return _LAST
    return _CHUNKED if encodings else _GOOD


def _refused(status: int, code: str, detail: str) -> HeadCheck:
    with log_context("", child(None)) as traceparent:
        return HeadCheck(problem(status, code, detail, {"traceparent": traceparent}), closes=True)
