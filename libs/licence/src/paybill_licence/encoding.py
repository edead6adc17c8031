"""Encodings of the signed text: canonical JSON and base64url."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import orjson


def canonical(value: object) -> bytes:
    """Returns JSON with sorted keys and no spaces, UTF-8: the only accepted encoding of the claims."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def base64url(value: bytes) -> str:
    """Encodes without padding (RFC 4648, section 5; RFC 7515, section 2)."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Decodes base64url without padding. Raises ValueError for any text that `base64url` would not produce."""
    value = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(value) != text:
        raise ValueError("not canonical base64url")
    return value
