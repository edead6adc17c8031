"""Public keys of the issuer: JWK sets (RFC 8037) and thumbprints (RFC 7638)."""

from collections.abc import Mapping
from hashlib import sha256

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from paybill_licence.claims import ALGORITHM
from paybill_licence.encoding import base64url, canonical, from_base64url
from paybill_licence.errors import MalformedKeysError

MAX_KEYS_BYTES = 64 * 1024

LicenceKeys = Mapping[str, Ed25519PublicKey]
"""Trust anchors, by their ids: see `read_keys`."""


def key_id(public: bytes) -> str:
    """Returns the thumbprint of an Ed25519 public key (RFC 7638; RFC 8037, appendix A.3)."""
    return base64url(sha256(canonical({"crv": "Ed25519", "kty": "OKP", "x": base64url(public)})).digest())


def jwk(public: str) -> dict[str, str]:
    """Returns the JWK of a public key (RFC 8037, section 2)."""
    kid = key_id(from_base64url(public))
    return {"kty": "OKP", "crv": "Ed25519", "x": public, "kid": kid, "use": "sig", "alg": ALGORITHM}


def read_keys(document: str | bytes) -> dict[str, Ed25519PublicKey]:
    """Returns the trust anchors in a JWK set. Keys of other kinds are ignored (RFC 7517, section 5).

    Raises MalformedKeysError for no JWK set, for one without an Ed25519 key, or for an id that is not the thumbprint.
    """
    try:
        if len(document) > MAX_KEYS_BYTES:
            raise MalformedKeysError(f"a set of public keys has {MAX_KEYS_BYTES} bytes at most; this is another file")
        content = orjson.loads(document)
        entries = [key for key in content["keys"] if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"]
        raw = {key["kid"]: from_base64url(key["x"]) for key in entries}
        keys = {kid: Ed25519PublicKey.from_public_bytes(public) for kid, public in raw.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise MalformedKeysError(
            "this is no set of public keys; fetch /.well-known/license-keys.json from the issuer"
        ) from error
    wrong = [kid for kid, public in raw.items() if kid != key_id(public)]
    if wrong or not keys:
        raise MalformedKeysError(
            f"the id {wrong[0]!r:.60} is not the thumbprint of its key" if wrong else "this set has no Ed25519 key"
        )
    return keys
