"""Rules of a policy: nothing that destroys or transfers data is easier than a change in place."""

from collections.abc import Iterator

from paybill_contracts.money import is_currency
from paybill_contracts.policy import Handling, Policy

from paybill_definitions.diagnostics import PartDiagnostic

MAX_VALID_S = 90 * 86_400
_STRICTNESS = {Handling.UNATTENDED: 0, Handling.APPROVAL: 1, Handling.OTHER_PERSON: 2}


def errors(policy: Policy) -> Iterator[PartDiagnostic]:
    """Yields every error of a policy."""
    for name in ("deletes", "replaces", "moves_data"):
        if _STRICTNESS[getattr(policy, name)] < _STRICTNESS[policy.updates]:
            yield PartDiagnostic(
                (name,), f"{name} is {getattr(policy, name)} and updates is {policy.updates}: it cannot be easier"
            )
    limit = policy.cost_limit
    if limit is not None:
        if not is_currency(limit.monthly.currency):
            yield PartDiagnostic(("cost_limit", "currency"), f"{limit.monthly.currency} is no currency of ISO 4217")
        if limit.monthly.minor < 0:
            yield PartDiagnostic(("cost_limit", "minor"), "a limit is 0 or more")
        if limit.handling is Handling.UNATTENDED:
            yield PartDiagnostic(("cost_limit", "handling"), "a limit needs approval or other_person")
    for name in ("approval_valid", "change_within"):
        if not 0 < getattr(policy, f"{name}_s") <= MAX_VALID_S:
            yield PartDiagnostic((f"{name}_hours",), f"write 1 to {MAX_VALID_S // 3600} hours")
