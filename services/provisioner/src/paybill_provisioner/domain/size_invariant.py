"""Invariant 6: the infrastructure matches the subscription, or a pending change or a refusal says why not."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_never

from paybill_contracts.invariants import Difference, Invariant

from paybill_provisioner.domain.environment_state import Environment, Status


def check_size(states: Sequence[Any], _: datetime) -> Difference | None:
    """Compares the built size and the desired one; a pending change, a refusal or a failure explains a difference."""
    environment: Environment | None = states[0]
    if environment is None or environment.built_size is None or environment.desired is None:
        return None
    match environment.status:
        case Status.READY if environment.remaining and environment.failure is None:
            missing = ", ".join(step.address for step in environment.remaining)
            return Difference(
                left=f"the environment is ready as {environment.built_size.text}"[:500],
                right=f"{missing} is not built"[:500],
            )
        case Status.READY:
            built, desired = environment.built_size, environment.desired
            explained = environment.pending or environment.refusal or environment.failure
            if built == desired.size or explained is not None or not desired.allows_access:
                return None
            return Difference(
                left=f"{built.text} is built", right=f"{desired.size.text} is entitled, without a pending change"
            )
        case (
            Status.REGISTERED
            | Status.BUILDING
            | Status.FAILED
            | Status.COMPENSATING
            | Status.CHANGING
            | Status.RETAINING
            | Status.RETAINED
            | Status.RESTORING
            | Status.PURGING
            | Status.PURGED
        ):
            return None
        case _:
            assert_never(environment.status)


SIZE = Invariant(6, "infrastructure matches the subscription, or a pending change says since when and why", check_size)
