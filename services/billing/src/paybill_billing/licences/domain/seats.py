"""Seats: the machines that use a licence, as many at once as it has seats."""

from datetime import datetime, timedelta

from paybill_contracts.errors import ConflictError
from paybill_contracts.licences import LicenceActivated, LicenceDeactivated

from paybill_billing.licences.domain.licences import Licence, LicenceEvent, LicenceTakenBackError, not_revoked

HEARTBEAT_INTERVAL = timedelta(days=1)
"""A machine that is seen again is a fact once in this time."""


class LicenceNotInForceError(ConflictError):
    """The licence is not signed yet, or has ended."""

    code = "licence_not_in_force"


class NoSeatLeftError(ConflictError):
    """As many machines as the licence has seats are activated."""

    code = "no_seat_left"


def activate(licence: Licence, machine: str, now: datetime) -> list[LicenceEvent]:
    """Let a machine use a seat; one that does already was seen again.

    Raises LicenceTakenBackError, LicenceNotInForceError, NoSeatLeftError.
    """
    if not not_revoked(licence):
        raise LicenceTakenBackError(f"{licence.id} was revoked ({licence.revoked}); issue it again")
    if licence.claims is None or now >= licence.claims.expires_at:
        raise LicenceNotInForceError(f"{licence.id} is not signed, or has ended; look at it: paybill licence show")
    known = next((each for each in licence.activations if each.machine == machine), None)
    used = len(licence.activations)
    if known is not None:
        if now - known.seen_at < HEARTBEAT_INTERVAL:
            return []
    elif used >= licence.terms.seats:
        raise NoSeatLeftError(
            f"all {licence.terms.seats} seats of {licence.id} are taken; deactivate a machine that is not used any "
            "more (paybill licence deactivate), or have more seats bought or issued"
        )
    else:
        used += 1
    return [
        LicenceActivated(
            licence_id=licence.id, tenant_id=licence.tenant_id, machine=machine, seen_at=now, seats_used=used
        )
    ]


def deactivate(licence: Licence, machine: str) -> list[LicenceEvent]:
    """Give a machine's seat back."""
    if all(each.machine != machine for each in licence.activations):
        return []
    return [
        LicenceDeactivated(
            licence_id=licence.id,
            tenant_id=licence.tenant_id,
            machine=machine,
            seats_used=len(licence.activations) - 1,
        )
    ]
