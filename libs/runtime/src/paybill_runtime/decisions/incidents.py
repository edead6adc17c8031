"""Incidents of one service, as aggregates that handlers, timers and jobs open and close in their decisions."""

from datetime import datetime

from paybill_contracts import incidents
from paybill_contracts.incidents import Finding, Incident, incident_id

from paybill_runtime.decisions.aggregates import Key, StateRow, Stored
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.errors import single_line


class Incidents(Stored[Incident]):
    """The incidents of `service`. A decision names `key_of` in its `writes`, then calls `open` or `close`."""

    def __init__(self, service: str, row: type[StateRow]) -> None:
        super().__init__("incident", row, Incident, incidents.evolve)
        self.service = service

    def key_of(self, kind: str, subject: str) -> Key:
        """Returns the key of the incident of a kind about a subject."""
        return self.key(incident_id(self.service, kind, subject))

    def open(self, unit: UnitOfWork, finding: Finding, since: datetime) -> None:
        """Opens the incident of a finding; gives an open one its text."""
        id_ = incident_id(self.service, finding.kind, finding.subject)
        unit.record(self, id_, incidents.open_incident(self.service, unit.get(self, id_), finding, since))

    def close(self, unit: UnitOfWork, kind: str, subject: str, reason: str, now: datetime) -> None:
        """Closes an incident because its problem ended; does nothing when none is open."""
        id_ = incident_id(self.service, kind, subject)
        by = f"service:{self.service}"
        events = incidents.close_incident(self.service, unit.get(self, id_), single_line(reason), by, now)
        unit.record(self, id_, events)
