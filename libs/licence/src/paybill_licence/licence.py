"""Licences that are verified offline: what one says, and how it is told from a forged one.

A licence is text: `<payload>.<signature>`, each base64url without padding (RFC 4648, section 5). The payload is
canonical JSON, the signature Ed25519 (RFC 8032) over a prefix that says what is signed, and the payload's text. Public
keys come as a JWK set (RFC 8037) from a place that the verifier trusts, never from the licence.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from paybill_contracts.billing import PlanRef
from paybill_contracts.catalogue import Feature
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Value, canonical, explain
from paybill_contracts.values import Digest, Key, SubscriptionId, TenantId, Timestamp
from pydantic import Field, StringConstraints, ValidationError

ALGORITHM: Literal["Ed25519"] = "Ed25519"
"""The only one (RFC 9864); a licence that names another is refused before its signature is looked at."""
TOLERANCE = timedelta(minutes=5)
"""What the clocks of who signs and who verifies may differ by, in both directions."""
MAX_SEATS = 10_000
MAX_REVOCATIONS = 10_000
MAX_LICENCE_CHARS = 64 * 1024
MAX_REVOCATIONS_CHARS = 2 * 1024 * 1024
MAX_KEYS_BYTES = 64 * 1024

_SIGNATURE_CHARS = 86
_PUBLIC_BYTES = 32
_TEXT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{86})")

LicenceId = Annotated[
    str,
    StringConstraints(pattern=r"^lic_[0-9a-f]{32}$"),
    Field(examples=["lic_0123456789abcdef0123456789abcdef"]),
]
KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"), Field(examples=["A" * 43])]
"""The thumbprint of a public key (RFC 7638), so that a name can never come to mean another key."""
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"), Field(examples=["A" * 43])]
"""32 bytes of an Ed25519 public key, base64url: the `x` of its JWK."""
Revision = Annotated[int, Field(ge=1, le=10**9)]
LicenceKeys = Mapping[str, Ed25519PublicKey]
"""Trust anchors, by their ids: see `read_keys`."""


class LicenceRefusedError(DomainError):
    """It is not a licence that may be relied on. This says so; it stops nothing."""

    code = "licence_refused"


class MalformedLicenceError(LicenceRefusedError):
    """It is no licence: cut off, altered, or something else."""

    code = "licence_malformed"


class WrongLicenceAlgorithmError(LicenceRefusedError):
    """It names another algorithm than Ed25519; whoever verifies chooses, never the licence (RFC 8725, section 3.1)."""

    code = "licence_wrong_algorithm"


class UnknownLicenceKeyError(LicenceRefusedError):
    """It names a key that is not among the trusted ones."""

    code = "licence_unknown_key"


class BadLicenceSignatureError(LicenceRefusedError):
    """The key that it names did not sign this."""

    code = "licence_bad_signature"


class LicenceNotYetValidError(LicenceRefusedError):
    """It begins later than now."""

    code = "licence_not_yet_valid"


class LicenceExpiredError(LicenceRefusedError):
    """It ended, and no newer one was put in its place."""

    code = "licence_expired"


class LicenceRevokedError(LicenceRefusedError):
    """Its issuer took it back. `licence` is what it said."""

    code = "licence_revoked"

    def __init__(self, why: str, licence: "Licence") -> None:
        super().__init__(why)
        self.licence = licence


class OldRevocationsError(LicenceRefusedError):
    """A newer list of revocations is known: who gives the older one may want a revocation forgotten."""

    code = "revocations_old"


class MalformedKeysError(LicenceRefusedError):
    """The file of public keys holds none that can be used."""

    code = "licence_keys_malformed"


class Licence(Value):
    """What a licence says. A field that is added later is optional, and left out of the text when it is not given.

    features, tier, plan: the effective entitlements that `entitlements_hash` is of. seats: machines that may be
    activated at once. revision: of this licence, the highest counts.
    """

    alg: Literal["Ed25519"]
    kid: KeyId
    licence_id: LicenceId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: PlanRef
    tier: Key
    features: tuple[Feature, ...]
    entitlements_hash: Digest
    seats: Annotated[int, Field(ge=0, le=MAX_SEATS)]
    issued_at: Timestamp
    not_before: Timestamp
    expires_at: Timestamp
    revision: Revision

    @property
    def renew_at(self) -> datetime:
        """From when on a newer one should be fetched: see `renewal_of`."""
        return renewal_time(self.issued_at, self.expires_at)


class Revocation(Value):
    """Revisions of a licence up to this one are taken back; a later one is a licence again."""

    licence_id: LicenceId
    revision: Revision


class Revocations(Value):
    """The signed list. number: grows with every list. next_update: by then there is a newer one."""

    alg: Literal["Ed25519"]
    kid: KeyId
    number: Annotated[int, Field(ge=1, le=10**12)]
    issued_at: Timestamp
    next_update: Timestamp
    revoked: Annotated[tuple[Revocation, ...], Field(max_length=MAX_REVOCATIONS)]

    def covers(self, licence_id: str, revision: int) -> bool:
        """Whether this revision of a licence is taken back."""
        return any(each.licence_id == licence_id and revision <= each.revision for each in self.revoked)

    def is_stale(self, now: datetime) -> bool:
        """Whether a newer list should have come. What this one names stays revoked."""
        return now > self.next_update + TOLERANCE


C = TypeVar("C", Licence, Revocations)

_PREFIX: Mapping[type[Value], bytes] = {
    Licence: b"paybill-licence-v1.",
    Revocations: b"paybill-licence-revocations-v1.",
}
"""Signed with the payload, so that a signature under one kind of text means nothing under the other."""


def renewal_time(issued_at: datetime, expires_at: datetime) -> datetime:
    """When two thirds of a licence's life are over: a third is left for whoever has trouble renewing it."""
    return issued_at + (expires_at - issued_at) * 2 / 3


def signing_input(claims: Licence | Revocations) -> bytes:
    """The bytes to be signed."""
    return _PREFIX[type(claims)] + _payload(claims)


def assemble(claims: Licence | Revocations, signature: str) -> str:
    """The text, of what it says and the signature (as base64url) over its `signing_input`."""
    return f"{_payload(claims).decode()}.{signature}"


def verify_licence(token: str | bytes, keys: LicenceKeys, now: datetime, revoked: Revocations | None = None) -> Licence:
    """What the licence says, if it can be relied on at `now`.

    keys: the trusted ones, from `read_keys`. revoked: the newest list, from `verify_revocations`; a stale one still
    revokes what it names. Raises LicenceRefusedError and nothing else, whatever `token` is.
    """
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
    """The list, if it can be relied on. known: the newest that was seen before; an older one is refused.

    Raises LicenceRefusedError and nothing else. A list that is stale is no error: look at `is_stale`.
    """
    found = _verified(Revocations, list_token, keys, MAX_REVOCATIONS_CHARS)
    if now < found.issued_at - TOLERANCE:
        raise LicenceNotYetValidError(
            f"the list of revocations is of {found.issued_at.isoformat()}; check this machine's clock"
        )
    if known is not None and found.number < known.number:
        raise OldRevocationsError(
            f"this is list {found.number} of the revocations, and {known.number} is known; fetch the newest"
        )
    return found


def base64url(value: bytes) -> str:
    """Without padding (RFC 4648, section 5; RFC 7515, section 2)."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def key_id(public: bytes) -> str:
    """The thumbprint of an Ed25519 public key (RFC 7638, and RFC 8037, appendix A.3)."""
    return base64url(sha256(canonical({"crv": "Ed25519", "kty": "OKP", "x": base64url(public)})).digest())


def jwk(public: str) -> dict[str, str]:
    """The JWK of a public key (RFC 8037, section 2)."""
    kid = key_id(_bytes(public))
    return {"kty": "OKP", "crv": "Ed25519", "x": public, "kid": kid, "use": "sig", "alg": ALGORITHM}


def read_keys(document: str | bytes) -> dict[str, Ed25519PublicKey]:
    """The trust anchors in a JWK set. Keys of other kinds are passed over (RFC 7517, section 5).

    Raises MalformedKeysError: no JWK set, no key for Ed25519, or a key under a name that is not its thumbprint.
    """
    try:
        if len(document) > MAX_KEYS_BYTES:
            raise MalformedKeysError(f"a file of public keys has {MAX_KEYS_BYTES} bytes at most; this is another file")
        found = orjson.loads(document)
        entries = [key for key in found["keys"] if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"]
        raw = {key["kid"]: _bytes(key["x"]) for key in entries}
        keys = {kid: Ed25519PublicKey.from_public_bytes(public) for kid, public in raw.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise MalformedKeysError(
            "this is no set of public keys; fetch /.well-known/license-keys.json from the issuer"
        ) from error
    wrong = [kid for kid, public in raw.items() if kid != key_id(public)]
    if wrong or not keys:
        raise MalformedKeysError(
            f"the key {wrong[0]!r:.60} is not what its id says" if wrong else "there is no key for Ed25519 in this set"
        )
    return keys


def machine_digest(licence_id: str, machine: str) -> str:
    """How a machine is named to the issuer: a hash of the licence and of what identifies the machine there.

    With the licence in it, the same machine under two licences cannot be told to be one.
    """
    return sha256(f"paybill-machine-v1\n{licence_id}\n{machine}".encode("utf-8", "surrogatepass")).hexdigest()


def _verified(kind: type[C], text: str | bytes, keys: LicenceKeys, longest: int) -> C:
    """What a text says, once its signature is right. Time is not looked at yet."""
    payload, signature = _parts(text, longest)
    try:
        raw = _bytes(payload)
        said = orjson.loads(raw)
        whole = isinstance(said, dict) and canonical(said) == raw
    except (ValueError, TypeError) as error:
        raise _malformed("what it says is not JSON") from error
    if not whole:
        raise _malformed("what it says is not one canonical JSON object")
    key = _trusted(said, keys)
    try:
        key.verify(_signature(signature), _PREFIX[kind] + payload.encode())
    except InvalidSignature as error:
        raise BadLicenceSignatureError(
            "the signature is not that of what it says: it was altered, or made by somebody else; fetch it again"
        ) from error
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _malformed(f"it is signed, and of a later version: {explain(error)}; upgrade the verifier") from error


def _parts(text: str | bytes, longest: int) -> tuple[str, str]:
    if len(text) > longest:
        raise _malformed(f"it has more than {longest} characters")
    try:
        plain = text.decode("ascii") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise _malformed("it has characters that no licence has") from error
    match = _TEXT.fullmatch(plain)
    if match is None:
        raise _malformed(f"it is not two parts of base64url, the second of {_SIGNATURE_CHARS} characters")
    return match[1], match[2]


def _trusted(said: Mapping[str, Any], keys: LicenceKeys) -> Ed25519PublicKey:
    if said.get("alg") != ALGORITHM:
        raise WrongLicenceAlgorithmError(
            f"it names the algorithm {said.get('alg')!r:.60}; only {ALGORITHM} is accepted: ask its issuer"
        )
    kid = said.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise UnknownLicenceKeyError(
            f"it names the key {kid!r:.60}, which is not trusted here; fetch the issuer's newest public keys"
        )
    return key


def _signature(text: str) -> bytes:
    try:
        return _bytes(text)
    except ValueError as error:
        raise _malformed("its signature is not base64url as it is written") from error


def _malformed(why: str) -> MalformedLicenceError:
    return MalformedLicenceError(f"this is no licence as it was issued: {why}; fetch it again")


def _payload(claims: Licence | Revocations) -> bytes:
    # Without what has its default: a field that is added one day does not change what was signed before.
    return base64url(canonical(claims.model_dump(mode="json", exclude_defaults=True))).encode()


def _bytes(text: str) -> bytes:
    """The bytes of base64url without padding. One text for the same bytes: the unused bits at its end are zero."""
    value = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(value) != text:
        raise ValueError("not as it is written")
    return value
