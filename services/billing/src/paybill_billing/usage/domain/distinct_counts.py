"""Members: the different things that were used in the open windows of a meter, exact and bounded.

What a customer pays for is not estimated, so there is no sketch. Digests are spread over 256 shards by their first
byte, so that a meter can tell about a quarter of a million things apart while no state is larger than 24 kB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import assert_never

from paybill_contracts.errors import DomainError
from paybill_contracts.metering import UsageMemberCounted

MAX_DIGESTS = 1000
"""Of one shard, in all open windows together."""
_DIGITS = 24
"""Hex digits of a member: 96 bits, so that among a million any two are the same once in 10**17 times."""


class TooManyDistinctValuesError(DomainError):
    """Exact counting has a bound, and what is beyond it is not guessed."""

    code = "too_many_members"


@dataclass(frozen=True, slots=True)
class DistinctSet:
    """A shard. `seen` maps the start of a window to its members, one after the other."""

    id: str
    seen: Mapping[datetime, str] = field(default_factory=dict)


def digest_of(meter_id: str, thing: str) -> str:
    """What is kept of a thing's name."""
    return sha256(f"{meter_id}/{thing}".encode()).hexdigest()[:_DIGITS]


def shard_id(meter_id: str, member: str) -> str:
    """The shard that a member is in."""
    return f"{meter_id}:{member[:2]}"


def contains(members: DistinctSet | None, window_start: datetime, member: str) -> bool:
    """Whether this thing was used in this window before."""
    seen = members.seen.get(window_start, "") if members is not None else ""
    at = seen.find(member)
    while at > 0 and at % _DIGITS:  # the end of one and the beginning of the next
        at = seen.find(member, at + 1)
    return at >= 0


def count_distinct(
    members: DistinctSet | None, meter_id: str, window_start: datetime, member: str, forget_before: datetime
) -> UsageMemberCounted:
    """Keep a member that the window does not hold yet. Raises TooManyMembersError."""
    known = members.seen.items() if members is not None else ()
    if sum(len(seen) for start, seen in known if start >= forget_before) >= MAX_DIGESTS * _DIGITS:
        raise TooManyDistinctValuesError(
            f"{meter_id} has seen about {MAX_DIGESTS * 256} different things in its open windows, and tells no more "
            "apart; count less fine-grained things, or choose a shorter window"
        )
    tenant_id, _, meter = meter_id.partition(":")
    return UsageMemberCounted(
        members_id=shard_id(meter_id, member),
        tenant_id=tenant_id,
        meter=meter,
        window_start=window_start,
        member=member,
        forget_before=forget_before,
    )


def evolve(members: DistinctSet | None, event: UsageMemberCounted) -> DistinctSet:
    """What is over is forgotten with the next member that comes."""
    match event:
        case UsageMemberCounted():
            known = members.seen.items() if members is not None else ()
            seen = {start: text for start, text in known if start >= event.forget_before}
            seen[event.window_start] = seen.get(event.window_start, "") + event.member
            return DistinctSet(id=event.members_id, seen=seen)
        case _:
            assert_never(event)
