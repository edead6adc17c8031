"""Concurrency limit, slow clients and large bodies."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI, Request
from paybill_runtime import serving
from paybill_runtime.http import middleware, problems, server
from paybill_runtime.http.limits import ConcurrencyLimit
from paybill_runtime.http.middleware import MAX_BODY_BYTES, SMALL_BODY_BYTES, RequestMiddleware
from starlette.responses import JSONResponse

HEAD = b"POST /v1/tenants HTTP/1.1\r\nHost: x\r\n"


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def _slow(port: int, amount: int, sent: bytes):
    """Opens connections that send `sent` and then nothing more."""
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(amount):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.push_async_callback(_close, writer)
            writer.write(sent)
            streams.append((reader, writer))
        yield streams


async def _status(port: int) -> int:
    """Returns the status of a response on a new connection."""
    async with httpx.AsyncClient(timeout=60) as client:
        return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{"], ids=["nothing", "head", "body"])
async def test_clients_with_unfinished_requests_are_disconnected_in_favour_of_others(served, monkeypatch, sent) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(server, "SLOW_CLIENT_S", 0.1)
    async with serving.serving(served.running) as port, _slow(port, 12, sent) as slow:
        await asyncio.sleep(0.3)
        answers = [await _status(port) for _ in range(3)]
        left = [reader for reader, _ in slow if not reader.at_eof() and reader.exception() is None]

    assert answers == [200, 200, 200]
    assert len(left) < 5


async def test_a_head_sent_byte_by_byte_has_the_same_timeout_as_an_idle_connection(served, monkeypatch) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 1)
    async with serving.serving(served.running) as port, _slow(port, 2, b"") as ((silent, _), (dripping, writer)):

        async def drip() -> None:
            for byte in HEAD * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)

        dripper = asyncio.create_task(drip())
        async with asyncio.timeout(60):
            ends = await silent.read(), await dripping.read()
        dripper.cancel()

    assert ends == (b"", b"")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (HEAD + b"Content-Length: 2\r\n\r\n{}", b"401"),
        (HEAD + b"Content-Length: 100\r\n\r\n{", b""),
        (HEAD, b""),
    ],
    ids=["no body", "body", "incomplete body", "incomplete head"],
)
async def test_a_client_that_closes_its_side_receives_the_response_to_a_complete_request(served, sent, status) -> None:
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(60):
            response = await reader.read()
        await _close(writer)

    assert response[9:12] == status


async def test_a_client_that_closes_its_side_receives_a_response_that_waits_for_postgresql(served) -> None:
    key = served.client.headers["authorization"].encode()
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: " + key + b"\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(60):
            response = await reader.read()
        await _close(writer)

    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(b"}")


@pytest.fixture
def slow():
    """Application whose route responds once it is released, with a counter of its requests."""
    made = FastAPI()
    problems.install(made)
    made.add_middleware(RequestMiddleware, limit=ConcurrencyLimit(3))
    made.state.go, made.state.inside = asyncio.Event(), 0

    @made.post("/slow")
    async def route(request: Request) -> None:
        made.state.inside += 1
        await made.state.go.wait()

    @made.get("/readyz")
    async def readyz() -> None:
        pass

    return made


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")


async def test_a_request_over_the_limit_is_refused_at_once_and_a_probe_is_not(slow, caplog) -> None:
    async with _client(slow) as client:
        asked = [asyncio.create_task(client.post("/slow", content=b"{}")) for _ in range(5)]
        refused = [await one for one in asked[3:]]
        probe = await client.get("/readyz")
        slow.state.go.set()
        answers = [await one for one in asked[:3]]
        after = await client.post("/slow")

    assert [answer.status_code for answer in (*refused, probe, *answers, after)] == [503, 503, 200, 200, 200, 200, 200]
    assert {answer.json()["code"] for answer in refused} == {"overloaded"}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        "the concurrency limit is reached; some requests are refused"
    ]


async def test_slow_bodies_do_not_count_against_the_concurrency_limit(served) -> None:
    served.running.request_limit = ConcurrencyLimit(3)
    async with (
        serving.serving(served.running) as port,
        _slow(port, 12, HEAD + b"Content-Length: 100\r\n\r\n{"),
        httpx.AsyncClient(timeout=5, headers=served.client.headers) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/v1/tenants")

    assert answer.status_code == 200


async def test_large_bodies_are_limited_and_small_ones_are_not(slow, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "MAX_LARGE_BODIES", 2)
    async with _client(slow) as client:
        asked = [asyncio.create_task(client.post("/slow", content=b"x" * MAX_BODY_BYTES)) for _ in range(3)]
        (done,), waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused = await done
        small = asyncio.create_task(client.post("/slow", content=b"x" * SMALL_BODY_BYTES))
        while slow.state.inside < 3:  # noqa: ASYNC110  # the condition is a counter
            await asyncio.sleep(0.01)
        slow.state.go.set()
        answers = [(await one).status_code for one in (*waiting, small)]
        again = await client.post("/slow", content=b"x" * MAX_BODY_BYTES)

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert (answers, again.status_code) == ([200, 200, 200], 200)


WHOLE = b"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "sent",
    [
        WHOLE,
        WHOLE.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked").replace(b"{}", b"2\r\n{}\r\n0\r\n\r\n"),
        WHOLE.replace(b"Host: x", b"Host: x\r\nConnection: keep-alive"),
        b"GET /v1/tenants HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["whole", "chunked", "closer", "bare"],
)
async def test_a_refused_connection_is_served_as_soon_as_the_limit_allows(served, sent) -> None:
    served.running.request_limit = ConcurrencyLimit(0)
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        refused = [await _exchange(reader, writer, sent) for _ in range(3)]
        probe = await _exchange(reader, writer, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        served.running.request_limit._limit = 1
        answer = await _exchange(reader, writer, sent)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    for status, headers, body in refused:
        assert (status, body["status"], body["code"]) == (503, 503, "overloaded")
        assert headers["content-type"] == "application/problem+json"
        assert int(headers["retry-after"]) > 0
        assert headers["traceparent"][3:35] == body["trace_id"]
    assert (probe[0], answer[0]) == (200, 401)


async def test_a_refused_connection_waits_for_its_next_response_and_another_does_not(served, monkeypatch) -> None:
    monkeypatch.setattr(server, "REFUSED_PAUSE_S", 60.0)
    served.running.request_limit = ConcurrencyLimit(0)
    async with serving.serving(served.running) as port:
        first, second = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await _exchange(*first, WHOLE)
        again = asyncio.create_task(_exchange(*first, WHOLE))
        other = await _exchange(*second, WHOLE)
        waits = not again.done()
        first[1].close()
        with suppress(OSError):
            await first[1].wait_closed()
        second[1].close()
        with suppress(OSError):
            await second[1].wait_closed()
        await asyncio.gather(again, return_exceptions=True)

    assert (waits, other[0]) == (True, 503)


async def _exchange(reader, writer, sent: bytes) -> tuple[int, dict[str, str], dict]:
    writer.write(sent)
    async with asyncio.timeout(60):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, json.loads(body)


async def test_a_connection_is_used_again_after_a_body_that_was_too_large(served) -> None:
    large = WHOLE.replace(b"2\r\n\r\n{}", b"%d\r\n\r\n" % (3 * MAX_BODY_BYTES)) + b"x" * (3 * MAX_BODY_BYTES)
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        refused = [await _exchange(reader, writer, large) for _ in range(2)]
        await _close(writer)

    assert [(status, body["code"]) for status, _, body in refused] == [(413, "too_large")] * 2


async def test_a_connection_closes_after_an_early_response_to_a_body_in_chunks(served) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        parts = (b"%x\r\n%b\r\n" % (65_536, b"x" * 65_536) for _ in range(17))
        status, headers, _ = await _exchange(reader, writer, head + b"".join(parts))
        async with asyncio.timeout(60):
            rest = await reader.read()
        await _close(writer)

    assert (status, headers["connection"], rest) == (413, "close", b"")


async def test_a_slow_response_ends_neither_by_timeout_nor_by_eviction(served, monkeypatch) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 1)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server, "SLOW_CLIENT_S", 0.1)
    go, inside = asyncio.Event(), asyncio.Event()

    async def wait(scope, receive, send) -> None:
        inside.set()
        await go.wait()
        await JSONResponse({})(scope, receive, send)

    served.running.context.fast_routes["/v1/slow"] = wait
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(_exchange(reader, writer, WHOLE.replace(b"tenants", b"slow")))
        await inside.wait()
        async with _slow(port, 3, b"") as others, asyncio.timeout(60):
            await asyncio.gather(*(other.read() for other, _ in others))
        go.set()
        status, _, _ = await answer
        await _close(writer)

    assert status == 200


class _Transport:
    """Transport that records its calls."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("closed")


async def test_the_parts_of_a_response_are_written_together_and_before_the_connection_is_closed() -> None:
    transport = _Transport()
    gathered = server.GatheredWrites(transport)

    gathered.write(b"head")
    gathered.write(b"body")
    await asyncio.sleep(0)
    gathered.write(b"last")
    gathered.close()
    await asyncio.sleep(0)

    assert transport.calls == [b"headbody", b"last", "closed"]
