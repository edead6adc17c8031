"""The OpenAPI document names every error that a route can answer; HEAD and repeated keys are answered as it says."""

import asyncio
import json
import re
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from paybill_contracts.errors import ConflictError
from paybill_runtime import serving
from paybill_runtime.http.documented_problems import complete
from paybill_runtime.http.problems import ANY_CODE
from paybill_runtime.http.router import Router
from pydantic import BaseModel


class OrderShippedError(ConflictError):
    code = "order_shipped"


OrderShippedError.__module__ = "paybill_orders.domain"


class Order(BaseModel):
    amount: int


@pytest.fixture
def document() -> dict[str, Any]:
    router = Router(problems={503: ("carrier_away",)})

    @router.get("/version")
    async def version() -> str: ...

    @router.get("/orders/{number}", dependencies=[Depends(HTTPBearer())])
    async def show(number: int) -> Order: ...

    @router.post("/orders", dependencies=[Depends(HTTPBearer())])
    async def create(order: Order) -> Order: ...

    plugged = Router(problems={400: (ANY_CODE,)})

    @plugged.post("/messages/{carrier}")
    async def receive(carrier: str) -> None: ...

    return complete(FastAPI(routes=[*router.routes, *plugged.routes]).openapi(), "orders")


def problem_codes(document: dict[str, Any], method: str, path: str) -> dict[int, list[str] | None]:
    """Returns the codes of each status of a route from 400; None where they are open."""
    found: dict[int, list[str] | None] = {}
    for status, response in document["paths"][path][method]["responses"].items():
        if int(status) >= 400:
            shared = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
            known = shared["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]
            assert known["status"] == {"const": int(status)}
            found[int(status)] = known["code"]["enum"] if "code" in known else None
    return found


def test_a_route_documents_what_the_server_and_the_middleware_answer_to_every_request(document) -> None:
    codes = problem_codes(document, "get", "/version")

    assert sorted(codes) == [400, 405, 408, 413, 431, 500, 503]
    assert codes[400] == ["bad_request"]
    assert codes[431] == ["too_large"]
    assert {"overloaded", "database_unavailable", "carrier_away"} <= {*codes[503]}


def test_a_key_a_parameter_a_body_and_a_change_add_what_they_lead_to(document) -> None:
    shown, created = (problem_codes(document, *each) for each in (("get", "/orders/{number}"), ("post", "/orders")))

    assert sorted(shown) == [400, 401, 403, 404, 405, 408, 409, 413, 422, 431, 500, 503]
    assert sorted(created) == [400, 401, 403, 404, 405, 408, 409, 413, 422, 431, 500, 503]
    assert shown[401] == ["no_key", "wrong_key"]
    assert "repeated_key" in created[400]
    assert "repeated_key" not in shown[400]
    assert "order_shipped" in created[409]
    assert "log_and_state_disagree" in created[503]


def test_a_status_whose_codes_come_from_a_plug_in_has_no_list_of_them(document) -> None:
    assert problem_codes(document, "post", "/messages/{carrier}")[400] is None


def test_the_document_has_no_error_that_is_never_sent(document) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document["paths"])


async def test_head_is_answered_as_get_without_its_body(served, sign_up) -> None:
    await sign_up(served)
    paths = [path for path, item in (await served.client.get("/openapi.json")).json()["paths"].items() if "get" in item]
    answers = {}
    for path in [*paths, "/openapi.json", "/docs", "/v1/no-such-route"]:
        url = re.sub(r"\{[^}]+\}", "acme", path)
        answers[path] = [await served.client.request(method, url) for method in ("GET", "HEAD")]

    assert len(answers) >= 20
    for path, (got, head) in answers.items():
        assert head.status_code == got.status_code, path
        assert head.content == b"", path
        assert head.headers.get("content-type") == got.headers.get("content-type"), path
        assert int(head.headers["content-length"]) > 0, path
    assert {200, 404} <= {head.status_code for _, head in answers.values()}


async def test_another_method_is_refused_with_all_methods_of_the_path(served) -> None:
    answers = [await served.client.delete(path) for path in ("/v1/tenants", "/v1/tenants/quote", "/healthz")]

    assert [each.status_code for each in answers] == [405] * 3
    assert [each.headers["allow"] for each in answers] == ["GET, HEAD, POST", "POST", "GET, HEAD"]
    assert {each.json()["code"] for each in answers} == {"method_not_allowed"}


BODIES = {
    b'{"slug": "acme", "slug": "other"}': "repeated_key",
    b'{"name": "Acme", "extra": {"a": 1, "a": 1}}': "repeated_key",
    b'{"name": NaN}': "invalid_json",
    b'{"name": "\\u0000"}': "invalid_text",
    b'{"name": 1e999}': "number_out_of_range",
    b'{"name": ': "invalid_json",
    b"\xff": "invalid_json",
}


@pytest.mark.parametrize(("body", "code"), BODIES.items(), ids=map(repr, BODIES))
async def test_a_body_with_more_than_one_meaning_is_refused(served, body, code) -> None:
    answer = await served.client.post("/v1/tenants", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["code"] == code


async def test_head_keeps_its_connection_and_sends_no_byte_of_a_body(served) -> None:
    head = b"HEAD /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving.serving(served.running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + head.replace(b"HEAD", b"GET"))
        async with asyncio.timeout(60):
            heads = [await reader.readuntil(b"\r\n\r\n") for _ in range(2)]
            length = int(re.findall(rb"content-length: (\d+)", heads[0])[0])
            body = await reader.readexactly(length)
        writer.close()

    assert all(each.startswith(b"HTTP/1.1 200 ") for each in heads)
    assert json.loads(body)["openapi"]
