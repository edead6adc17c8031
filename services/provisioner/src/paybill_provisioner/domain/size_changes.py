"""Changes of the entitled size of an environment that is built already, and the invariant about them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_never

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.invariants import Difference, Invariant
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_contracts.tenant import ReturnStarted

from paybill_provisioner.domain.environments import Environment, EnvironmentEvent, Status
from paybill_provisioner.domain.sizes import Size

PLANNED_AGAIN = "the environment is planned again"
WAITS_FOR = "an operator, who moves the tenant: this version of the provisioner changes no size"


def on_entitlements_set(
    environment: Environment | None, fact: EntitlementsSet, now: datetime
) -> list[EnvironmentEvent]:
    """Records that the tenant is entitled to another size than the one that is built, or no longer."""
    if environment is None or not fact.allows_access:
        return []
    entitled, planned = Size(fact.tier, fact.placement), environment.planned_size
    match environment.status:
        case Status.BUILDING | Status.READY | Status.RESTORING:
            if planned is None or entitled == environment.entitled_size:
                return []
            if entitled == planned:
                return [_settled(environment, planned, "the tenant is entitled to the built size again")]
            reason = f"the plan {fact.plan.plan} needs {entitled.text}"
            return [_pending(environment, planned, entitled, reason, now)]
        case Status.FAILED:
            return [] if environment.pending is None else [_settled(environment, entitled, PLANNED_AGAIN)]
        case Status.REGISTERED | Status.RETAINING | Status.RETAINED:
            return []
        case _:
            assert_never(environment.status)


def on_return_started(environment: Environment | None, fact: ReturnStarted, now: datetime) -> list[EnvironmentEvent]:
    """Records that a returning tenant is entitled to another size than that of its retained environment."""
    if environment is None or environment.status is not Status.RESTORING or environment.planned_size is None:
        return []
    entitled, planned = Size(fact.tier, fact.placement), environment.planned_size
    if entitled == environment.entitled_size:
        return []
    return [_pending(environment, planned, entitled, f"the plan {fact.plan} needs {entitled.text}", now)]


def on_retry(environment: Environment | None) -> list[EnvironmentEvent]:
    """Ends a pending change, because the environment is planned again, with the entitled size."""
    if environment is None or environment.pending is None or environment.entitled_size is None:
        return []
    return (
        [_settled(environment, environment.entitled_size, PLANNED_AGAIN)] if environment.status is Status.FAILED else []
    )


def on_leaving(environment: Environment | None) -> list[EnvironmentEvent]:
    """Ends a pending change, because a tenant that leaves keeps what it has."""
    if environment is None or environment.pending is None or environment.planned_size is None:
        return []
    return [_settled(environment, environment.planned_size, "the tenant leaves")]


def check_size(states: Sequence[Any], _: datetime) -> Difference | None:
    """Compares the built size and the entitled one; a pending change explains a difference."""
    environment: Environment | None = states[0]
    if environment is None or environment.planned_size is None:
        return None
    match environment.status:
        case Status.READY if environment.remaining:
            missing = ", ".join(step.resource.address for step in environment.remaining)
            return Difference(
                left=f"the environment is ready as {environment.planned_size.text}"[:500],
                right=f"{missing} is not built"[:500],
            )
        case Status.READY | Status.BUILDING:
            planned, entitled = environment.planned_size, environment.entitled_size
            if entitled is None or planned == entitled or environment.pending is not None:
                return None
            return Difference(
                left=f"{planned.text} is built", right=f"{entitled.text} is entitled, without a pending change"
            )
        case Status.REGISTERED | Status.FAILED | Status.RETAINING | Status.RETAINED | Status.RESTORING:
            return None
        case _:
            assert_never(environment.status)


SIZE = Invariant(6, "infrastructure matches the subscription, or a pending change says since when and why", check_size)


def _pending(
    environment: Environment, planned: Size, entitled: Size, reason: str, now: datetime
) -> EnvironmentChangePending:
    return EnvironmentChangePending(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        from_tier=planned.tier,
        from_preset=planned.preset,
        to_tier=entitled.tier,
        to_preset=entitled.preset,
        since=environment.pending.since if environment.pending else now,
        reason=reason,
        waits_for=WAITS_FOR,
    )


def _settled(environment: Environment, size: Size, reason: str) -> EnvironmentChangeSettled:
    return EnvironmentChangeSettled(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        tier=size.tier,
        preset=size.preset,
        reason=reason,
    )
