"""Publishers: internal services that may report usage, each with the tenants that it may report for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import PublisherGrant, PublishersAllowed
from paybill_contracts.errors import ForbiddenError
from paybill_contracts.event import digest

PUBLISHERS = "publishers"
"""The id of the only list: handlers need a constant key, because states are loaded before they run."""


class PublisherNotAllowedError(ForbiddenError):
    """The publisher's credential does not cover this tenant."""

    code = "publisher_not_allowed"


@dataclass(frozen=True, slots=True)
class Publishers:
    """Allow-list of publishers."""

    id: str
    grants: tuple[PublisherGrant, ...]
    content_hash: str


def allow(publishers: Publishers | None, grants: Sequence[PublisherGrant]) -> list[PublishersAllowed]:
    """Replaces the allow-list."""
    ordered = tuple(sorted(grants, key=lambda grant: grant.publisher))
    content_hash = digest([grant.model_dump(mode="json") for grant in ordered])
    if publishers is not None and publishers.content_hash == content_hash:
        return []
    return [PublishersAllowed(publishers=PUBLISHERS, grants=ordered, content_hash=content_hash)]


def require_grant(publishers: Publishers | None, publisher: str, tenant_id: str) -> None:
    """Raises PublisherNotAllowedError unless `publisher` may report usage of this tenant."""
    grants = publishers.grants if publishers is not None else ()
    if not any(g.publisher == publisher and (g.all_tenants or tenant_id in g.tenants) for g in grants):
        raise PublisherNotAllowedError(f"{publisher} may not publish for {tenant_id}; check the publishers file")


def evolve(_publishers: Publishers | None, event: PublishersAllowed) -> Publishers:
    """Returns the list of `event`, which replaces the one before."""
    match event:
        case PublishersAllowed():
            return Publishers(id=event.publishers, grants=event.grants, content_hash=event.content_hash)
        case _:
            assert_never(event)
