"""What time alone does to a subscription: access ends by our own clock, even while its provider is silent."""

from datetime import datetime, timedelta

from paybill_contracts.billing import AccessState, Subscription

SYNC_DELAY = timedelta(minutes=15)
"""How long after something ended we look by ourselves: the provider's message has come by then, or was lost."""
PROVIDER_TIMEOUT = timedelta(days=1)
"""How long after that we give access without a word from the provider, because it is away or cannot be reached."""

_RUNNING = frozenset({AccessState.TRIALING, AccessState.ACTIVE})
_SHUT = frozenset({AccessState.GRACE, AccessState.SUSPENDED})
_GOOD = frozenset({"active", "trialing"})


def ends_at(subscription: Subscription) -> datetime | None:
    """When what was agreed is over, unless the provider says otherwise; None when nothing is."""
    on_trial = subscription.provider_status == "trialing"
    ends = subscription.trial_end if on_trial and subscription.trial_end is not None else subscription.period_end
    return min((at for at in (ends, subscription.cancel_at) if at is not None), default=None)


def is_past_end(subscription: Subscription, now: datetime) -> bool:
    """Whether a look at this moment comes so late that what it shows is not about to change."""
    ends = ends_at(subscription) if subscription.access in _RUNNING else None
    return ends is not None and now >= ends + SYNC_DELAY


def next_transition(subscription: Subscription) -> datetime | None:
    """When time alone changes what it gives."""
    if subscription.access is AccessState.GRACE:
        return subscription.grace_until
    # Without grace_s it was told before time had a say; the next look tells it again.
    if subscription.access not in _RUNNING or subscription.past_end or subscription.grace_s is None:
        return None
    ends = ends_at(subscription)
    return ends + PROVIDER_TIMEOUT if ends is not None else None


def next_sync(subscription: Subscription) -> datetime | None:
    """When we look at it although nothing was heard."""
    if subscription.access in _SHUT and subscription.provider_status in _GOOD:
        return ends_at(subscription)
    if subscription.access is AccessState.GRACE:
        # Who has paid must not be shut out because the message about it was lost.
        return subscription.grace_until - SYNC_DELAY if subscription.grace_until is not None else None
    ends = ends_at(subscription) if subscription.access in _RUNNING and not subscription.past_end else None
    return ends + SYNC_DELAY if ends is not None else None


def expired(subscription: Subscription, now: datetime) -> Subscription | None:
    """The subscription after what was due by now; None when nothing was."""
    at = next_transition(subscription)
    if at is None or now < at:
        return None
    if subscription.access is AccessState.GRACE or subscription.grace_s is None:
        return subscription.model_copy(update={"access": AccessState.SUSPENDED})
    ends = at - PROVIDER_TIMEOUT
    if subscription.cancel_at is not None and subscription.cancel_at <= ends:
        # It is not ended: that starts the time after which data goes, and is the provider's to say.
        return subscription.model_copy(update={"access": AccessState.SUSPENDED})
    until = ends + timedelta(seconds=subscription.grace_s)
    if subscription.paid_until is not None:
        until = max(until, subscription.paid_until)
    access = AccessState.GRACE if now < until else AccessState.SUSPENDED
    return subscription.model_copy(update={"access": access, "grace_until": until})
