"""What verifiers of licences fetch without a key (RFC 8615): the public keys, and the list of revocations."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.event import canonical
from paybill_contracts.licence import jwk
from paybill_runtime.http import Edge
from sqlalchemy import Text, cast
from sqlmodel import col, select

from paybill_billing.domain.licence_keys import KEYRING, trusted
from paybill_billing.domain.revocations import REVOCATIONS
from paybill_billing.tables import KEYRINGS, REVOCATION_LISTS, KeyringRow, RevocationListRow

MAX_AGE_S = 300
"""How long whoever fetched it may use it without asking again."""
KEPT_S = 2.0
"""How long it is kept in memory: anybody may ask, and as often as they like."""

_KEYS = select(cast(col(KeyringRow.state), Text).label("state")).where(KeyringRow.id == KEYRING)
_LIST = select(cast(col(RevocationListRow.state), Text).label("state")).where(RevocationListRow.id == REVOCATIONS)

Known = Annotated[str | None, Header(alias="If-None-Match", max_length=200)]


class LicenceKeysNotReadyError(RetryLaterError):
    """The first key is being made, or the first list is being signed."""

    code = "licence_keys_not_ready"


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    etag: str
    until: float


class _Public:
    """A document for everybody: read at most every KEPT_S, whoever asks."""

    def __init__(self, media_type: str, read: Callable[[], Awaitable[bytes]]) -> None:
        self._media_type = media_type
        self._read = read
        self._kept: _Kept | None = None

    async def answer(self, known: str | None) -> Response:
        """The document; 304 for who has it already (RFC 9110, section 13.1.2)."""
        kept = self._kept
        if kept is None or kept.until < time.monotonic():
            body = await self._read()
            kept = self._kept = _Kept(body, f'"{sha256(body).hexdigest()[:32]}"', time.monotonic() + KEPT_S)
        headers = {"ETag": kept.etag, "Cache-Control": f"public, max-age={MAX_AGE_S}"}
        if known is not None and kept.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(kept.body, headers=headers, media_type=self._media_type)


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/.well-known", tags=["licences"])

    async def read_keys() -> bytes:
        rows = await edge.rows(_KEYS)
        found = trusted(KEYRINGS.load(rows[0].state)) if rows else []
        if not found:
            raise LicenceKeysNotReadyError("the first key for licences is being made; come back in a moment")
        shown: list[dict[str, Any]] = [jwk(key.public_key) | {"state": key.state} for key in found]
        return canonical({"keys": shown})

    async def read_list() -> bytes:
        rows = await edge.rows(_LIST)
        signed = REVOCATION_LISTS.load(rows[0].state).signed if rows else None
        if signed is None:
            raise LicenceKeysNotReadyError("the first list of revocations is being signed; come back in a moment")
        return signed.text.encode()

    keys = _Public("application/jwk-set+json", read_keys)
    revoked = _Public("text/plain", read_list)

    @routes.get("/license-keys.json", response_class=Response)
    async def show_license_keys(known: Known = None) -> Response:
        """The public keys that licences are verified with: a JWK set of Ed25519 keys (RFC 7517, RFC 8037)."""
        return await keys.answer(known)

    @routes.get("/license-revocations", response_class=Response)
    async def show_license_revocations(known: Known = None) -> Response:
        """The signed list of licences that were revoked, as text; docs/licences.md says what it holds."""
        return await revoked.answer(known)

    return routes
