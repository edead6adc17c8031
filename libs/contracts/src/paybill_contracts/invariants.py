"""Invariants: statements about a tenant that must hold, and the facts about one that did not hold for too long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, assert_never

from pydantic import Field, StringConstraints

from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import Event
from paybill_contracts.operations import service_event
from paybill_contracts.values import TenantId, Text, Timestamp

ViolationId = Annotated[
    str,
    StringConstraints(pattern=r"^vio_[0-9a-f]{32}$"),
    Field(examples=["vio_0123456789abcdef0123456789abcdef"]),
]
"""Digest of service, number and tenant: a tenant has one violation of each invariant."""
Number = Annotated[int, Field(ge=1, le=99)]
"""The number of an invariant, as docs/invariants.md lists them."""


class InvariantViolated(Event):
    """The two sides of an invariant have differed for too long. since: the begin of the difference."""

    violation_id: ViolationId
    tenant_id: TenantId
    number: Number
    statement: Text
    left: Text
    right: Text
    since: Timestamp


class InvariantRestored(Event):
    """The two sides of the invariant agree again."""

    violation_id: ViolationId
    tenant_id: TenantId
    number: Number
    since: Timestamp
    restored_at: Timestamp


class TenantInvariantViolated(
    InvariantViolated, type="tenant.invariant_violated", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the tenant service does not hold."""


class TenantInvariantRestored(
    InvariantRestored, type="tenant.invariant_restored", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the tenant service holds again."""


class BillingInvariantViolated(
    InvariantViolated, type="billing.invariant_violated", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the billing service does not hold."""


class BillingInvariantRestored(
    InvariantRestored, type="billing.invariant_restored", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the billing service holds again."""


class ProvisionerInvariantViolated(
    InvariantViolated, type="provisioner.invariant_violated", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the provisioner does not hold."""


class ProvisionerInvariantRestored(
    InvariantRestored, type="provisioner.invariant_restored", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the provisioner holds again."""


class AgentGatewayInvariantViolated(
    InvariantViolated, type="agent-gateway.invariant_violated", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the agent gateway does not hold."""


class AgentGatewayInvariantRestored(
    InvariantRestored, type="agent-gateway.invariant_restored", version=1, aggregate="violation", key="violation_id"
):
    """An invariant of the agent gateway holds again."""


ViolationEvent = InvariantViolated | InvariantRestored


@dataclass(frozen=True, slots=True)
class Difference:
    """The two sides of an invariant that does not hold, as text for people."""

    left: Text
    right: Text


Check = Callable[[Sequence[Any], datetime], Difference | None]
"""Compares both sides. It gets the states of a tenant in the order in which the service declares them, None for one
that does not exist, and the time."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A statement about one tenant that its owner can check with the facts that it handles."""

    number: Number
    statement: Text
    check: Check


class ViolationStatus(StrEnum):
    """Status of a violation: open while the invariant does not hold."""

    OPEN = "open"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold for a tenant, or did not. restored_at: None while it is open."""

    id: ViolationId
    tenant_id: TenantId
    number: Number
    statement: Text
    left: Text
    right: Text
    since: Timestamp
    status: ViolationStatus = ViolationStatus.OPEN
    restored_at: Timestamp | None = None


class ViolationUnknownError(NotFoundError):
    """No violation of this invariant was recorded."""

    code = "violation_unknown"


def violation_id(service: str, number: int, tenant_id: str) -> ViolationId:
    """Returns the id of the violation of an invariant by a tenant."""
    return f"vio_{sha256(f'{service}/{number}/{tenant_id}'.encode()).hexdigest()[:32]}"


def judge(
    service: str,
    violation: Violation | None,
    invariant: Invariant,
    tenant_id: str,
    difference: Difference | None,
    since: datetime,
    now: datetime,
    tolerance: timedelta,
) -> list[Event]:
    """Records a difference that exists for longer than `tolerance`, once, and its end.

    since: the time from which on each check found the difference.
    """
    is_open = violation is not None and violation.status is ViolationStatus.OPEN
    id_ = violation_id(service, invariant.number, tenant_id)
    if difference is None and violation is not None and is_open:
        return [
            service_event(service, InvariantRestored)(
                violation_id=id_,
                tenant_id=tenant_id,
                number=invariant.number,
                since=violation.since,
                restored_at=now,
            )
        ]
    if difference is None or is_open or now - since < tolerance:
        return []
    return [
        service_event(service, InvariantViolated)(
            violation_id=id_,
            tenant_id=tenant_id,
            number=invariant.number,
            statement=invariant.statement,
            left=difference.left,
            right=difference.right,
            since=since,
        )
    ]


def evolve(violation: Violation | None, event: ViolationEvent) -> Violation:
    """Returns the violation after `event`; only `InvariantViolated` may come first."""
    match event:
        case InvariantViolated():
            return Violation(
                id=event.violation_id,
                tenant_id=event.tenant_id,
                number=event.number,
                statement=event.statement,
                left=event.left,
                right=event.right,
                since=event.since,
            )
        case InvariantRestored():
            if violation is None:
                raise ViolationUnknownError(f"{event.violation_id} was restored before it was violated")
            return replace(violation, status=ViolationStatus.RESTORED, restored_at=event.restored_at)
        case _:
            assert_never(event)
