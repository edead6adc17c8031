"""The list of licences that were taken back: numbered, signed, and no longer than somebody may need it."""

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
"""There is one list; a handler must know what to load before it has read anything."""
LIFE = timedelta(days=7)
"""By then whoever has a list needs a newer one."""
REFRESH = timedelta(days=1)
RETRY = timedelta(hours=1)
"""How long a list waits that could not be signed."""

ListEvent = LicenceRevocationsChanged | LicenceRevocationsSigned


class ListOrderError(DomainError):
    """A signature came before the list that it is over."""

    code = "licence_revocations_order"


@dataclass(frozen=True, slots=True)
class Signed:
    """The newest list that can be had, as text."""

    number: int
    kid: str
    issued_at: datetime
    next_update: datetime
    text: str


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The list as it is, and the newest that is signed. due: when there has to be another."""

    id: str
    number: int
    entries: tuple[ListedRevocation, ...]
    issued_at: datetime
    next_update: datetime
    due: datetime
    signed: Signed | None = None


def next_list(known: RevocationList | None, now: datetime, *added: ListedRevocation) -> list[ListEvent]:
    """The next list, with these besides."""
    issued_at = now.replace(microsecond=0)
    return [
        LicenceRevocationsChanged(
            revocations=REVOCATIONS,
            number=known.number + 1 if known is not None else 1,
            added=added,
            issued_at=issued_at,
            next_update=issued_at + LIFE,
        )
    ]


def on_licence_revoked(known: RevocationList | None, fact: LicenceRevoked, now: datetime) -> list[ListEvent]:
    """Put it on the list, unless all that was signed of it has ended."""
    until = fact.last_expiry + TOLERANCE
    listed = known.entries if known is not None else ()
    if until <= now or any(e.licence_id == fact.licence_id and e.revision >= fact.revision for e in listed):
        return []
    return next_list(known, now, ListedRevocation(licence_id=fact.licence_id, revision=fact.revision, until=until))


def on_time(known: RevocationList, now: datetime) -> list[ListEvent]:
    """A list gets old although nothing changes, so that who gets none any more can tell."""
    return next_list(known, now) if known.due <= now else []


def claims_of(known: RevocationList, kid: str) -> Revocations:
    """What is to be signed with the key `kid`."""
    return Revocations(
        alg=ALGORITHM,
        kid=kid,
        number=known.number,
        issued_at=known.issued_at,
        next_update=known.next_update,
        revoked=tuple(Revocation(licence_id=entry.licence_id, revision=entry.revision) for entry in known.entries),
    )


def signed(known: RevocationList, number: int, kid: str, signature: str) -> list[ListEvent]:
    """It is signed, unless there is a newer one to be signed by now."""
    if known.number != number:
        return []
    return [LicenceRevocationsSigned(revocations=REVOCATIONS, number=number, kid=kid, signature=signature)]


def evolve(known: RevocationList | None, event: ListEvent) -> RevocationList:
    """The list after `event`."""
    match event:
        case LicenceRevocationsChanged():
            again = {entry.licence_id for entry in event.added}
            before = known.entries if known is not None else ()
            kept = [entry for entry in before if entry.licence_id not in again and entry.until > event.issued_at]
            # When there are too many, those go first that would end by themselves first.
            entries = sorted((*kept, *event.added), key=lambda entry: (entry.until, entry.licence_id), reverse=True)
            return RevocationList(
                id=event.revocations,
                number=event.number,
                entries=tuple(entries[:MAX_REVOCATIONS]),
                issued_at=event.issued_at,
                next_update=event.next_update,
                due=event.issued_at + RETRY,
                signed=known.signed if known is not None else None,
            )
        case LicenceRevocationsSigned():
            if known is None:
                raise ListOrderError("a signature came before the first list")
            text = assemble(claims_of(known, event.kid), event.signature)
            done = Signed(known.number, event.kid, known.issued_at, known.next_update, text)
            return replace(known, signed=done, due=known.issued_at + REFRESH)
        case _:
            assert_never(event)
