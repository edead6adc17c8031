"""Seats: each activated machine uses one; a licence bounds their number."""

from datetime import datetime, timedelta

from paybill_contracts.errors import ConflictError
from paybill_contracts.licences import LicenceActivated, LicenceDeactivated

from paybill_billing.licences.domain.licences import Licence, LicenceEvent, LicenceTakenBackError, not_revoked

HEARTBEAT_INTERVAL = timedelta(days=1)
"""The minimum time between two `LicenceActivated` facts that record a sign of life of the same machine."""


class LicenceNotInForceError(ConflictError):
    """The licence is not signed yet, or has expired."""

    code = "licence_not_in_force"


class NoSeatLeftError(ConflictError):
    """All seats of the licence are in use."""

    code = "no_seat_left"


def activate(licence: Licence, machine: str, now: datetime) -> list[LicenceEvent]:
    """Activates a machine, or records a sign of life of one that is active.

    Raises LicenceTakenBackError, LicenceNotInForceError, NoSeatLeftError.
    """
    if not not_revoked(licence):
        raise LicenceTakenBackError(f"{licence.id} was revoked ({licence.revoked}); issue it again")
    if licence.claims is None or now >= licence.claims.expires_at:
        raise LicenceNotInForceError(
            f"{licence.id} is not signed yet, or has expired; see: paybill licence show {licence.id}"
        )
    activation = next((each for each in licence.activations if each.machine == machine), None)
    used = len(licence.activations)
    if activation is not None:
        if now - activation.seen_at < HEARTBEAT_INTERVAL:
            return []
    elif used >= licence.terms.seats:
        raise NoSeatLeftError(
            f"all {licence.terms.seats} seats of {licence.id} are in use; deactivate a machine (paybill licence "
            f"deactivate {licence.id}), or buy or issue more seats"
        )
    else:
        used += 1
    return [
        LicenceActivated(
            licence_id=licence.id, tenant_id=licence.tenant_id, machine=machine, seen_at=now, seats_used=used
        )
    ]


def deactivate(licence: Licence, machine: str) -> list[LicenceEvent]:
    """Releases a machine's seat."""
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
