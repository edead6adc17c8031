"""Publishers: the internal services that may report usage, and of which tenants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import PublisherGrant, PublishersAllowed
from paybill_contracts.errors import ForbiddenError
from paybill_contracts.event import digest

PUBLISHERS = "publishers"
"""There is one list of them; a handler must know what to load before it has read anything."""


class PublisherNotAllowedError(ForbiddenError):
    """The publisher's credential does not cover this tenant."""

    code = "publisher_not_allowed"


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


def require_grant(publishers: Publishers | None, publisher: str, tenant_id: str) -> None:
    """Raise PublisherNotAllowedError unless `publisher` may report usage of this tenant."""
    grants = publishers.grants if publishers is not None else ()
    if not any(g.publisher == publisher and (g.all_tenants or tenant_id in g.tenants) for g in grants):
        raise PublisherNotAllowedError(f"{publisher} may not publish for {tenant_id}; see the publishers file")


def evolve(_publishers: Publishers | None, event: PublishersAllowed) -> Publishers:
    """The fact is the whole list."""
    match event:
        case PublishersAllowed():
            return Publishers(id=event.publishers, grants=event.grants, content_hash=event.content_hash)
        case _:
            assert_never(event)
