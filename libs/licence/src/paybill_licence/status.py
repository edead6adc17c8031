"""Status of a licence that a running system verifies repeatedly. It is advice: it never stops the system."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from paybill_licence.claims import Licence, Revocations
from paybill_licence.errors import LicenceRefusedError, LicenceRevokedError
from paybill_licence.keys import LicenceKeys
from paybill_licence.verification import verify_licence


class Advice(StrEnum):
    """Result of repeated verification. The application decides how it reacts."""

    VALID = "valid"
    RENEW_SOON = "renew_soon"
    UNVERIFIED = "unverified"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class LicenceStatus:
    """Advice about the licence of a running system.

    since: start of the current advice. licence: the last verified claims; the system continues with them while the
    advice is `unverified`. code: of the refusal, empty when there is none.
    """

    advice: Advice
    since: datetime
    licence: Licence | None = None
    code: str = ""


def update_status(
    previous: LicenceStatus | None, result: Licence | LicenceRefusedError, now: datetime
) -> LicenceStatus:
    """Returns the status after one more verification. Never raises; time alone never gives worse than `unverified`.

    result: returned or raised by `verify_licence`. Only a signed list revokes, and a revocation lasts until a later
    revision or another licence is verified: losing the list does not restore the licence.
    """
    last = previous.licence if previous is not None else None
    match result:
        case LicenceRevokedError():
            status = LicenceStatus(Advice.REVOKED, now, result.licence, result.code)
        case LicenceRefusedError():
            if previous is not None and previous.advice is Advice.REVOKED:
                return previous
            status = LicenceStatus(Advice.UNVERIFIED, now, last, result.code)
        case Licence():
            if previous is not None and previous.advice is Advice.REVOKED and _is_covered(result, last):
                return previous
            advice = Advice.RENEW_SOON if now >= result.renew_at else Advice.VALID
            status = LicenceStatus(advice, now, result)
        case _:
            assert_never(result)
    if previous is not None and previous.advice is status.advice:
        return LicenceStatus(status.advice, previous.since, status.licence, status.code)
    return status


def check_licence(
    previous: LicenceStatus | None,
    token: str | bytes,
    keys: LicenceKeys,
    now: datetime,
    revoked: Revocations | None = None,
) -> LicenceStatus:
    """Verifies `token` and returns the updated status. Never raises."""
    try:
        result: Licence | LicenceRefusedError = verify_licence(token, keys, now, revoked)
    except LicenceRefusedError as error:
        result = error
    return update_status(previous, result, now)


def _is_covered(licence: Licence, revoked: Licence | None) -> bool:
    return revoked is not None and licence.licence_id == revoked.licence_id and licence.revision <= revoked.revision
