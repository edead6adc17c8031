"""What to make of a licence that is verified again and again: advice for a running system, which it never stops."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from paybill_licence.licence import (
    Licence,
    LicenceKeys,
    LicenceRefusedError,
    LicenceRevokedError,
    Revocations,
    verify_licence,
)


class Advice(StrEnum):
    """What verifying a licence again and again has come to. What to do about it is the application's own choice."""

    VALID = "valid"
    RENEW_SOON = "renew_soon"
    UNVERIFIED = "unverified"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class LicenceStatus:
    """What is known of the licence of a running system.

    since: from when on the advice is what it is. licence: what the last licence that was verified said: a system goes
    on with it while the advice is `unverified`. code: why, empty when nothing is wrong.
    """

    advice: Advice
    since: datetime
    licence: Licence | None = None
    code: str = ""


def update_status(
    previous: LicenceStatus | None, result: Licence | LicenceRefusedError, now: datetime
) -> LicenceStatus:
    """What is known after looking once more. Never raises, and no time that passes makes it worse than `unverified`.

    seen: what `verify_licence` returned or raised. Revoked is only what a signed list says, and it lasts until a
    later revision, or another licence, is verified: losing the list does not bring the licence back.
    """
    last = previous.licence if previous is not None else None
    match result:
        case LicenceRevokedError():
            after = LicenceStatus(Advice.REVOKED, now, result.licence, result.code)
        case LicenceRefusedError():
            if previous is not None and previous.advice is Advice.REVOKED:
                return previous
            after = LicenceStatus(Advice.UNVERIFIED, now, last, result.code)
        case Licence():
            if previous is not None and previous.advice is Advice.REVOKED and _is_same(result, last):
                return previous
            after = LicenceStatus(Advice.RENEW_SOON if now >= result.renew_at else Advice.VALID, now, result)
        case _:
            assert_never(result)
    if previous is not None and previous.advice is after.advice:
        return LicenceStatus(after.advice, previous.since, after.licence, after.code)
    return after


def check_licence(
    previous: LicenceStatus | None,
    token: str | bytes,
    keys: LicenceKeys,
    now: datetime,
    revoked: Revocations | None = None,
) -> LicenceStatus:
    """Verify and watch, in one: for a running system, which must not stumble over its licence."""
    try:
        seen: Licence | LicenceRefusedError = verify_licence(token, keys, now, revoked)
    except LicenceRefusedError as error:
        seen = error
    return update_status(previous, seen, now)


def _is_same(seen: Licence, revoked: Licence | None) -> bool:
    return revoked is not None and seen.licence_id == revoked.licence_id and seen.revision <= revoked.revision
