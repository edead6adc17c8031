"""Rules of a policy: nothing that destroys or transfers data is easier than a change in place."""

from collections.abc import Iterator
from dataclasses import dataclass

from paybill_contracts.money import is_currency
from paybill_contracts.policy import Handling, Policy

MAX_VALID_S = 90 * 86_400
_STRICTNESS = {Handling.UNATTENDED: 0, Handling.APPROVAL: 1, Handling.OTHER_PERSON: 2}


@dataclass(frozen=True, slots=True)
class PolicyDiagnostic:
    """An error, with the path of the part in the policy, such as ("cost_limit", "currency")."""

    path: tuple[int | str, ...]
    reason: str


def errors(policy: Policy) -> Iterator[PolicyDiagnostic]:
    """Yields every error of a policy."""
    for name in ("deletes", "replaces", "moves_data"):
        if _STRICTNESS[getattr(policy, name)] < _STRICTNESS[policy.updates]:
            yield PolicyDiagnostic(
                (name,), f"{name} is {getattr(policy, name)} and updates is {policy.updates}: it cannot be easier"
            )
    limit = policy.cost_limit
    if limit is not None:
        if not is_currency(limit.monthly.currency):
            yield PolicyDiagnostic(("cost_limit", "currency"), f"{limit.monthly.currency} is no currency of ISO 4217")
        if limit.monthly.minor < 0:
            yield PolicyDiagnostic(("cost_limit", "minor"), "a limit is 0 or more")
        if limit.handling is Handling.UNATTENDED:
            yield PolicyDiagnostic(("cost_limit", "handling"), "a limit needs approval or other_person")
    for name in ("approval_valid", "change_within"):
        if not 0 < getattr(policy, f"{name}_s") <= MAX_VALID_S:
            yield PolicyDiagnostic((f"{name}_hours",), f"write 1 to {MAX_VALID_S // 3600} hours")
