"""The OpenAPI document is rendered at the first request, and all responses share its bytes."""

from typing import Any

from fastapi import FastAPI
from paybill_runtime.http.documented_app import documented_app


async def body_of(app: FastAPI, path: str) -> bytes:
    """Returns the body of a response: the object itself, which a client would copy."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    body: bytes = sent[1]["body"]
    return body


async def test_all_responses_with_the_openapi_document_share_its_bytes() -> None:
    app = documented_app("test", version="1")

    first, second = [await body_of(app, "/openapi.json") for _ in range(2)]

    assert b"Paybill test" in first
    assert first is second
    assert app.openapi_schema is None


async def test_its_pages_load_nothing_from_other_hosts() -> None:
    page = await body_of(documented_app("test", version="1"), "/docs")

    assert b"/openapi.json" in page
    assert b"https://" not in page
