"""Expiry of access by our own clock, also while the provider sends no messages."""

from datetime import datetime, timedelta

from paybill_contracts.billing import AccessState, Subscription

SYNC_DELAY = timedelta(minutes=15)
"""From the end of a period to our own sync: by then the provider's message has arrived, or it was lost."""
PROVIDER_TIMEOUT = timedelta(days=1)
"""From the end of a period to our own transition, while the provider is unavailable or sends no messages."""

_RUNNING = frozenset({AccessState.TRIALING, AccessState.ACTIVE})
_LIMITED = frozenset({AccessState.GRACE, AccessState.SUSPENDED})
_PAID = frozenset({"active", "trialing"})


def ends_at(subscription: Subscription) -> datetime | None:
    """Returns the end of the trial or period, or the cancellation if it is earlier; None when neither is known."""
    on_trial = subscription.provider_status == "trialing"
    ends = subscription.trial_end if on_trial and subscription.trial_end is not None else subscription.period_end
    return min((at for at in (ends, subscription.cancel_at) if at is not None), default=None)


def is_past_end(subscription: Subscription, now: datetime) -> bool:
    """Returns True when a sync at `now` is so late after the end that its result is final."""
    ends = ends_at(subscription) if subscription.access in _RUNNING else None
    return ends is not None and now >= ends + SYNC_DELAY


def next_transition(subscription: Subscription) -> datetime | None:
    """Returns the time at which access changes without a message from the provider; None when it does not."""
    if subscription.access is AccessState.GRACE:
        return subscription.grace_until
    # Events without grace_s are older than expiry; the next sync emits an event that has it.
    if subscription.access not in _RUNNING or subscription.past_end or subscription.grace_s is None:
        return None
    ends = ends_at(subscription)
    return ends + PROVIDER_TIMEOUT if ends is not None else None


def next_sync(subscription: Subscription) -> datetime | None:
    """Returns the time of a sync without a message from the provider; None when there is none."""
    if subscription.access in _LIMITED and subscription.provider_status in _PAID:
        return ends_at(subscription)
    if subscription.access is AccessState.GRACE:
        # A customer who has paid must not lose access because the message about the payment was lost.
        return subscription.grace_until - SYNC_DELAY if subscription.grace_until is not None else None
    ends = ends_at(subscription) if subscription.access in _RUNNING and not subscription.past_end else None
    return ends + SYNC_DELAY if ends is not None else None


def expire(subscription: Subscription, now: datetime) -> Subscription | None:
    """Returns the subscription after the transition that is due by `now`; None when none is due."""
    at = next_transition(subscription)
    if at is None or now < at:
        return None
    if subscription.access is AccessState.GRACE or subscription.grace_s is None:
        return subscription.model_copy(update={"access": AccessState.SUSPENDED})
    ends = at - PROVIDER_TIMEOUT
    if subscription.cancel_at is not None and subscription.cancel_at <= ends:
        # It is suspended and not ended: the end starts the retention period, and only the provider decides it.
        return subscription.model_copy(update={"access": AccessState.SUSPENDED})
    until = ends + timedelta(seconds=subscription.grace_s)
    if subscription.paid_until is not None:
        until = max(until, subscription.paid_until)
    access = AccessState.GRACE if now < until else AccessState.SUSPENDED
    return subscription.model_copy(update={"access": access, "grace_until": until})
