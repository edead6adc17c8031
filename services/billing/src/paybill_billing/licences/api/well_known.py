"""Public routes for verifiers of licences (RFC 8615): the signing keys' public halves and the revocation list."""

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.event import canonical
from paybill_licence import jwk
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.router import Router

from paybill_billing.licences.domain.licence_keys import trusted
from paybill_billing.licences.tables import KEYRINGS, PUBLISHED_STATES, REVOCATION_LISTS

MAX_AGE_S = 300
"""The time for which a client may use its copy."""
CACHE_S = 0.5
"""The time for which both documents are cached in memory, because the routes need no key and have no rate limit."""


KnownETag = Annotated[str | None, Header(alias="If-None-Match", max_length=200)]


class LicenceKeysNotReadyError(RetryLaterError):
    """The first key is not generated yet, or the first list is not signed yet."""

    code = "licence_keys_not_ready"


@dataclass(frozen=True, slots=True)
class _Document:
    body: bytes
    etag: str
    media_type: str


@dataclass(frozen=True, slots=True)
class _Cached:
    """Both documents from one snapshot, so that the list is signed by one of the keys."""

    keys: _Document
    revocations: _Document | None
    until: float


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/.well-known", tags=["licences"])
    cache: _Cached | None = None

    async def cached() -> _Cached:
        nonlocal cache
        if cache is None or cache.until < time.monotonic():
            states = {row.name: row.state for row in await context.rows(PUBLISHED_STATES)}
            keys = trusted(KEYRINGS.load(states["keys"])) if "keys" in states else []
            if not keys:
                raise LicenceKeysNotReadyError("the first signing key is being generated; retry in a moment")
            shown: list[dict[str, Any]] = [jwk(key.public_key) | {"state": key.state} for key in keys]
            signed = REVOCATION_LISTS.load(states["revocations"]).signed if "revocations" in states else None
            cache = _Cached(
                _document(canonical({"keys": shown}), "application/jwk-set+json"),
                _document(signed.text.encode(), "text/plain") if signed is not None else None,
                time.monotonic() + CACHE_S,
            )
        return cache

    @routes.get("/license-keys.json", response_class=Response)
    async def show_license_keys(known: KnownETag = None) -> Response:
        """Returns the public keys that verify licences: a JWK set of Ed25519 keys (RFC 7517, RFC 8037)."""
        return _response((await cached()).keys, known)

    @routes.get("/license-revocations", response_class=Response)
    async def show_license_revocations(known: KnownETag = None) -> Response:
        """Returns the signed revocation list as text; docs/licences.md describes its format."""
        revocations = (await cached()).revocations
        if revocations is None:
            raise LicenceKeysNotReadyError("the first revocation list is being signed; retry in a moment")
        return _response(revocations, known)

    return routes


def _document(body: bytes, media_type: str) -> _Document:
    return _Document(body, f'"{sha256(body).hexdigest()[:32]}"', media_type)


def _response(document: _Document, known: str | None) -> Response:
    """Returns the document, or 304 when the client has it already (RFC 9110, section 13.1.2)."""
    headers = {"ETag": document.etag, "Cache-Control": f"public, max-age={MAX_AGE_S}"}
    if known is not None and document.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=document.media_type)
