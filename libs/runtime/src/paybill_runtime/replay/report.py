"""Report of a replay: counts, and the differences between the log, the outbox and the tables."""

from dataclasses import dataclass, field
from typing import Any

MAX_FAULTS_SHOWN = 100
MAX_FAULTS = 1_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One difference between the log and the tables, or the log and the outbox."""

    kind: str
    where: str
    message: str


@dataclass(slots=True)
class Faults:
    """Differences. faults: the first thousand; fault_count: all."""

    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, kind: str, where: str, message: str) -> None:
        """Adds a fault."""
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(kind, where, message))

    def include(self, others: "Faults") -> None:
        """Adds the faults of another part of the replay."""
        self.fault_count += others.fault_count
        self.faults += others.faults[: MAX_FAULTS - len(self.faults)]


@dataclass(slots=True, kw_only=True)
class Report(Faults):
    """The result of a replay."""

    service: str
    facts: int = 0
    from_outbox: int = 0
    duplicates: int = 0
    after_snapshot: int = 0
    voided: int = 0
    aggregates: int = 0
    rebuilt: bool = False

    @property
    def equal(self) -> bool:
        """True when every table is exactly the fold of the log."""
        return self.fault_count == 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the report for JSON, with at most 100 faults."""
        return {
            "service": self.service,
            "equal": self.equal,
            "facts": self.facts,
            "from_outbox": self.from_outbox,
            "duplicates": self.duplicates,
            "after_snapshot": self.after_snapshot,
            "voided": self.voided,
            "aggregates": self.aggregates,
            "rebuilt": self.rebuilt,
            "fault_count": self.fault_count,
            "faults": [
                {"kind": fault.kind, "where": fault.where, "message": fault.message}
                for fault in self.faults[:MAX_FAULTS_SHOWN]
            ],
        }
