"""The revocation list: numbered and signed; an entry stays until the last licence that it revokes has expired."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.errors import DomainError
from paybill_contracts.licences import (
    LicenceRevocationsChanged,
    LicenceRevocationsSigned,
    LicenceRevoked,
    ListedRevocation,
)
from paybill_licence import ALGORITHM, MAX_REVOCATIONS, TOLERANCE, Revocation, Revocations, assemble

REVOCATIONS = "licences"
"""The id of the only list: handlers need a constant key, because states are loaded before they run."""
LIFE = timedelta(days=7)
"""The time after which a list is stale, and verifiers need a newer one."""
REFRESH = timedelta(days=1)
RETRY = timedelta(hours=1)
"""The delay before a list that could not be signed is issued again."""

ListEvent = LicenceRevocationsChanged | LicenceRevocationsSigned


class ListOrderError(DomainError):
    """A signature precedes the list that it covers."""

    code = "licence_revocations_order"


@dataclass(frozen=True, slots=True)
class Signed:
    """The newest signed list, as published text."""

    number: int
    kid: str
    issued_at: datetime
    next_update: datetime
    text: str


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The current list, and the newest signed one. due: when the next list is issued."""

    id: str
    number: int
    entries: tuple[ListedRevocation, ...]
    issued_at: datetime
    next_update: datetime
    due: datetime
    signed: Signed | None = None


def next_list(current: RevocationList | None, now: datetime, *added: ListedRevocation) -> list[ListEvent]:
    """Issues the next list, with the entries `added`."""
    issued_at = now.replace(microsecond=0)
    return [
        LicenceRevocationsChanged(
            revocations=REVOCATIONS,
            number=current.number + 1 if current is not None else 1,
            added=added,
            issued_at=issued_at,
            next_update=issued_at + LIFE,
        )
    ]


def on_licence_revoked(current: RevocationList | None, fact: LicenceRevoked, now: datetime) -> list[ListEvent]:
    """Adds the licence to the list, unless all its signed revisions have expired."""
    until = fact.last_expiry + TOLERANCE
    listed = current.entries if current is not None else ()
    if until <= now or any(e.licence_id == fact.licence_id and e.revision >= fact.revision for e in listed):
        return []
    return next_list(current, now, ListedRevocation(licence_id=fact.licence_id, revision=fact.revision, until=until))


def on_time(current: RevocationList, now: datetime) -> list[ListEvent]:
    """Issues a list at regular intervals, so that a verifier detects when it is cut off from new ones."""
    return next_list(current, now) if current.due <= now else []


def claims_of(current: RevocationList, kid: str) -> Revocations:
    """Returns the content to sign with the key `kid`."""
    return Revocations(
        alg=ALGORITHM,
        kid=kid,
        number=current.number,
        issued_at=current.issued_at,
        next_update=current.next_update,
        revoked=tuple(Revocation(licence_id=entry.licence_id, revision=entry.revision) for entry in current.entries),
    )


def signed(current: RevocationList, number: int, kid: str, signature: str) -> list[ListEvent]:
    """Records the signature, unless a newer list has replaced this one."""
    if current.number != number:
        return []
    return [LicenceRevocationsSigned(revocations=REVOCATIONS, number=number, kid=kid, signature=signature)]


def evolve(current: RevocationList | None, event: ListEvent) -> RevocationList:
    """Returns the list after `event`."""
    match event:
        case LicenceRevocationsChanged():
            added = {entry.licence_id for entry in event.added}
            before = current.entries if current is not None else ()
            kept = [entry for entry in before if entry.licence_id not in added and entry.until > event.issued_at]
            # A full list drops the entries that would end first.
            entries = sorted((*kept, *event.added), key=lambda entry: (entry.until, entry.licence_id), reverse=True)
            return RevocationList(
                id=event.revocations,
                number=event.number,
                entries=tuple(entries[:MAX_REVOCATIONS]),
                issued_at=event.issued_at,
                next_update=event.next_update,
                due=event.issued_at + RETRY,
                signed=current.signed if current is not None else None,
            )
        case LicenceRevocationsSigned():
            if current is None:
                raise ListOrderError("a signature precedes the first list")
            text = assemble(claims_of(current, event.kid), event.signature)
            signed_list = Signed(current.number, event.kid, current.issued_at, current.next_update, text)
            return replace(current, signed=signed_list, due=current.issued_at + REFRESH)
        case _:
            assert_never(event)
