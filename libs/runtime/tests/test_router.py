"""A router analyses each route at its first request, and serves what FastAPI's own router serves."""

from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.exceptions import FastAPIError
from paybill_runtime.http.router import Router
from pydantic import BaseModel


class Order(BaseModel):
    amount: int


async def tenant_of(tenant_id: str) -> str:
    return tenant_id.upper()


def declare(router: APIRouter) -> FastAPI:
    @router.get("/{tenant_id}/orders", summary="Lists orders")
    async def orders(tenant: Annotated[str, Depends(tenant_of)], limit: Annotated[int, Query(ge=1)] = 5) -> list[str]:
        return [tenant] * limit

    @router.post("/orders", status_code=201)
    async def order(body: Order) -> Order:
        return body

    @router.delete("/orders", name="drop")
    async def cancel() -> None: ...

    return FastAPI(routes=router.routes)


REQUESTS = [
    ("GET", "/v1/a/orders?limit=2", None),
    ("GET", "/v1/a/orders?limit=0", None),
    ("POST", "/v1/orders", {"amount": 3}),
    ("POST", "/v1/orders", {"amount": "three"}),
    ("DELETE", "/v1/orders", None),
    ("PUT", "/v1/orders", None),
    ("GET", "/v1/nothing", None),
    ("GET", "/openapi.json", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_a_request_is_answered_as_by_the_router_of_fastapi(method, path, body):
    answers = []
    for router in (Router(prefix="/v1", tags=["orders"]), APIRouter(prefix="/v1", tags=["orders"])):
        transport = httpx.ASGITransport(declare(router))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answer = await client.request(method, path, json=body)
            answers.append((answer.status_code, answer.headers, answer.text))

    assert answers[0] == answers[1]


async def test_a_request_analyses_no_other_route():
    router = Router(prefix="/v1")
    transport = httpx.ASGITransport(declare(router))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        await client.post("/v1/orders", json={"amount": 3})

    assert ["dependant" in vars(route) for route in router.routes] == [False, True, False]


def test_a_wrong_declaration_fails_when_the_document_is_read():
    router = Router()

    @router.get("/")
    async def wrong(parameter: FastAPI) -> None: ...

    with pytest.raises(FastAPIError, match="Invalid args"):
        FastAPI(routes=router.routes).openapi()


def test_a_route_has_no_attribute_that_routes_of_fastapi_have_not():
    router = Router()
    declare(router)

    assert not hasattr(router.routes[0], "no_such_attribute")
