"""What is answered past the parser is read as the parser would read it, and answered as on the long way."""

import asyncio
import json

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paybill_runtime.app import serving
from paybill_runtime.http.fast_path import parse_fast_request
from paybill_runtime.http.problems import Problem
from starlette.responses import JSONResponse

PATH = "/v1/door"
DOORS = {PATH: JSONResponse({})}
WHOLE = b'POST /v1/door HTTP/1.1\r\nHost: x\r\nX-Said: "a" b\r\nContent-Length: 2\r\n\r\n{}'
LONG = WHOLE.replace(b"Host: x", b"Host: x\r\nTrailer: x")


class Door:
    """Answers with what it was told, once it is let; refuses an empty object."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = 0

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        self.inside += 1
        await self.go.wait()
        if body == b"{}":
            raise Problem(400, "empty", "it says nothing")
        if body == b"!!":
            raise RuntimeError("a fault of ours")
        await JSONResponse({"body": body.decode()})(scope, receive, send)


@pytest.fixture
def door(served) -> Door:
    made = served.running.context.fast_routes[PATH] = Door()
    return made


def told(body: bytes) -> bytes:
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
        b"X-Said: a\tb",
        b"X-Said: a\x0bb",
        b"X-Said: a\rb",
        b"X-Said: a\nHost: y",
        b" folded",
        b"X-Said:",
        b"X Said: a",
        b"traceparent: 00-0",
        b"X-Said: \xe4",
    ]
)
# What is nearly right comes more often than not.
FIRSTS = st.just(b"POST /v1/door HTTP/1.1") | st.sampled_from(
    [b"POST /v1/door HTTP/1.1", b"GET /v1/door HTTP/1.1", b"POST /v1/door HTTP/1.0", b"POST  /v1/door HTTP/1.1"]
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
def test_whatever_is_taken_is_one_request_that_the_parser_reads_in_the_same_way(said) -> None:
    taken = parse_fast_request(said, DOORS)
    if taken is None:
        assert said != WHOLE
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(said)
    request, data, end = parser.next_event(), parser.next_event(), parser.next_event()

    assert (request.method, request.target, request.http_version) == (b"POST", PATH.encode(), b"1.1")
    assert list(request.headers) == taken._headers
    assert data.data == taken._body
    assert isinstance(end, h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)
    assert not parser.they_are_waiting_for_100_continue
    assert parser.their_state is h11.DONE


@pytest.mark.parametrize(
    "said",
    [
        LONG,
        WHOLE[:-1],
        WHOLE + WHOLE,
        WHOLE.replace(b"/v1/door", b"/v1/door?a=b"),
        WHOLE.replace(b"/v1/door", b"/v1/other"),
        WHOLE.replace(b"Host: x", b"Via: x"),
        WHOLE.replace(b"Host: x", b"Host: x\r\nHost: x"),
        WHOLE.replace(b'"a" b', b"x" * 20_000),
        b"",
    ],
)
def test_everything_else_goes_the_long_way(said) -> None:
    assert parse_fast_request(WHOLE, DOORS) is not None
    assert parse_fast_request(said, DOORS) is None


async def test_one_connection_is_answered_both_ways_in_the_order_in_which_it_asks(served, door) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(told(b"11"))
        while not door.inside:  # noqa: ASYNC110  # what it waits for is a counter
            await asyncio.sleep(0.01)
        writer.write(told(b"22") + told(b"33"))
        writer.write(LONG)
        door.go.set()
        answers = [await answered(reader) for _ in range(4)]
        writer.write(told(b"55"))
        answers.append(await answered(reader))
        writer.close()

    # Only one that comes alone is taken; there is no route for the others.
    assert [(status, body.get("body")) for status, _, body in answers] == [
        (200, "11"),
        (404, None),
        (404, None),
        (404, None),
        (200, "55"),
    ]
    assert door.inside == 2


async def test_a_refusal_is_the_same_problem_as_everywhere(served, door) -> None:
    door.go.set()
    traced = b"Host: x\r\ntraceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(told(b"{}").replace(b"Host: x", traced))
        refused = await answered(reader)
        writer.write(told(b"!!").replace(b"Host: x", traced))
        fault = await answered(reader)
        writer.close()

    assert (refused[0], refused[2]["code"], refused[2]["trace_id"]) == (400, "empty", "a" * 32)
    assert refused[1]["content-type"] == "application/problem+json"
    assert refused[1]["traceparent"][3:35] == "a" * 32
    assert (fault[0], fault[2]["code"]) == (500, "internal_error")


async def test_what_is_being_answered_when_the_service_stops_gets_its_answer(served, door) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(told(b"11"))
        while not door.inside:  # noqa: ASYNC110  # what it waits for is a counter
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.2, door.go.set)
    status, _, body = await answered(reader)
    rest = await reader.read()
    writer.close()

    assert (status, body, rest) == (200, {"body": "11"}, b"")


async def test_a_client_that_leaves_before_its_answer_harms_nobody(served, door) -> None:
    async with serving(served.running) as port:
        _, gone = await asyncio.open_connection("127.0.0.1", port)
        gone.write(told(b"11"))
        while not door.inside:  # noqa: ASYNC110  # what it waits for is a counter
            await asyncio.sleep(0.01)
        gone.transport.abort()
        await asyncio.sleep(0.05)
        door.go.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(told(b"22"))
        answer = await answered(reader)
        writer.close()

    assert (answer[0], answer[2]) == (200, {"body": "22"})
