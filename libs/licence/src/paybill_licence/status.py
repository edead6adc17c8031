"""Status of a licence that a running system verifies repeatedly. It is advice: it never stops the system."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import assert_never

from paybill_licence.claims import TOLERANCE, Licence, Revocations
from paybill_licence.errors import InvalidTimeError, LicenceRefusedError, LicenceRevokedError
from paybill_licence.keys import LicenceKeys
from paybill_licence.verification import require_time, verify_licence


class Advice(StrEnum):
    """Result of repeated verification. The application decides how it reacts."""

    VALID = "valid"
    RENEW_SOON = "renew_soon"
    UNVERIFIED = "unverified"
    REVOKED = "revoked"
    CLOCK_SET_BACK = "clock_set_back"


@dataclass(frozen=True, slots=True)
class LicenceStatus:
    """Advice about the licence of a running system.

    since: start of the current advice. licence: the last verified claims; the system continues with them while the
    advice is `unverified`. code: of the refusal, empty when there is none. latest: the latest time of a verification; a
    clock that was set back cannot make an expired licence valid again.
    """

    advice: Advice
    since: datetime
    licence: Licence | None = None
    code: str = ""
    latest: datetime | None = field(default=None, compare=False)


_NO_TIME = datetime.fromtimestamp(0, UTC)


def update_status(
    previous: LicenceStatus | None, result: Licence | LicenceRefusedError, now: datetime
) -> LicenceStatus:
    """Returns the status after one more verification. Never raises; time alone never gives worse than `unverified`.

    result: returned or raised by `verify_licence`. Only a signed list revokes, and a revocation lasts until a later
    revision or another licence is verified: losing the list does not restore the licence. A time before that of an
    earlier verification gives `clock_set_back`, which ends when the clock has caught up.
    """
    known = previous.latest if previous is not None else None
    latest = now if known is None else max(known, now)
    if known is not None and previous is not None and now < known - TOLERANCE:
        if previous.advice is Advice.REVOKED or isinstance(result, LicenceRevokedError):
            return replace(_updated(previous, result, now), latest=latest)
        since = previous.since if previous.advice is Advice.CLOCK_SET_BACK else now
        return LicenceStatus(Advice.CLOCK_SET_BACK, since, previous.licence, "licence_clock_set_back", latest)
    return replace(_updated(previous, result, now), latest=latest)


def _updated(previous: LicenceStatus | None, result: Licence | LicenceRefusedError, now: datetime) -> LicenceStatus:
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
    """Verifies `token` and returns the updated status. Never raises: a time without a zone gives `unverified`."""
    try:
        now = require_time(now)
    except InvalidTimeError as error:
        since = previous.since if previous is not None and previous.advice is Advice.UNVERIFIED else None
        if previous is None:
            return LicenceStatus(Advice.UNVERIFIED, _NO_TIME, code=error.code)
        if previous.advice is Advice.REVOKED:
            return previous
        return replace(
            previous, advice=Advice.UNVERIFIED, since=since or previous.latest or previous.since, code=error.code
        )
    try:
        result: Licence | LicenceRefusedError = verify_licence(token, keys, now, revoked)
    except LicenceRefusedError as error:
        result = error
    return update_status(previous, result, now)


def _is_covered(licence: Licence, revoked: Licence | None) -> bool:
    return revoked is not None and licence.licence_id == revoked.licence_id and licence.revision <= revoked.revision
