"""Parts of an environment: a built resource, a refusal, a failure, a move, a quoted change and its purge."""

from dataclasses import dataclass

from paybill_contracts.environment_plans import Resource
from paybill_contracts.money import Money
from paybill_contracts.purges import Certificate
from paybill_contracts.values import Digest, Timestamp

from paybill_provisioner.domain.sizes import Size


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason why the desired state cannot be planned, and what ends that."""

    code: str
    reason: str
    next_step: str


@dataclass(frozen=True, slots=True)
class BuiltResource:
    """A built resource, as it was defined, with its driver's outputs."""

    resource: Resource
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """The resource that could not be built, and the reason."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """A move that a person requested. entitled: the size that it leaves, and that the tenant is entitled to."""

    entitled: Size
    requester: str
    since: Timestamp


@dataclass(frozen=True, slots=True)
class QuotedChange:
    """A change of the subscription that billing quoted. entitlements_hash: before it; size: after it."""

    change_id: str
    due_now: Money
    size: Size
    entitlements_hash: str | None


@dataclass(frozen=True, slots=True)
class Purge:
    """Deletion of everything that exists for the tenant.

    plan_hash: of its plan that is applied, None before; removed: resources so far; held_by: cases of legal holds that
    stop it; is_deleted: every step is done, and the absence is to be verified; certificate: None until it was.
    """

    since: Timestamp
    plan_hash: Digest | None = None
    removed: tuple[Resource, ...] = ()
    held_by: tuple[str, ...] = ()
    is_deleted: bool = False
    certificate: Certificate | None = None
