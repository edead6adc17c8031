"""Which of a tenant's subscriptions give access, and which of those is the first to take over from another."""

from collections.abc import Iterable

from paybill_contracts.billing import AccessState, Subscription

ENTITLING = frozenset({AccessState.TRIALING, AccessState.ACTIVE, AccessState.GRACE})


def entitling_subscriptions(subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """Those that give access, in an order that never changes."""
    return sorted((each for each in subscriptions if each.access in ENTITLING), key=lambda each: each.subscription_id)


def fallback_subscription(subscriptions: Iterable[Subscription]) -> str | None:
    """The id of the one that takes over; None when none gives access."""
    return next((each.subscription_id for each in entitling_subscriptions(subscriptions)), None)
