"""Exact, bounded counts of the distinct items used in a meter's open windows.

Billed values are not estimated, so no probabilistic sketch is used. Item digests are spread over 256 shards by their
first byte: a meter can distinguish about 250,000 items while no state exceeds 24 kB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Annotated, assert_never

from paybill_contracts.errors import DomainError
from paybill_contracts.metering import UsageMemberCounted
from pydantic import Field

MAX_ITEMS = 1000
"""Maximum for one shard, all open windows together."""
_DIGITS = 24
"""Hex digits of a digest: 96 bits; among a million items a collision has a probability of about 10**-17."""


class TooManyDistinctItemsError(DomainError):
    """A shard is full; exact counting is bounded, and the excess is not estimated."""

    code = "too_many_members"


@dataclass(frozen=True, slots=True)
class DistinctSet:
    """Shard of a meter's distinct items. digests: the concatenated ones of each window, by its start."""

    id: str
    digests: Annotated[Mapping[datetime, str], Field(alias="seen")] = field(default_factory=dict)


def digest_of(meter_id: str, item: str) -> str:
    """Returns the stored digest of an item's name."""
    return sha256(f"{meter_id}/{item}".encode()).hexdigest()[:_DIGITS]


def shard_id(meter_id: str, digest: str) -> str:
    """Returns the id of the shard that holds a digest."""
    return f"{meter_id}:{digest[:2]}"


def contains(shard: DistinctSet | None, window_start: datetime, digest: str) -> bool:
    """Returns True when the item was used in this window before."""
    digests = shard.digests.get(window_start, "") if shard is not None else ""
    at = digests.find(digest)
    while at > 0 and at % _DIGITS:  # a match across two adjacent digests
        at = digests.find(digest, at + 1)
    return at >= 0


def count_distinct(
    shard: DistinctSet | None, meter_id: str, window_start: datetime, digest: str, forget_before: datetime
) -> UsageMemberCounted:
    """Adds an item that the window does not contain yet. Raises TooManyDistinctItemsError."""
    stored = shard.digests.items() if shard is not None else ()
    if sum(len(digests) for start, digests in stored if start >= forget_before) >= MAX_ITEMS * _DIGITS:
        raise TooManyDistinctItemsError(
            f"{meter_id} has counted about {MAX_ITEMS * 256} distinct items in its open windows, which is its limit; "
            "count coarser items, or choose a shorter window"
        )
    tenant_id, _, meter = meter_id.partition(":")
    return UsageMemberCounted(
        members_id=shard_id(meter_id, digest),
        tenant_id=tenant_id,
        meter=meter,
        window_start=window_start,
        member=digest,
        forget_before=forget_before,
    )


def evolve(shard: DistinctSet | None, event: UsageMemberCounted) -> DistinctSet:
    """Returns the shard after `event`; digests of closed windows are dropped."""
    match event:
        case UsageMemberCounted():
            stored = shard.digests.items() if shard is not None else ()
            digests = {start: text for start, text in stored if start >= event.forget_before}
            digests[event.window_start] = digests.get(event.window_start, "") + event.member
            return DistinctSet(id=event.members_id, digests=digests)
        case _:
            assert_never(event)
