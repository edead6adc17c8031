"""Invalid input over HTTP gets a problem document with a stable code."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import NotFoundError
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http import middleware, problems
from paybill_runtime.http.auth import KeyRing, Role, make_key
from paybill_runtime.http.limits import ConcurrencyLimit
from paybill_runtime.http.middleware import MAX_BODY_BYTES, RequestMiddleware
from paybill_runtime.serving import serving
from sqlalchemy import text

LATER = datetime.now(UTC) + timedelta(days=1)
EARLIER = datetime.now(UTC) - timedelta(seconds=1)


def _keys(served, *keys) -> None:
    path = served.running.settings.api_keys_file
    path.write_text(json.dumps({"keys": [key.stored for key in keys]}))


def _with(raw: str) -> dict[str, str]:
    return {"Authorization": raw}


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Bearer pbk_test_" + "A" * 43, "Basic dGVzdDp0ZXN0", "Bearer pbk_other_" + "A" * 43],
)
async def test_a_missing_or_wrong_key_is_a_401(served, header) -> None:
    answer = await served.client.get("/v1/tenants", headers=_with(header))

    assert answer.status_code == 401
    assert answer.json()["code"] in {"no_key", "wrong_key"}
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_scope_role_and_expiry_are_checked(served) -> None:
    keys = {
        "viewer": make_key("viewer", "r", Role.VIEWER, ("tenant:read",), LATER),
        "elsewhere": make_key("elsewhere", "e", Role.ADMIN, ("billing:read", "billing:write"), LATER),
        "expired": make_key("expired", "x", Role.ADMIN, ("*",), EARLIER),
    }
    _keys(served, *keys.values())

    async def status(key: str, method: str, path: str) -> int:
        answer = await served.client.request(method, path, headers=_with(f"Bearer {keys[key].raw}"))
        return answer.status_code

    assert await status("viewer", "GET", "/v1/tenants") == 200
    assert await status("viewer", "POST", "/v1/tenants/acme/resume") == 403
    assert await status("elsewhere", "GET", "/v1/tenants") == 403
    assert await status("expired", "GET", "/v1/tenants") == 401


async def test_every_route_except_the_probes_requires_a_key(served) -> None:
    open_to_all = {"/healthz", "/readyz"}
    paths = (await served.client.get("/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        if path in open_to_all:
            continue
        for method in methods:
            answer = await served.client.request(method, path.replace("{tenant}", "acme"), headers=_with(""))
            assert answer.status_code == 401, f"{method} {path}"


async def test_a_body_over_one_mebibyte_is_a_413_with_and_without_content_length(served) -> None:
    big = b"x" * (MAX_BODY_BYTES + 1)

    async def parts():
        yield big

    with_length = await served.client.post("/v1/tenants", content=big)
    without_length = await served.client.post("/v1/tenants", content=parts())

    assert (with_length.status_code, without_length.status_code) == (413, 413)
    assert with_length.json()["code"] == "too_large"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{", b"[]", b"null", b'{"slug": 1}', b'{"slug": "a\\u0000"}'])
async def test_an_invalid_body_is_refused_with_the_location_of_the_error(served, body) -> None:
    answer = await served.client.post("/v1/tenants", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in {400, 422}
    assert answer.json()["code"] in {"invalid_request", "invalid_json", "invalid_text"}


async def test_a_repeated_idempotency_key_gets_the_same_response(served, sign_up, log) -> None:
    first = await sign_up(served, "once", **{"Idempotency-Key": "k1"})
    again = await sign_up(served, "once", **{"Idempotency-Key": "k1"})
    other = await sign_up(served, "other", **{"Idempotency-Key": "k1"})

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert first.json() == again.json()
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(await log.facts("tenant.tenant_requested")) == 1


async def test_a_response_of_an_earlier_version_is_no_error_of_the_service(served, sign_up) -> None:
    await sign_up(served, "once", **{"Idempotency-Key": "k1"})
    async with served.running.database.transaction() as connection:
        await connection.execute(text('UPDATE chassis.idempotency SET answer = \'{"id": "ten_1"}\''))
    again = await sign_up(served, "once", **{"Idempotency-Key": "k1"})

    assert (again.status_code, again.json()["code"]) == (409, "answered_before_upgrade")


async def test_five_concurrent_copies_of_a_request_take_effect_once_and_get_five_responses(
    served, sign_up, log
) -> None:
    answers = await asyncio.gather(*(sign_up(served, "once", **{"Idempotency-Key": "k1"}) for _ in range(5)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await log.facts("tenant.tenant_requested")) == 1


async def test_an_unknown_route_or_method_is_a_problem_too(served) -> None:
    missing = await served.client.get("/v1/nothing")
    wrong = await served.client.delete("/v1/tenants")

    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_route")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]


async def test_an_outbox_that_is_too_long_causes_503_instead_of_growing(served, sign_up) -> None:
    served.running.context.backlog = lambda: served.running.settings.outbox_limit + 1

    answer = await sign_up(served)

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["Retry-After"]


async def test_while_the_keys_cannot_be_read_every_caller_is_refused_and_readiness_reports_it(served, caplog) -> None:
    path = served.running.settings.api_keys_file
    good = path.read_text()
    path.write_text("{")

    answers = [await served.client.get("/v1/tenants") for _ in range(3)]
    path.write_text(good)
    afterwards = await served.client.get("/v1/tenants")

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "keys_unavailable")}
    assert sum("every request is refused" in record.message for record in caplog.records) == 1
    assert afterwards.status_code == 200


async def test_a_partial_body_is_no_request(served, log) -> None:
    whole = b'{"slug": "acme", "name": "Acme", "plan": "pro", "region": "eu-1", "contact_email": "a@acme.example"}'
    parts = [{"type": "http.request", "body": whole, "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive() -> dict:
        return parts.pop(0)

    async def send(message) -> None:
        sent.append(message)

    headers = [
        (b"authorization", served.client.headers["Authorization"].encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {"type": "http", "method": "POST", "path": "/v1/tenants", "query_string": b"", "headers": headers}
    await served.running.app()(scope, receive, send)

    assert sent == []
    assert (await served.client.get("/v1/tenants")).json()["tenants"] == []


async def test_a_client_that_never_ends_its_body_is_disconnected(served, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.2)
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_is_still_sending_receives_the_413(served) -> None:
    async with serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: {20 * MAX_BODY_BYTES}\r\n\r\n".encode())
        for _ in range(20):
            writer.write(b"x" * MAX_BODY_BYTES)
            await writer.drain()
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.fixture
def broken() -> httpx.AsyncClient:
    """Application whose only route has a bug."""
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestMiddleware, limit=ConcurrencyLimit(1))

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("the password is hunter2")

    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x")


async def test_an_internal_error_shows_the_trace_and_no_detail(broken, caplog) -> None:
    trace = "ab" * 16

    answer = await broken.get("/bug", headers={"traceparent": f"00-{trace}-{'cd' * 8}-01"})

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["trace_id"] == trace
    assert answer.headers["traceparent"][3:35] == trace
    assert "hunter2" not in answer.text
    assert [record.message for record in caplog.records if record.exc_info] == ["a request failed"]


async def test_a_refusal_is_recorded_for_every_kind_of_request(served, log) -> None:
    def decide(_unit, _at) -> None:
        raise NotFoundError("no such thing")

    with pytest.raises(NotFoundError):
        await served.running.context.decide(
            Origin("c", "c", "operator:test", ""), decide, verb="resume", target="a\0\n" + "b" * 1000
        )

    facts = await log.facts("tenant.request_refused")
    assert facts[0].event.target == "a" + " " * 2 + "b" * 497


def test_a_broken_key_file_refuses_every_caller_and_is_reported(tmp_path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")

    with pytest.raises(ConfigurationError, match="paybill up"):
        KeyRing(path)


def test_a_key_is_stored_only_as_its_hash() -> None:
    key = make_key("op", "operator", Role.ADMIN, ("*",), LATER)

    assert key.raw.split("_", 2)[2] not in json.dumps(key.stored)
