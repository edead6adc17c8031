"""Contact addresses: the form in which two of them count as the same customer."""

import unicodedata
from hashlib import sha256
from hmac import HMAC


def normalised(address: str) -> str:
    """Returns the address without case, tag after a plus sign and dot of the root domain: the same mailbox."""
    local, _, domain = unicodedata.normalize("NFKC", address).strip().casefold().rpartition("@")
    return f"{local.partition('+')[0]}@{domain.rstrip('.')}"


def contact_digest(key: bytes, address: str) -> str:
    """Returns HMAC-SHA-256 of the normalised address (RFC 2104). Without the key it cannot be guessed or compared."""
    return HMAC(key, normalised(address).encode(), sha256).hexdigest()
