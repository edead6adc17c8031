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
class Watch:
    """What is known of the licence of a running system.

    since: from when on the advice is what it is. licence: what the last licence that was verified said: a system goes
    on with it while the advice is `unverified`. code: why, empty when nothing is wrong.
    """

    advice: Advice
    since: datetime
    licence: Licence | None = None
    code: str = ""


def watch(before: Watch | None, seen: Licence | LicenceRefusedError, now: datetime) -> Watch:
    """What is known after looking once more. Never raises, and no time that passes makes it worse than `unverified`.

    seen: what `verify_licence` returned or raised. Revoked is only what a signed list says, and it lasts until a
    later revision, or another licence, is verified: losing the list does not bring the licence back.
    """
    last = before.licence if before is not None else None
    match seen:
        case LicenceRevokedError():
            after = Watch(Advice.REVOKED, now, seen.licence, seen.code)
        case LicenceRefusedError():
            if before is not None and before.advice is Advice.REVOKED:
                return before
            after = Watch(Advice.UNVERIFIED, now, last, seen.code)
        case Licence():
            if before is not None and before.advice is Advice.REVOKED and _is_same(seen, last):
                return before
            after = Watch(Advice.RENEW_SOON if now >= seen.renew_at else Advice.VALID, now, seen)
        case _:
            assert_never(seen)
    if before is not None and before.advice is after.advice:
        return Watch(after.advice, before.since, after.licence, after.code)
    return after


def look_again(
    before: Watch | None, token: str | bytes, keys: LicenceKeys, now: datetime, revoked: Revocations | None = None
) -> Watch:
    """Verify and watch, in one: for a running system, which must not stumble over its licence."""
    try:
        seen: Licence | LicenceRefusedError = verify_licence(token, keys, now, revoked)
    except LicenceRefusedError as error:
        seen = error
    return watch(before, seen, now)


def _is_same(seen: Licence, revoked: Licence | None) -> bool:
    return revoked is not None and seen.licence_id == revoked.licence_id and seen.revision <= revoked.revision
