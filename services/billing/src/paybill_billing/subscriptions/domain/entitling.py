"""Entitling subscriptions of a tenant: those that give access, and the fallback when one of them ends."""

from collections.abc import Iterable

from paybill_contracts.billing import AccessState, Subscription

ENTITLING = frozenset({AccessState.TRIALING, AccessState.ACTIVE, AccessState.GRACE})


def entitling_subscriptions(subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """Returns the subscriptions that give access, in a stable order."""
    return sorted((each for each in subscriptions if each.access in ENTITLING), key=lambda each: each.subscription_id)


def fallback_subscription(subscriptions: Iterable[Subscription]) -> str | None:
    """Returns the id of the subscription that takes over; None when none gives access."""
    return next((each.subscription_id for each in entitling_subscriptions(subscriptions)), None)
