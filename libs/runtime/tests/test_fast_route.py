"""A fast route responds as an ordinary route does, on the same connections."""

import asyncio
import json
from contextlib import suppress

import pytest
from paybill_runtime.errors import OverloadedError
from paybill_runtime.http.problems import Problem
from paybill_runtime.serving import serving
from starlette.responses import JSONResponse

PATH = "/v1/fast"
WHOLE = b'POST /v1/fast HTTP/1.1\r\nHost: x\r\nX-Text: "a" b\r\nContent-Length: 2\r\n\r\n{}'
ORDINARY = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class FastRoute:
    """Route that echoes its body once it is released, and refuses an empty object."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = 0

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        self.inside += 1
        await self.go.wait()
        if body == b"{}":
            raise Problem(400, "empty", "the object is empty")
        if body == b"!!":
            raise RuntimeError("an internal error")
        if body == b"??":
            raise OverloadedError("too many wait")
        await JSONResponse({"body": body.decode()})(scope, receive, send)


@pytest.fixture
def route(served) -> FastRoute:
    made = served.running.context.fast_routes[PATH] = FastRoute()
    return made


def request_with(body: bytes) -> bytes:
    return WHOLE.replace(b"2\r\n\r\n{}", b"%d\r\n\r\n%b" % (len(body), body))


async def answered(reader) -> tuple[int, dict[str, str], dict]:
    async with asyncio.timeout(60):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, json.loads(body)


async def test_one_connection_uses_both_routes_and_gets_its_responses_in_order(served, route) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"11"))
        while not route.inside:  # noqa: ASYNC110  # the condition is a counter
            await asyncio.sleep(0.01)
        writer.write(request_with(b"22") + request_with(b"33"))
        writer.write(ORDINARY)
        route.go.set()
        answers = [await answered(reader) for _ in range(4)]
        writer.write(request_with(b"55"))
        answers.append(await answered(reader))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert [(status, body.get("body")) for status, _, body in answers] == [
        (200, "11"),
        (200, "22"),
        (200, "33"),
        (200, None),
        (200, "55"),
    ]
    assert route.inside == 4


async def test_a_request_in_several_packets_or_chunks_takes_the_fast_route(served, route) -> None:
    route.go.set()
    chunked = WHOLE.replace(b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n22\r\n0\r\n\r\n")
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in (request_with(b"11")[:-1], b"1", chunked):
            writer.write(part)
            await asyncio.sleep(0.05)
        answers = [await answered(reader) for _ in range(2)]
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert [(status, body) for status, _, body in answers] == [(200, {"body": "11"}), (200, {"body": "22"})]


async def test_a_refusal_on_a_fast_route_is_the_usual_problem_document(served, route) -> None:
    route.go.set()
    traced = b"Host: x\r\ntraceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"{}").replace(b"Host: x", traced))
        refused = await answered(reader)
        writer.write(request_with(b"!!").replace(b"Host: x", traced))
        fault = await answered(reader)
        writer.write(request_with(b"??"))
        overloaded = await answered(reader)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert (refused[0], refused[2]["code"], refused[2]["trace_id"]) == (400, "empty", "a" * 32)
    assert refused[1]["content-type"] == "application/problem+json"
    assert refused[1]["traceparent"][3:35] == "a" * 32
    assert (fault[0], fault[2]["code"]) == (500, "internal_error")
    assert (overloaded[0], overloaded[2]["code"], overloaded[2]["detail"]) == (503, "overloaded", "too many wait")
    assert int(overloaded[1]["retry-after"]) > 0


async def test_a_request_in_progress_at_shutdown_gets_its_response(served, route) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"11"))
        while not route.inside:  # noqa: ASYNC110  # the condition is a counter
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.2, route.go.set)
    status, _, body = await answered(reader)
    rest = await reader.read()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()

    assert (status, body, rest) == (200, {"body": "11"}, b"")


async def test_a_client_that_disconnects_early_does_not_affect_others(served, route) -> None:
    async with serving(served.running) as port:
        _, gone = await asyncio.open_connection("127.0.0.1", port)
        gone.write(request_with(b"11"))
        while not route.inside:  # noqa: ASYNC110  # the condition is a counter
            await asyncio.sleep(0.01)
        gone.transport.abort()
        with suppress(OSError):
            await gone.wait_closed()
        await asyncio.sleep(0.05)
        route.go.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"22"))
        answer = await answered(reader)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert (answer[0], answer[2]) == (200, {"body": "22"})
