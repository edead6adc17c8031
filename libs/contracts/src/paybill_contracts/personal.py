"""Encryption of personal data in events: erasing a key erases the data, and the log stays complete."""

import re
from base64 import b64decode, b64encode
from typing import Annotated, Generic, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from paybill_contracts.errors import DomainError

T = TypeVar("T")

NONCE_BYTES = 12
MAX_SEALED_BYTES = 5972
"""Bytes of a value that is sealed: with nonce and tag they have 8,000 characters in base64."""
_SEALED = re.compile(r"[A-Za-z0-9+/]{38,8000}={0,2}")


class UnsealingError(DomainError):
    """The key does not decrypt this value: it is another tenant's, or the value was altered."""

    code = "cannot_unseal"


def _is_sealed(value: str) -> str:
    """Checks the form in Python: pydantic's regex engine expands 8,000 repetitions to 3 MB in every process."""
    if not _SEALED.fullmatch(value):
        raise ValueError("this is not a sealed value: base64 of a nonce and AES-GCM output")
    return value


class Personal(BaseModel, Generic[T]):
    """A sealed value. `key` names the data key, `<service>/<tenant>`; `sealed`: base64 of nonce and AES-256-GCM output.

    The key's name is the associated data, so that a value cannot be attributed to another tenant's key.
    Source: NIST SP 800-38D.
    """

    model_config = ConfigDict(frozen=True, strict=True, defer_build=True, json_schema_extra={"x-personal": True})

    key: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z-]+/ten_[0-9a-f]{32}$"),
        Field(examples=["tenant/ten_0123456789abcdef0123456789abcdef"]),
    ]
    sealed: Annotated[
        str,
        AfterValidator(_is_sealed),
        Field(examples=["A" * 60], json_schema_extra={"pattern": f"^{_SEALED.pattern}$"}),
    ]


def seal(value: str, *, key: bytes, name: str, nonce: bytes) -> Personal[str]:
    """Encrypts `value` with the 32-byte data key `name`; `nonce` is 12 fresh random bytes from the caller."""
    ciphertext = AESGCM(key).encrypt(nonce, value.encode(), name.encode())
    return Personal[str](key=name, sealed=b64encode(nonce + ciphertext).decode())


def unseal(value: Personal[str], key: bytes) -> str:
    """Decrypts the value. Raises UnsealingError when `key` is not the one that sealed it."""
    raw = b64decode(value.sealed)
    try:
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], value.key.encode()).decode()
    except InvalidTag as error:
        raise UnsealingError(f"the key {value.key} does not decrypt this value") from error
