"""Verification of licences and revocation lists.

The public keys come as a JWK set from a place that the verifier trusts, never from the licence.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from paybill_licence.claims import ALGORITHM, TOLERANCE, Licence, Revocations
from paybill_licence.encoding import canonical, from_base64url
from paybill_licence.errors import (
    BadLicenceSignatureError,
    InvalidTimeError,
    LicenceExpiredError,
    LicenceNotYetValidError,
    LicenceRevokedError,
    MalformedLicenceError,
    OldRevocationsError,
    UnknownLicenceKeyError,
    WrongLicenceAlgorithmError,
)
from paybill_licence.keys import LicenceKeys
from paybill_licence.token import MAX_LICENCE_CHARS, MAX_REVOCATIONS_CHARS, PREFIXES, SIGNATURE_CHARS, split

C = TypeVar("C", Licence, Revocations)


def verify_licence(token: str | bytes, keys: LicenceKeys, now: datetime, revoked: Revocations | None = None) -> Licence:
    """Returns the claims of a licence that is valid at `now`.

    keys: the trusted ones, from `read_keys`. now: with a time zone. revoked: the newest list, from
    `verify_revocations`; a stale list still revokes its entries. White space at the ends of `token` is ignored, such as
    the line break of a file. Raises LicenceRefusedError and nothing else, for any `token` and `now`.
    """
    require_time(now)
    licence = _verified(Licence, token, keys, MAX_LICENCE_CHARS)
    if revoked is not None and revoked.covers(licence.licence_id, licence.revision):
        raise LicenceRevokedError(
            f"{licence.licence_id} was revoked by its issuer (list {revoked.number}); ask them for a new one", licence
        )
    if now < licence.not_before - TOLERANCE:
        raise LicenceNotYetValidError(
            f"{licence.licence_id} begins at {licence.not_before.isoformat()}; check this machine's clock"
        )
    if now >= licence.expires_at + TOLERANCE:
        raise LicenceExpiredError(
            f"{licence.licence_id} ended at {licence.expires_at.isoformat()}; fetch the renewed one from its issuer"
        )
    return licence


def verify_revocations(
    list_token: str | bytes, keys: LicenceKeys, now: datetime, known: Revocations | None = None
) -> Revocations:
    """Returns the claims of a revocation list. known: the newest list verified so far; an older one is refused.

    Raises LicenceRefusedError and nothing else. A stale list is no error: see `Revocations.is_stale`.
    """
    require_time(now)
    revocations = _verified(Revocations, list_token, keys, MAX_REVOCATIONS_CHARS)
    if now < revocations.issued_at - TOLERANCE:
        raise LicenceNotYetValidError(
            f"the revocation list begins at {revocations.issued_at.isoformat()}; check this machine's clock"
        )
    if known is not None and revocations.number < known.number:
        raise OldRevocationsError(
            f"this is revocation list {revocations.number}, and {known.number} is known; fetch the newest"
        )
    return revocations


def require_time(now: object) -> datetime:
    """Returns `now` in UTC. Raises InvalidTimeError for anything but a datetime with a time zone."""
    try:
        if isinstance(now, datetime) and now.utcoffset() is not None:
            return now.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidTimeError("the time is out of range; use: datetime.now(UTC)") from error
    raise InvalidTimeError("the time is no datetime with a time zone; use: datetime.now(UTC)")


def machine_digest(licence_id: str, machine: str) -> str:
    """Returns the name of a machine at the issuer: a hash of the licence and of the machine's local identifier.

    The licence id is part of the hash, so that the digests of one machine under two licences cannot be linked.
    """
    return sha256(f"paybill-machine-v1\n{licence_id}\n{machine}".encode("utf-8", "surrogatepass")).hexdigest()


def _verified(kind: type[C], text: str | bytes, keys: LicenceKeys, max_chars: int) -> C:
    """Returns the claims of a text with a valid signature. Times are not checked yet."""
    payload, signature = _parts(text, max_chars)
    try:
        raw = from_base64url(payload)
        claims = orjson.loads(raw)
        is_canonical = isinstance(claims, dict) and canonical(claims) == raw
    except (ValueError, TypeError) as error:
        raise _malformed("the payload is not JSON") from error
    if not is_canonical:
        raise _malformed("the payload is not one canonical JSON object")
    key = _trusted_key(claims, keys)
    try:
        key.verify(_signature(signature), PREFIXES[kind] + payload.encode())
    except InvalidSignature as error:
        raise BadLicenceSignatureError(
            "the signature does not match the payload: it was altered, or signed by another key; fetch it again"
        ) from error
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _malformed(f"its version is not supported ({_explain(error)}); upgrade the verifier") from error


def _parts(text: object, max_chars: int) -> tuple[str, str]:
    if not isinstance(text, str | bytes):
        raise _malformed("it is neither text nor bytes")
    text = text.strip()
    if len(text) > max_chars:
        raise _malformed(f"it has more than {max_chars} characters")
    try:
        plain = text.decode("ascii") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise _malformed("it has characters other than ASCII") from error
    parts = split(plain)
    if parts is None:
        raise _malformed(f"it is not two parts of base64url, the second of {SIGNATURE_CHARS} characters")
    return parts


def _trusted_key(claims: Mapping[str, Any], keys: LicenceKeys) -> Ed25519PublicKey:
    if claims.get("alg") != ALGORITHM:
        raise WrongLicenceAlgorithmError(
            f"it names the algorithm {claims.get('alg')!r:.60}; only {ALGORITHM} is accepted: ask its issuer"
        )
    kid = claims.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise UnknownLicenceKeyError(
            f"it names the key {kid!r:.60}, which is not trusted here; fetch the issuer's newest public keys"
        )
    return key


def _signature(text: str) -> bytes:
    try:
        return from_base64url(text)
    except ValueError as error:
        raise _malformed("the signature is not canonical base64url") from error


def _malformed(reason: str) -> MalformedLicenceError:
    return MalformedLicenceError(f"this is no licence as it was issued: {reason}; fetch it again")


def _explain(error: ValidationError) -> str:
    """Returns the errors with their locations, without the values."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()[:5]
    )
