"""Copies of data keys in the key bucket: one message for each key, encrypted for each of its recipients.

A recipient is a service, or a subscriber that may open personal data. The encryption is HPKE (RFC 9180) in base mode.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from paybill_contracts.personal import UnsealingError

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
"""Of the suites with X25519 and a 256-bit key, this one is in the RFC's test vectors."""
VERSION = b"\x02"
"""First byte of an encrypted value. Version 1 has no such byte: it starts with a random public key."""
KEY_BUCKET = "KV_keys"
"""The stream of the key bucket."""


def info(recipient: str) -> bytes:
    """Returns the purpose and the recipient, to which HPKE binds the encrypted value."""
    return b"paybill-box-v2 " + recipient.encode()


def key_subject(owner: str, tenant: str) -> str:
    """Returns the subject of the copies of one key in the key bucket."""
    return f"$KV.keys.{owner}.{tenant}"


def encode_copies(copies: Mapping[str, bytes]) -> bytes:
    """Returns the message with the encrypted key for each recipient."""
    return orjson.dumps({recipient: b64encode(copy).decode() for recipient, copy in copies.items()})


def copy_for(recipient: str, message: bytes) -> bytes | None:
    """Returns the encrypted key for a recipient; None when the message contains none."""
    copies = orjson.loads(message or b"{}")
    return b64decode(copies[recipient]) if recipient in copies else None


def decrypt(encrypted: bytes, private: X25519PrivateKey, recipient: str) -> bytes:
    """Returns the value that was encrypted for `recipient`. Raises UnsealingError."""
    try:
        return SUITE.decrypt(encrypted.removeprefix(VERSION), private, info(recipient))
    except (InvalidTag, ValueError) as error:
        raise UnsealingError(f"this value was not encrypted for {recipient}, or was altered") from error
