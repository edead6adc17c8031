"""Publishers: the internal services that may report usage, and of which tenants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import PublisherGrant, PublishersAllowed
from paybill_contracts.event import digest

PUBLISHERS = "publishers"
"""There is one list of them; a handler must know what to load before it has read anything."""


@dataclass(frozen=True, slots=True)
class Publishers:
    """Who may report usage. Whoever is not named may not."""

    id: str
    grants: tuple[PublisherGrant, ...]
    content_hash: str


def allow(publishers: Publishers | None, grants: Sequence[PublisherGrant]) -> list[PublishersAllowed]:
    """Let these report usage from now on, and nobody else."""
    ordered = tuple(sorted(grants, key=lambda grant: grant.publisher))
    content_hash = digest([grant.model_dump(mode="json") for grant in ordered])
    if publishers is not None and publishers.content_hash == content_hash:
        return []
    return [PublishersAllowed(publishers=PUBLISHERS, grants=ordered, content_hash=content_hash)]


def may_report(publishers: Publishers | None, publisher: str, tenant_id: str) -> bool:
    """Whether `publisher` may report usage of this tenant."""
    grants = publishers.grants if publishers is not None else ()
    return any(grant.publisher == publisher and (grant.all_tenants or tenant_id in grant.tenants) for grant in grants)


def evolve(_publishers: Publishers | None, event: PublishersAllowed) -> Publishers:
    """The fact is the whole list."""
    match event:
        case PublishersAllowed():
            return Publishers(id=event.publishers, grants=event.grants, content_hash=event.content_hash)
        case _:
            assert_never(event)
