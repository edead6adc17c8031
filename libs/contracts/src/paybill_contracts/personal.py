"""Personal data in facts, sealed from the first event on: erasing a key erases the person, and the log stays whole."""

from base64 import b64decode, b64encode
from typing import Annotated, Generic, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paybill_contracts.errors import DomainError

T = TypeVar("T")

NONCE_BYTES = 12


class UnsealingError(DomainError):
    """The key does not open this value: erased, of another tenant, or the value was altered."""

    code = "cannot_unseal"


class Personal(BaseModel, Generic[T]):
    """A sealed value. `key` names the data key, `<service>/<tenant>`; `sealed`: base64 of nonce and AES-256-GCM output.

    The key's name is the associated data, so that a value cannot be moved under another tenant's key.
    Source: NIST SP 800-38D.
    """

    model_config = ConfigDict(frozen=True, strict=True, defer_build=True, json_schema_extra={"x-personal": True})

    key: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z-]+/ten_[0-9a-f]{32}$"),
        Field(examples=["tenant/ten_0123456789abcdef0123456789abcdef"]),
    ]
    sealed: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{38,8000}={0,2}$"), Field(examples=["A" * 60])]


def seal(value: str, *, key: bytes, name: str, nonce: bytes) -> Personal[str]:
    """`value` under the 32-byte data key called `name`; `nonce` is 12 fresh random bytes, made by the edge."""
    box = AESGCM(key).encrypt(nonce, value.encode(), name.encode())
    return Personal[str](key=name, sealed=b64encode(nonce + box).decode())


def unseal(value: Personal[str], key: bytes) -> str:
    """The value in clear. Raises UnsealingError when `key` is not the one it was sealed under."""
    raw = b64decode(value.sealed)
    try:
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], value.key.encode()).decode()
    except InvalidTag as error:
        raise UnsealingError(f"the key {value.key} does not open this value") from error
