"""Requests that httptools and our own checks accept and refuse, over a raw socket."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from paybill_runtime.http.server import IDLE_S, Server, listener
from starlette.requests import Request
from starlette.responses import JSONResponse

POST = b"POST /a HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
WHOLE = POST + HOST + LENGTH + END + b"hello"
IN_CHUNKS = POST + HOST + CHUNKED + END + CHUNKS
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(scope, receive, send) -> None:
    request = Request(scope, receive)
    body = await request.body()
    await JSONResponse([request.method, request.url.path, body.decode()])(scope, receive, send)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server whose application returns method, path and body."""
    socket = listener("127.0.0.1", 0)
    server = Server(echo, IDLE_S)
    task = asyncio.create_task(server.serve([socket]))
    yield socket.getsockname()[1]
    server.should_exit = True
    await task


async def answers(port: int, sent: bytes) -> bytes:
    """Returns everything that is answered until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer


async def echoed(reader: asyncio.StreamReader) -> list[str]:
    """Returns what the application received, from a response with status 200."""
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        return json.loads(await reader.readexactly(int(length)))


ACCEPTED = {
    "length": (WHOLE, ["POST", "/a", "hello"]),
    "chunked": (IN_CHUNKS, ["POST", "/a", "hello"]),
    "chunked in capitals": (IN_CHUNKS.replace(b"chunked", b"Chunked"), ["POST", "/a", "hello"]),
    "an extension of a chunk": (IN_CHUNKS.replace(b"5\r\n", b"5;a=b\r\n"), ["POST", "/a", "hello"]),
    "trailers": (IN_CHUNKS[:-2] + b"X-Sum: 1\r\n\r\n", ["POST", "/a", "hello"]),
    "no body": (NEXT, ["GET", "/next", ""]),
    "absolute form": (NEXT.replace(b"/next", b"http://y/next"), ["GET", "/next", ""]),
    "absolute form of another scheme": (NEXT.replace(b"/next", b"ftp://y:1/next"), ["GET", "/next", ""]),
    "absolute form with a user": (NEXT.replace(b"/next", b"http://u:p@y/next"), ["GET", "/next", ""]),
    "a path with two slashes": (NEXT.replace(b"/next", b"//y/next"), ["GET", "//y/next", ""]),
    "a fragment": (NEXT.replace(b"/next", b"/next#b"), ["GET", "/next", ""]),
    "a hundred headers": (POST + HOST + LENGTH + b"X: y\r\n" * 98 + END + b"hello", ["POST", "/a", "hello"]),
    "a head of 60 kB": (
        POST + HOST + LENGTH + b"X: %b\r\n" % (b"y" * 60_000) + END + b"hello",
        ["POST", "/a", "hello"],
    ),
}


@pytest.mark.parametrize(("sent", "received"), ACCEPTED.values(), ids=ACCEPTED)
async def test_a_request_is_served_and_its_connection_is_kept(port, sent, received) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    first = await echoed(reader)
    writer.write(NEXT)
    second = await echoed(reader)
    writer.close()

    assert (first, second) == (received, ["GET", "/next", ""])


REFUSED = {
    "length and chunked": POST + HOST + LENGTH + CHUNKED + END + CHUNKS,
    "chunked and length": POST + HOST + CHUNKED + LENGTH + END + CHUNKS,
    "the same length twice": POST + HOST + LENGTH + LENGTH + END + b"hello",
    "two lengths": POST + HOST + LENGTH + b"Content-Length: 6\r\n" + END + b"hello",
    "a list of lengths": WHOLE.replace(b"5\r\n", b"5, 5\r\n"),
    "a length with a sign": WHOLE.replace(b"5\r\n", b"+5\r\n"),
    "a negative length": WHOLE.replace(b"5\r\n", b"-1\r\n"),
    "a hexadecimal length": WHOLE.replace(b"5\r\n", b"0x5\r\n"),
    "a space before the colon": WHOLE.replace(b"Length:", b"Length :"),
    "bare LF everywhere": WHOLE.replace(b"\r\n", b"\n"),
    "bare LF in the head": WHOLE.replace(b"Host: x\r\n", b"Host: x\n"),
    "bare LF in a body in chunks": IN_CHUNKS.replace(b"hello\r\n", b"hello\n"),
    "bare LF in an extension": IN_CHUNKS.replace(b"5\r\n", b"5;a\nb\r\n"),
    "a bare CR in a value": WHOLE.replace(b"Host: x", b"Host: x\r"),
    "a NUL in a value": WHOLE.replace(b"Host: x", b"Host: x\0"),
    "a chunk size with a prefix": IN_CHUNKS.replace(b"5\r\n", b"0x5\r\n"),
    "a longer chunk": IN_CHUNKS.replace(b"hello", b"hello!"),
    "a huge chunk size": IN_CHUNKS.replace(b"5\r\n", b"f" * 17 + b"\r\n"),
    "a folded line": WHOLE.replace(b"Host: x\r\n", b"Host: x\r\nX: a\r\n b\r\n"),
    "chunked twice": POST + HOST + CHUNKED + CHUNKED + END + CHUNKS,
    "gzip, chunked": IN_CHUNKS.replace(b"chunked", b"gzip, chunked"),
    "gzip and chunked": POST + HOST + b"Transfer-Encoding: gzip\r\n" + CHUNKED + END + CHUNKS,
    "chunked, gzip": IN_CHUNKS.replace(b"chunked", b"chunked, gzip"),
    "identity": IN_CHUNKS.replace(b"chunked", b"identity"),
    "an unknown coding": IN_CHUNKS.replace(b"chunked", b"xchunked"),
    "chunked with HTTP/1.0": IN_CHUNKS.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no Host": WHOLE.replace(HOST, b""),
    "two Hosts": WHOLE.replace(HOST, HOST + HOST),
    "two Hosts with HTTP/1.0": WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0").replace(HOST, HOST + HOST),
    "HTTP/1.2": WHOLE.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method in small letters": WHOLE.replace(b"POST", b"post"),
    "an unknown method": WHOLE.replace(b"POST", b"FOO"),
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
    "a NUL in a name": WHOLE.replace(b"Host", b"X\0: y\r\nHost"),
    "a NUL in a path": WHOLE.replace(b"/a", b"/a\0"),
    "bare LF after a value": WHOLE.replace(LENGTH, b"X: y\n" + LENGTH),
    "bare LF before the body": WHOLE.replace(b"\r\n\r\n", b"\r\n\n"),
    "a folded length": WHOLE.replace(b"Length: 5", b"Length:\r\n 5"),
    "a folded length by a tab": WHOLE.replace(b"5\r\n", b"5\r\n\t0\r\n"),
    "absolute form without a host": NEXT.replace(b"/next", b"http:///next"),
    "absolute form without a path": NEXT.replace(b"/next", b"http://y"),
    "absolute form with a space": NEXT.replace(b"/next", b"http://y /next"),
    "bytes that are not ASCII in a path": WHOLE.replace(b"/a", b"/\xff"),
    "no path": WHOLE.replace(b"/a", b"a:b"),
    "a path of 70 kB": WHOLE.replace(b"/a", b"/" + b"a" * 70_000),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_an_ambiguous_request_is_refused_and_its_connection_is_closed(port, sent) -> None:
    answer = await answers(port, sent + NEXT)

    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert json.loads(body)["code"] == "bad_request"
    assert json.loads(body)["trace_id"].encode() in head


TOO_LARGE = {
    "a head of 70 kB": POST + HOST + LENGTH + b"X: %b\r\n" % (b"y" * 70_000) + END + b"hello",
    "path and headers of 70 kB": WHOLE.replace(b"/a", b"/" + b"a" * 35_000).replace(
        HOST, HOST + b"X: %b\r\n" % (b"y" * 35_000)
    ),
    "101 headers": POST + HOST + LENGTH + b"X: y\r\n" * 99 + END + b"hello",
    "5,000 headers": POST + HOST + LENGTH + b"X: y\r\n" * 4998 + END + b"hello",
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_large_head_is_refused(port, sent) -> None:
    head, _, body = (await answers(port, sent + NEXT)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["code"] == "too_large"
    assert json.loads(body)["trace_id"].encode() in head


ENDLESS = {
    "head": (POST + HOST + b"X: ", b"y"),
    "headers": (POST + HOST, b"X: y\r\n"),
    "path": (b"POST /", b"a"),
    "extension of a chunk": (POST + HOST + CHUNKED + END + b"5;", b"a"),
    "trailers": (IN_CHUNKS[:-2], b"X: y\r\n"),
    "trailer": (IN_CHUNKS[:-2] + b"X: ", b"y"),
}


@pytest.mark.parametrize(("begin", "rest"), ENDLESS.values(), ids=ENDLESS)
async def test_a_request_without_end_is_disconnected(port, begin, rest) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begin)
    sent = 0
    part = rest * (16_000 // len(rest))
    async with asyncio.timeout(60):
        while not (writer.transport.is_closing() or reader.at_eof() or reader.exception()):
            writer.write(part)
            sent += len(part)
            await asyncio.sleep(0.001)  # the server runs in the same loop
    writer.close()

    assert sent < 5_000_000


async def test_a_request_that_comes_early_waits_for_the_response_to_the_one_before(port) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    large = POST + HOST + b"Content-Length: 900000\r\n\r\n" + b"y" * 900_000
    writer.write(WHOLE + large + IN_CHUNKS + NEXT)
    received = [await echoed(reader) for _ in range(4)]
    writer.close()

    assert [(path, len(body)) for _, path, body in received] == [("/a", 5), ("/a", 900_000), ("/a", 5), ("/next", 0)]


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"


async def test_an_upgrade_is_ignored_and_its_connection_is_closed(port) -> None:
    answer = await answers(port, NEXT.replace(HOST, HOST + UPGRADE) + WHOLE)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b'["GET","/next",""]')


@pytest.mark.parametrize("sent", [WHOLE, IN_CHUNKS], ids=["length", "chunked"])
async def test_an_upgrade_with_a_body_is_refused_because_the_parser_drops_the_body(port, sent) -> None:
    answer = await answers(port, sent.replace(HOST, HOST + UPGRADE))

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_an_upgrade_that_the_connection_header_does_not_name_is_ignored(port) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(WHOLE.replace(HOST, HOST + b"Upgrade: h2c\r\n"))
    first = await echoed(reader)
    writer.write(NEXT)
    second = await echoed(reader)
    writer.close()

    assert (first, second) == (["POST", "/a", "hello"], ["GET", "/next", ""])
