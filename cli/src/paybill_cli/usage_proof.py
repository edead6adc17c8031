"""The proof that usage in is usage billed: the log's measurements, folded anew, beside all that was made of them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Fact = Mapping[str, Any]
Row = dict[str, Any]

TYPES = (
    "usage_recorded",
    "usage_window_opened",
    "usage_window_closed",
    "usage_reported",
    "usage_report_failed",
    "usage_report_requested",
    "intake_quarantined",
)
"""What is read of the log."""

MEANS = {
    "total": "the running total of the meter is not the sum of its measurements",
    "value": "the value that the facts carry is not what their measurements make",
    "closed": "the window was closed with another value than its measurements make",
    "late": "something was counted after the window was closed",
    "unreported": "the provider was not told",
    "reported": "the provider was told another value",
    "state": "billing's tables say something else than the log",
    "provider": "the provider has counted something else than it was told",
    "unanswered": "the provider could not be asked",
}
"""Each kind of difference, in words."""


@dataclass(slots=True)
class Tally:
    """One window, as its facts tell it. value: made anew of the measurements; said: the value that the last one has."""

    id: str
    meter_id: str
    start: str
    aggregation: str = "sum"
    value: int = 0
    records: int = 0
    said: int = 0
    members: set[str] = field(default_factory=set)
    closed: int | None = None
    provider_meter: str | None = None
    reported: int | None = None
    failure: str | None = None
    late: int = 0
    counted: int | None = None
    unanswered: str | None = None

    def add(self, fact: Fact) -> None:
        """One more measurement."""
        quantity = fact["quantity"]
        self.records += 1
        self.said = fact["value"]
        self.late += self.closed is not None
        match self.aggregation:
            case "count":
                self.value += 1
            case "sum":
                self.value += quantity
            case "max":
                self.value = max(self.value, quantity)
            case "unique":
                self.members.add(fact["member"])
                self.value = len(self.members)


class Ledger:
    """What the facts say, of one tenant or of all, of the windows that start in a time."""

    def __init__(self, tenant: str | None, since: datetime | None, until: datetime | None) -> None:
        self._tenant = tenant
        self._since = since
        self._until = until
        self._revisions: dict[str, int] = {}
        self.totals: dict[str, tuple[int, int]] = {}
        self.windows: dict[str, Tally] = {}
        self.quarantined = 0
        self.unwindowed = 0

    def take(self, fact: Row) -> None:
        """A fact of the log, in its order; a copy of one that was there is left out."""
        kind, said = str(fact["type"]).partition(".")[2], fact["payload"]
        if kind == "intake_quarantined":
            self.quarantined += ".usage.recorded." in said["subject"]
            return
        if kind not in TYPES or (self._tenant is not None and fact["tenant"] != self._tenant):
            return
        aggregate, revision = str(fact["aggregate"]), int(fact["revision"] or 0)
        if revision <= self._revisions.get(aggregate, 0):
            return
        self._revisions[aggregate] = revision
        if kind == "usage_recorded":
            total, _ = self.totals.get(said["meter_id"], (0, 0))
            self.totals[said["meter_id"]] = (total + said["quantity"], said["total"])
        if said.get("window_start") is None:
            self.unwindowed += 1
        elif self._wanted(said["window_start"]):
            self._in_window(kind, said)

    def _wanted(self, start: str) -> bool:
        at = datetime.fromisoformat(start)
        return (self._since is None or at >= self._since) and (self._until is None or at < self._until)

    def _in_window(self, kind: str, said: Row) -> None:
        meter_id = said.get("meter_id") or f"{said['tenant_id']}:{said['meter']}"
        id_ = f"{meter_id}:{said['window_start'][:13]}"
        tally = self.windows.setdefault(id_, Tally(id_, meter_id, said["window_start"]))
        match kind:
            case "usage_window_opened":
                tally.aggregation = said["aggregation"]
            case "usage_recorded":
                tally.add(said)
            case "usage_window_closed":
                tally.closed, tally.provider_meter = said["value"], said["provider_meter"]
            case "usage_reported":
                tally.reported, tally.failure = said["quantity"], None
            case "usage_report_failed":
                tally.failure = said["reason"]
            case "usage_report_requested":
                tally.failure = None

    def differences(self) -> Iterator[Row]:
        """Where the facts contradict each other."""
        for meter_id, (summed, said) in self.totals.items():
            if summed != said:
                yield _difference("total", meter_id, summed, said)
        for tally in self.windows.values():
            if tally.value != tally.said:
                yield _difference("value", tally.id, tally.value, tally.said)
            if tally.closed not in {None, tally.value}:
                yield _difference("closed", tally.id, tally.value, tally.closed)
            if tally.late:
                yield _difference("late", tally.id, 0, tally.late)
            if tally.closed is not None and tally.provider_meter is not None:
                yield from self._reported(tally)

    @staticmethod
    def _reported(tally: Tally) -> Iterator[Row]:
        if tally.reported is None:
            yield _difference("unreported", tally.id, tally.closed, tally.failure or "not yet")
        elif tally.reported != tally.value:
            yield _difference("reported", tally.id, tally.value, tally.reported)
        if tally.unanswered is not None:
            yield _difference("unanswered", tally.id, tally.reported, tally.unanswered)
        elif tally.counted is not None and tally.counted != tally.reported:
            yield _difference("provider", tally.id, tally.reported, tally.counted)

    def beside(self, open_: Mapping[str, Row], closed: Mapping[str, Row]) -> list[Row]:
        """Where billing's tables, by the windows' ids, say something else than the log."""
        found = []
        for id_ in sorted({*self.windows, *open_, *closed}):
            tally, row = self.windows.get(id_), closed.get(id_) or open_.get(id_)
            if tally is None and row is not None and not self._wanted(row["start"]):
                continue
            log = (tally.value, tally.records, tally.closed is not None) if tally is not None else None
            table = (row["value"], row["records"], id_ in closed) if row is not None else None
            if log != table:
                found.append(_difference("state", id_, _words(log), _words(table)))
        return found

    def told(self) -> list[Tally]:
        """The windows of which the provider was told."""
        return [tally for tally in self.windows.values() if tally.reported is not None]

    def sums(self) -> Row:
        """How much was looked at."""
        tallies = self.windows.values()
        return {
            "meters": len(self.totals),
            "windows": len(tallies),
            "open": sum(tally.closed is None for tally in tallies),
            "closed": sum(tally.closed is not None for tally in tallies),
            "reported": len(self.told()),
            "counted_by_provider": sum(tally.counted is not None for tally in tallies),
            "measurements": sum(tally.records for tally in tallies),
            "before_windows": self.unwindowed,
            "quarantined": self.quarantined if self._tenant is None else None,
        }


def states_of(pages: Callable[[str, str], Collection[Row]]) -> tuple[dict[str, Row], dict[str, Row]]:
    """The open and the closed windows that billing holds, by id. pages: all that a route lists, of a field."""
    open_ = {
        f"{meter['id']}:{window['start'][:13]}": window
        for meter in pages("/v1/usage/meters", "meters")
        for window in meter["windows"]
    }
    return open_, {window["id"]: window for window in pages("/v1/usage/windows", "windows")}


def _words(state: tuple[int, int, bool] | None) -> str:
    if state is None:
        return "no such window"
    value, records, closed = state
    return f"{value} of {records} measurements, {'closed' if closed else 'open'}"


def _difference(kind: str, where: str, expected: Any, found: Any) -> Row:
    return {"kind": kind, "where": where, "expected": expected, "found": found, "meaning": MEANS[kind]}
