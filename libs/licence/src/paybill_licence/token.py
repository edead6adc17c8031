"""The text of a licence or a revocation list: `<payload>.<signature>`, each base64url without padding (RFC 4648).

The payload is canonical JSON. The signature is Ed25519 (RFC 8032) over a prefix that names the kind of text, followed
by the encoded payload.
"""

import re
from collections.abc import Mapping

from paybill_licence.claims import Licence, Revocations
from paybill_licence.encoding import base64url, canonical
from paybill_licence.values import Claims

MAX_LICENCE_CHARS = 64 * 1024
MAX_REVOCATIONS_CHARS = 2 * 1024 * 1024
SIGNATURE_CHARS = 86

PREFIXES: Mapping[type[Claims], bytes] = {
    Licence: b"paybill-licence-v1.",
    Revocations: b"paybill-licence-revocations-v1.",
}
"""Signed together with the payload: a signature of one kind of text is invalid for the other."""

_TEXT = re.compile(rf"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{{{SIGNATURE_CHARS}}})")


def signing_input(claims: Licence | Revocations) -> bytes:
    """Returns the bytes to be signed."""
    return PREFIXES[type(claims)] + _payload(claims)


def assemble(claims: Licence | Revocations, signature: str) -> str:
    """Returns the text of the claims and the base64url signature over their `signing_input`."""
    return f"{_payload(claims).decode()}.{signature}"


def split(text: str) -> tuple[str, str] | None:
    """Returns the encoded payload and signature; None when `text` has another form."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (match[1], match[2])


def _payload(claims: Licence | Revocations) -> bytes:
    # Defaults are left out: a field that is added later does not change texts that were signed before.
    return base64url(canonical(claims.model_dump(mode="json", exclude_defaults=True))).encode()
