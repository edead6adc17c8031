"""Violated invariants of one service, as aggregates."""

from paybill_contracts import invariants
from paybill_contracts.invariants import Violation, violation_id

from paybill_runtime.decisions.aggregates import Key, StateRow, Stored


class Violations(Stored[Violation]):
    """The violations that `service` found."""

    def __init__(self, service: str, row: type[StateRow]) -> None:
        super().__init__("violation", row, Violation, invariants.evolve)
        self.service = service

    def key_of(self, number: int, tenant_id: str) -> Key:
        """Returns the key of the violation of an invariant by a tenant."""
        return self.key(violation_id(self.service, number, tenant_id))
