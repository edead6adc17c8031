"""Reasons for which a licence, a revocation list or a key set is refused."""

from typing import ClassVar

from paybill_licence.claims import Licence


class LicenceRefusedError(Exception):
    """The text must not be relied on. `code` is stable; the message says what is wrong and what to do next."""

    code: ClassVar[str] = "licence_refused"


class MalformedLicenceError(LicenceRefusedError):
    """The text is no licence: truncated, altered, or something else."""

    code = "licence_malformed"


class WrongLicenceAlgorithmError(LicenceRefusedError):
    """The text names another algorithm than Ed25519. The verifier chooses the algorithm (RFC 8725, section 3.1)."""

    code = "licence_wrong_algorithm"


class UnknownLicenceKeyError(LicenceRefusedError):
    """The text names a key that is not trusted."""

    code = "licence_unknown_key"


class BadLicenceSignatureError(LicenceRefusedError):
    """The named key did not sign this text."""

    code = "licence_bad_signature"


class InvalidTimeError(LicenceRefusedError):
    """The time of the verification is no datetime with a time zone, so that nothing can be said about the validity."""

    code = "licence_invalid_time"


class LicenceNotYetValidError(LicenceRefusedError):
    """The validity period begins in the future."""

    code = "licence_not_yet_valid"


class LicenceExpiredError(LicenceRefusedError):
    """The validity period is over."""

    code = "licence_expired"


class LicenceRevokedError(LicenceRefusedError):
    """The issuer revoked the licence. `licence` holds its claims."""

    code = "licence_revoked"

    def __init__(self, reason: str, licence: Licence) -> None:
        super().__init__(reason)
        self.licence = licence


class OldRevocationsError(LicenceRefusedError):
    """A newer revocation list is known; an older one could hide a revocation."""

    code = "revocations_old"


class MalformedKeysError(LicenceRefusedError):
    """The key set holds no usable key."""

    code = "licence_keys_malformed"
