"""Refused facts: messages of EVENTS that their writer has not signed are stored, reported once, and never handled."""

import logging
from collections.abc import Iterable

from paybill_contracts.incidents import Evidence, Finding, IncidentStatus

from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.messaging.message import IncomingMessage

log = logging.getLogger(__name__)

KIND = "refused_fact"


class RefusedFacts:
    """Opens one incident for each writer and reason. incidents: None for a service that has none; it only logs."""

    def __init__(self, incidents: Incidents | None) -> None:
        self._incidents = incidents

    def keys(self, items: Iterable[IncomingMessage]) -> set[Key]:
        """Returns the incidents of the refused ones among `items`."""
        incidents = self._incidents
        if incidents is None:
            return set()
        return {incidents.key_of(KIND, _subject(item)) for item in items if item.refusal is not None}

    def report(self, unit: UnitOfWork, item: IncomingMessage) -> None:
        """Opens the incident of a refused message, unless one of its writer and reason is open."""
        log.error("message %d of %s is refused: %s", item.sequence, item.writer, item.error)
        if self._incidents is None:
            return
        known = unit.get(self._incidents, self._incidents.key_of(KIND, _subject(item)).id)
        if known is not None and known.status is IncidentStatus.OPEN:
            return
        writer = item.writer or "any service"
        finding = Finding(
            kind=KIND,
            subject=_subject(item),
            summary=f"message {item.sequence} of the event log is no fact of {writer}: {item.error}",
            evidence=(Evidence(name="sequence", value=str(item.sequence)),),
            command="paybill events quarantine",
        )
        with unit.savepoint(item.origin):
            self._incidents.open(unit, finding, unit.now)


def _subject(item: IncomingMessage) -> str:
    return f"{item.writer or 'unknown'}/{item.refusal}"
