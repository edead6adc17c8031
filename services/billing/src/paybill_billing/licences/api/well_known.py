"""What verifiers of licences fetch without a key (RFC 8615): the public keys, and the list of revocations."""

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.event import canonical
from paybill_licence import jwk
from paybill_runtime.decisions.context import ServiceContext
from sqlalchemy import Text, cast, literal, select, union_all
from sqlmodel import col

from paybill_billing.licences.domain.licence_keys import KEYRING, trusted
from paybill_billing.licences.domain.revocations import REVOCATIONS
from paybill_billing.licences.tables import KEYRINGS, REVOCATION_LISTS, KeyringRow, RevocationListRow

MAX_AGE_S = 300
"""How long whoever fetched it may use it without asking again."""
KEPT_S = 0.5
"""How long it is kept in memory: anybody may ask, and as often as they like."""

_STATES = union_all(
    select(literal("keys").label("name"), cast(col(KeyringRow.state), Text).label("state")).where(
        col(KeyringRow.id) == KEYRING
    ),
    select(literal("revocations"), cast(col(RevocationListRow.state), Text)).where(
        col(RevocationListRow.id) == REVOCATIONS
    ),
)

Known = Annotated[str | None, Header(alias="If-None-Match", max_length=200)]


class LicenceKeysNotReadyError(RetryLaterError):
    """The first key is being made, or the first list is being signed."""

    code = "licence_keys_not_ready"


@dataclass(frozen=True, slots=True)
class _Document:
    body: bytes
    etag: str
    media_type: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """Both as they were at one moment: the list is signed by one of the keys."""

    keys: _Document
    revocations: _Document | None
    until: float


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/.well-known", tags=["licences"])
    last: _Kept | None = None

    async def kept() -> _Kept:
        nonlocal last
        if last is None or last.until < time.monotonic():
            states = {row.name: row.state for row in await context.rows(_STATES)}
            found = trusted(KEYRINGS.load(states["keys"])) if "keys" in states else []
            if not found:
                raise LicenceKeysNotReadyError("the first key for licences is being made; come back in a moment")
            shown: list[dict[str, Any]] = [jwk(key.public_key) | {"state": key.state} for key in found]
            signed = REVOCATION_LISTS.load(states["revocations"]).signed if "revocations" in states else None
            last = _Kept(
                _document(canonical({"keys": shown}), "application/jwk-set+json"),
                _document(signed.text.encode(), "text/plain") if signed is not None else None,
                time.monotonic() + KEPT_S,
            )
        return last

    @routes.get("/license-keys.json", response_class=Response)
    async def show_license_keys(known: Known = None) -> Response:
        """The public keys that licences are verified with: a JWK set of Ed25519 keys (RFC 7517, RFC 8037)."""
        return _answer((await kept()).keys, known)

    @routes.get("/license-revocations", response_class=Response)
    async def show_license_revocations(known: Known = None) -> Response:
        """The signed list of licences that were revoked, as text; docs/licences.md says what it holds."""
        revocations = (await kept()).revocations
        if revocations is None:
            raise LicenceKeysNotReadyError("the first list of revocations is being signed; come back in a moment")
        return _answer(revocations, known)

    return routes


def _document(body: bytes, media_type: str) -> _Document:
    return _Document(body, f'"{sha256(body).hexdigest()[:32]}"', media_type)


def _answer(document: _Document, known: str | None) -> Response:
    """The document; 304 for who has it already (RFC 9110, section 13.1.2)."""
    headers = {"ETag": document.etag, "Cache-Control": f"public, max-age={MAX_AGE_S}"}
    if known is not None and document.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=document.media_type)
