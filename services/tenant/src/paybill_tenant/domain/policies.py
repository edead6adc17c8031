"""Lifecycle policy: the times of offboarding and of sign-ups, as the settings define them."""

from dataclasses import dataclass

from paybill_contracts.tenant import LifecyclePolicySet
from paybill_contracts.values import Count, Key, SecretRef

POLICY = "lifecycle"
"""The id of the only policy: handlers need a constant key, because states are loaded before they run."""


class PolicyMissingError(Exception):
    """Raised before the first start has recorded the policy; the event goes to the retry queue."""


@dataclass(frozen=True, slots=True)
class LifecyclePolicy:
    """Times of the lifecycle.

    offboarding_delay_s: from the end of the last subscription to offboarding. signup_valid_s: from a sign-up without a
    subscription until it counts as abandoned. contact_key: the secret with the key of contact digests.
    """

    id: Key
    offboarding_delay_s: Count
    signup_valid_s: Count
    contact_key: SecretRef | None = None


def existing(policy: LifecyclePolicy | None) -> LifecyclePolicy:
    """Returns the policy. Raises PolicyMissingError for None."""
    if policy is None:
        raise PolicyMissingError("the lifecycle policy is not recorded yet")
    return policy


def configure(
    policy: LifecyclePolicy | None, *, offboarding_delay_s: int, signup_valid_s: int, contact_key: str | None = None
) -> list[LifecyclePolicySet]:
    """Sets the policy. It is an event, so that a replay gives the same decisions."""
    event = LifecyclePolicySet(
        policy=POLICY,
        offboarding_delay_s=offboarding_delay_s,
        signup_valid_s=signup_valid_s,
        contact_key=contact_key,
    )
    return [] if policy == evolve(policy, event) else [event]


def evolve(_: LifecyclePolicy | None, event: LifecyclePolicySet) -> LifecyclePolicy:
    """Returns the policy of `event`, which replaces the one before."""
    return LifecyclePolicy(
        id=event.policy,
        offboarding_delay_s=event.offboarding_delay_s,
        signup_valid_s=event.signup_valid_s,
        contact_key=event.contact_key,
    )
