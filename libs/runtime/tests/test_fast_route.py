"""The fast route parses requests as the HTTP parser does, and responds in the same way."""

import asyncio
import json
from contextlib import suppress

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paybill_runtime.app import serving
from paybill_runtime.http.fast_route import match_fast_route
from paybill_runtime.http.problems import Problem
from starlette.responses import JSONResponse

PATH = "/v1/fast"
ROUTES = {PATH: JSONResponse({})}
WHOLE = b'POST /v1/fast HTTP/1.1\r\nHost: x\r\nX-Text: "a" b\r\nContent-Length: 2\r\n\r\n{}'
LONG = WHOLE.replace(b"Host: x", b"Host: x\r\nTrailer: x")


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
        await JSONResponse({"body": body.decode()})(scope, receive, send)


@pytest.fixture
def route(served) -> FastRoute:
    made = served.running.context.fast_routes[PATH] = FastRoute()
    return made


def request_with(body: bytes) -> bytes:
    return WHOLE.replace(b"2\r\n\r\n{}", b"%d\r\n\r\n%b" % (len(body), body))


async def answered(reader) -> tuple[int, dict[str, str], dict]:
    async with asyncio.timeout(5):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, json.loads(body)


LINES = st.sampled_from(
    [
        b"Host: x",
        b"host:x",
        b"Content-Length: 2",
        b"content-length: 02",
        b"Content-Length: 3",
        b"Content-Length:2 ",
        b"Content-Length : 2",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Expect: 100-continue",
        b"X-Text: a\tb",
        b"X-Text: a\x0bb",
        b"X-Text: a\rb",
        b"X-Text: a\nHost: y",
        b" folded",
        b"X-Text:",
        b"X Text: a",
        b"traceparent: 00-0",
        b"X-Text: \xe4",
    ]
)
# Most requests are nearly valid.
FIRSTS = st.just(b"POST /v1/fast HTTP/1.1") | st.sampled_from(
    [b"POST /v1/fast HTTP/1.1", b"GET /v1/fast HTTP/1.1", b"POST /v1/fast HTTP/1.0", b"POST  /v1/fast HTTP/1.1"]
)
REQUESTS = st.builds(
    lambda first, lines, end, body: b"\r\n".join([first, *lines]) + end + body,
    FIRSTS,
    st.permutations([b"Host: x", b"Content-Length: 2"]).flatmap(
        lambda usual: st.lists(LINES, max_size=2).map(lambda more: [*usual, *more])
    ),
    st.just(b"\r\n\r\n") | st.sampled_from([b"\n\n", b"\r\n\n"]),
    st.just(b"{}") | st.sampled_from([b"", b"{} ", b"2\r\n{}\r\n0\r\n\r\n"]),
)


@settings(max_examples=1000)
@example(WHOLE)
@given(REQUESTS)
def test_every_request_of_a_fast_route_is_parsed_as_the_parser_would(raw) -> None:
    taken = match_fast_route(raw, ROUTES)
    if taken is None:
        assert raw != WHOLE
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    request, data, end = parser.next_event(), parser.next_event(), parser.next_event()

    assert (request.method, request.target, request.http_version) == (b"POST", PATH.encode(), b"1.1")
    assert list(request.headers) == taken._headers
    assert data.data == taken._body
    assert isinstance(end, h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)
    assert not parser.they_are_waiting_for_100_continue
    assert parser.their_state is h11.DONE


@pytest.mark.parametrize(
    "raw",
    [
        LONG,
        WHOLE[:-1],
        WHOLE + WHOLE,
        WHOLE.replace(b"/v1/fast", b"/v1/fast?a=b"),
        WHOLE.replace(b"/v1/fast", b"/v1/other"),
        WHOLE.replace(b"Host: x", b"Via: x"),
        WHOLE.replace(b"Host: x", b"Host: x\r\nHost: x"),
        WHOLE.replace(b'"a" b', b"x" * 20_000),
        b"",
    ],
)
def test_other_requests_go_to_the_parser(raw) -> None:
    assert match_fast_route(WHOLE, ROUTES) is not None
    assert match_fast_route(raw, ROUTES) is None


async def test_one_connection_uses_both_paths_and_gets_its_responses_in_order(served, route) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"11"))
        while not route.inside:  # noqa: ASYNC110  # the condition is a counter
            await asyncio.sleep(0.01)
        writer.write(request_with(b"22") + request_with(b"33"))
        writer.write(LONG)
        route.go.set()
        answers = [await answered(reader) for _ in range(4)]
        writer.write(request_with(b"55"))
        answers.append(await answered(reader))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    # Only a request that arrives alone takes the fast route; the others have no endpoint.
    assert [(status, body.get("body")) for status, _, body in answers] == [
        (200, "11"),
        (404, None),
        (404, None),
        (404, None),
        (200, "55"),
    ]
    assert route.inside == 2


async def test_a_refusal_on_a_fast_route_is_the_usual_problem_document(served, route) -> None:
    route.go.set()
    traced = b"Host: x\r\ntraceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_with(b"{}").replace(b"Host: x", traced))
        refused = await answered(reader)
        writer.write(request_with(b"!!").replace(b"Host: x", traced))
        fault = await answered(reader)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert (refused[0], refused[2]["code"], refused[2]["trace_id"]) == (400, "empty", "a" * 32)
    assert refused[1]["content-type"] == "application/problem+json"
    assert refused[1]["traceparent"][3:35] == "a" * 32
    assert (fault[0], fault[2]["code"]) == (500, "internal_error")


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
