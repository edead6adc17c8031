"""Verifies Paybill licences offline: a signed text, the issuer's public keys and a clock are enough."""

from paybill_licence.claims import (
    ALGORITHM,
    MAX_REVOCATIONS,
    MAX_SEATS,
    TOLERANCE,
    KeyId,
    Licence,
    LicenceId,
    PublicKey,
    Revision,
    Revocation,
    Revocations,
)
from paybill_licence.encoding import base64url
from paybill_licence.errors import (
    BadLicenceSignatureError,
    LicenceExpiredError,
    LicenceNotYetValidError,
    LicenceRefusedError,
    LicenceRevokedError,
    MalformedKeysError,
    MalformedLicenceError,
    OldRevocationsError,
    UnknownLicenceKeyError,
    WrongLicenceAlgorithmError,
)
from paybill_licence.keys import MAX_KEYS_BYTES, LicenceKeys, jwk, key_id, read_keys
from paybill_licence.status import Advice, LicenceStatus, check_licence, update_status
from paybill_licence.token import MAX_LICENCE_CHARS, MAX_REVOCATIONS_CHARS, assemble, signing_input
from paybill_licence.verification import machine_digest, verify_licence, verify_revocations

__all__ = [
    "ALGORITHM",
    "MAX_KEYS_BYTES",
    "MAX_LICENCE_CHARS",
    "MAX_REVOCATIONS",
    "MAX_REVOCATIONS_CHARS",
    "MAX_SEATS",
    "TOLERANCE",
    "Advice",
    "BadLicenceSignatureError",
    "KeyId",
    "Licence",
    "LicenceExpiredError",
    "LicenceId",
    "LicenceKeys",
    "LicenceNotYetValidError",
    "LicenceRefusedError",
    "LicenceRevokedError",
    "LicenceStatus",
    "MalformedKeysError",
    "MalformedLicenceError",
    "OldRevocationsError",
    "PublicKey",
    "Revision",
    "Revocation",
    "Revocations",
    "UnknownLicenceKeyError",
    "WrongLicenceAlgorithmError",
    "assemble",
    "base64url",
    "check_licence",
    "jwk",
    "key_id",
    "machine_digest",
    "read_keys",
    "signing_input",
    "update_status",
    "verify_licence",
    "verify_revocations",
]
