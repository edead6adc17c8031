"""Parts of an environment: a built resource, a refusal and a failure."""

from dataclasses import dataclass

from paybill_contracts.environment_plans import Resource


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
