"""What a replay finds: how much was read, and each place where the log, the outbox and the tables do not agree."""

from dataclasses import dataclass, field
from typing import Any

MAX_FAULTS_SHOWN = 100
MAX_FAULTS_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where the log and the tables, or the log and the outbox, do not agree."""

    kind: str
    where: str
    message: str


@dataclass(slots=True)
class Report:
    """What a replay found. `equal` means that every table is exactly what the log says.

    faults: the first thousand; fault_count: all.
    """

    service: str
    facts: int = 0
    from_outbox: int = 0
    duplicates: int = 0
    after_snapshot: int = 0
    aggregates: int = 0
    rebuilt: bool = False
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault_count == 0

    def add(self, kind: str, where: str, message: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS_KEPT:
            self.faults.append(Fault(kind, where, message))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; at most 100 faults are shown, `fault_count` counts all."""
        return {
            "service": self.service,
            "equal": self.equal,
            "facts": self.facts,
            "from_outbox": self.from_outbox,
            "duplicates": self.duplicates,
            "after_snapshot": self.after_snapshot,
            "aggregates": self.aggregates,
            "rebuilt": self.rebuilt,
            "fault_count": self.fault_count,
            "faults": [
                {"kind": fault.kind, "where": fault.where, "message": fault.message}
                for fault in self.faults[:MAX_FAULTS_SHOWN]
            ],
        }
