"""Which of a tenant's subscriptions give access, and which of those is the first to take over from another."""

from collections.abc import Iterable

from paybill_contracts.billing import AccessState, Subscription

GIVES_ACCESS = frozenset({AccessState.TRIALING, AccessState.ACTIVE, AccessState.GRACE})


def giving(subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """Those that give access, in an order that never changes."""
    return sorted(
        (each for each in subscriptions if each.access in GIVES_ACCESS), key=lambda each: each.subscription_id
    )


def first(subscriptions: Iterable[Subscription]) -> str | None:
    """The id of the one that takes over; None when none gives access."""
    return next((each.subscription_id for each in giving(subscriptions)), None)
