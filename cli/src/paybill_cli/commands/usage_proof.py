"""Proof that recorded usage is billed usage: sums the measurements in the log and compares all derived values."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Row = dict[str, Any]

TYPES = (
    "usage_recorded",
    "usage_window_opened",
    "usage_window_closed",
    "usage_part_closed",
    "usage_unbilled",
    "usage_reported",
    "usage_report_failed",
    "usage_report_requested",
    "intake_quarantined",
    "entitlements_set",
    "incident_closed",
)
"""Event types of billing that the proof reads."""

MEANINGS = {
    "total": "the running total of the meter differs from the sum of its measurements",
    "value": "the value in the events differs from the sum of their measurements",
    "closed": "the value of the closed window differs from the sum of its measurements",
    "late": "usage was counted after the window was closed",
    "unreported": "the value was not reported to the provider",
    "reported": "another value was reported to the provider",
    "unbilled": "the last invoice was final before this usage was reported, so that no invoice has it",
    "overbilled": "more units are billed than were used beyond what is included, as of a later grant too",
    "state": "billing's tables differ from the log",
    "provider": "the provider's count differs from the reported value",
    "invoiced": "the provider's invoice has other usage than was reported for its period",
    "uninvoiced": "reported usage is on no invoice of the provider, and no invoice for its period follows",
    "unanswered": "the provider's count is not available",
}
"""Meaning of each kind of difference."""


NEXT_STEPS = {
    "paybill replay --verify": ("state", "total", "value", "closed", "late"),
    "paybill usage windows --status failed": ("refused",),
    "paybill usage windows --status unbilled": ("unbilled",),
    "paybill usage windows --status due": ("unreported",),
    "paybill usage windows --status reported": ("reported", "overbilled", "provider", "invoiced", "uninvoiced"),
    "paybill doctor": ("unanswered",),
}
"""Command that shows the cause of each kind of difference, the most severe kind first. refused: a report."""
_NOT_YET = "not yet"


@dataclass(slots=True)
class Window:
    """A window of usage. value: sum of the measurements in the log. event_value: value in the last measurement.

    parts: units of each part that is to be reported, by its number; sent: those that were reported. unbilled: units
    that no invoice has; settled: those of them that an operator invoiced by hand. plan, included: of the tenant when
    the last part was closed; `included` also counts what was granted on that plan since.
    """

    id: str
    meter_id: str
    start: str
    aggregation: str = "sum"
    value: int = 0
    records: int = 0
    event_value: int = 0
    distinct: set[str] = field(default_factory=set)
    closed: int | None = None
    provider_meter: str | None = None
    reported: int | None = None
    failure: str | None = None
    late: int = 0
    counted: int | None = None
    count_failure: str | None = None
    parts: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    unbilled: int = 0
    settled: int = 0
    plan: Any = None
    included: int = 0
    in_parts: bool = False

    def add(self, measurement: Mapping[str, Any]) -> None:
        """Adds a measurement."""
        quantity = measurement["quantity"]
        self.records += 1
        self.event_value = measurement["value"]
        self.late += self.closed is not None
        match self.aggregation:
            case "count":
                self.value += 1
            case "sum":
                self.value += quantity
            case "max":
                self.value = max(self.value, quantity)
            case "unique":
                self.distinct.add(measurement["member"])
                self.value = len(self.distinct)


class Ledger:
    """Usage by the events in the log: of one tenant or all, in the windows that start in a period."""

    def __init__(self, tenant: str | None, since: datetime | None, until: datetime | None) -> None:
        self._tenant = tenant
        self._since = since
        self._until = until
        self._revisions: dict[str, int] = {}
        self.totals: dict[str, tuple[int, int]] = {}
        self.windows: dict[str, Window] = {}
        self.invoiced: dict[str, list[Row] | str] = {}
        self._allowances: dict[str, tuple[Any, int]] = {}
        self.quarantined = 0
        self.unwindowed = 0

    def add(self, event: Row) -> None:
        """Adds an event of the log, in order; ignores duplicates."""
        kind, payload = str(event["type"]).partition(".")[2], event["payload"]
        if kind == "intake_quarantined":
            if ".usage.recorded." in payload["subject"]:
                self.quarantined += payload.get("left_out") or 1
            return
        if kind not in TYPES or (self._tenant is not None and event["tenant"] != self._tenant):
            return
        aggregate, revision = str(event["aggregate"]), int(event["revision"] or 0)
        if revision <= self._revisions.get(aggregate, 0):
            return
        self._revisions[aggregate] = revision
        if kind == "usage_recorded":
            total, _ = self.totals.get(payload["meter_id"], (0, 0))
            self.totals[payload["meter_id"]] = (total + payload["quantity"], payload["total"])
        if kind == "entitlements_set":
            self._allow(payload)
        elif kind == "incident_closed":
            self._settle(payload)
        elif payload.get("window_start") is None:
            self.unwindowed += 1
        elif self._in_period(payload["window_start"]):
            self._add_to_window(kind, payload)

    def _allow(self, payload: Row) -> None:
        """Follows the included units of each meter: the smallest of several features, as billing counts them."""
        smallest: dict[str, int] = {}
        for feature in payload["features"]:
            if feature["kind"] == "metered":
                included = feature["included"]
                smallest[feature["meter"]] = min(included, smallest.get(feature["meter"], included))
        for meter, included in smallest.items():
            meter_id = f"{payload['tenant_id']}:{meter}"
            self._allowances[meter_id] = (payload["plan"], included)
            for window in self.windows.values():
                if window.meter_id == meter_id and window.closed is None and window.plan == payload["plan"]:
                    window.included = max(window.included, included)

    def _settle(self, payload: Row) -> None:
        """Counts unbilled usage as settled: an operator closes its incident after invoicing it by hand."""
        if payload["kind"] == "unbilled_usage":
            for window in self.windows.values():
                if window.meter_id.partition(":")[0] == payload["tenant_id"]:
                    window.settled = window.unbilled

    def _in_period(self, start: str) -> bool:
        at = datetime.fromisoformat(start)
        return (self._since is None or at >= self._since) and (self._until is None or at < self._until)

    def _add_to_window(self, kind: str, payload: Row) -> None:
        meter_id = payload.get("meter_id") or f"{payload['tenant_id']}:{payload['meter']}"
        id_ = f"{meter_id}:{payload['window_start'][:13]}"
        window = self.windows.setdefault(id_, Window(id_, meter_id, payload["window_start"]))
        match kind:
            case "usage_window_opened":
                window.aggregation = payload["aggregation"]
            case "usage_recorded":
                window.add(payload)
            case "usage_window_closed":
                window.closed, window.provider_meter = payload["value"], payload["provider_meter"]
                window.in_parts = payload.get("in_parts", False)
            case "usage_part_closed":
                window.parts[payload["number"]], window.in_parts = payload["quantity"], True
                window.plan, window.included = self._allowances.get(meter_id, (None, 0))
            case "usage_unbilled":
                window.unbilled += payload["quantity"]
                window.parts.pop(payload["part"], None)
            case "usage_reported" if payload.get("part") is not None:
                window.sent[payload["part"]], window.failure = payload["quantity"], None
                window.reported = sum(window.sent.values())
            case "usage_reported":
                window.reported, window.failure = payload["quantity"], None
            case "usage_report_failed":
                window.failure = payload["reason"]
            case "usage_report_requested":
                window.failure = None

    def differences(self) -> Iterator[Row]:
        """Yields contradictions between the events."""
        for meter_id, (summed, total) in self.totals.items():
            if summed != total:
                yield _difference("total", meter_id, summed, total)
        for window in self.windows.values():
            if window.value != window.event_value:
                yield _difference("value", window.id, window.value, window.event_value)
            if window.closed not in {None, window.value}:
                yield _difference("closed", window.id, window.value, window.closed)
            if window.late:
                yield _difference("late", window.id, 0, window.late)
            if window.in_parts or (window.closed is not None and window.provider_meter is not None):
                yield from self._report_differences(window)

    @staticmethod
    def _report_differences(window: Window) -> Iterator[Row]:
        if window.in_parts:
            yield from _part_differences(window)
        elif window.reported is None:
            yield _difference("unreported", window.id, window.closed, window.failure or _NOT_YET)
        elif window.reported != window.value:
            yield _difference("reported", window.id, window.value, window.reported)
        if window.count_failure is not None:
            yield _difference("unanswered", window.id, window.reported, window.count_failure)
        elif window.counted is not None and window.counted != window.reported:
            yield _difference("provider", window.id, window.reported, window.counted)

    def invoice_differences(self) -> Iterator[Row]:
        """Yields differences between reported usage and the provider's invoices, by tenant."""
        for tenant, found in self.invoiced.items():
            if isinstance(found, str):
                yield _difference("unanswered", tenant, "the usage on its invoices", found)
                continue
            for period in found:
                if not period["differs"]:
                    continue
                kind = "uninvoiced" if period["invoice"] is None else "invoiced"
                where = f"{tenant}:{period['meter']} {period['start']} {period['invoice'] or ''}".strip()
                yield _difference(kind, where, period["reported"], period["invoiced"])

    def tenants_in_parts(self) -> list[str]:
        """Returns the tenants whose usage was reported for invoices."""
        return sorted({window.meter_id.partition(":")[0] for window in self.windows.values() if window.sent})

    def table_differences(self, open_: Mapping[str, Row], closed: Mapping[str, Row]) -> list[Row]:
        """Returns differences between the log and the open and closed windows in billing's tables, by id."""
        found = []
        for id_ in sorted({*self.windows, *open_, *closed}):
            window, row = self.windows.get(id_), closed.get(id_) or open_.get(id_)
            if window is None and row is not None and not self._in_period(row["start"]):
                continue
            log = (window.value, window.records, window.closed is not None) if window is not None else None
            table = (row["value"], row["records"], id_ in closed) if row is not None else None
            if log != table:
                found.append(_difference("state", id_, _text(log), _text(table)))
        return found

    def reported(self) -> list[Window]:
        """Returns the windows that were reported to the provider."""
        return [window for window in self.windows.values() if window.reported is not None]

    def sums(self) -> Row:
        """Returns the numbers of compared objects."""
        windows = self.windows.values()
        return {
            "meters": len(self.totals),
            "windows": len(windows),
            "open": sum(window.closed is None for window in windows),
            "closed": sum(window.closed is not None for window in windows),
            "reported": len(self.reported()),
            "invoices": sum(len(found) for found in self.invoiced.values() if not isinstance(found, str)),
            "counted_by_provider": sum(window.counted is not None for window in windows),
            "measurements": sum(window.records for window in windows),
            "before_windows": self.unwindowed,
            "settled_by_hand": sum(window.settled for window in windows),
            "not_billed_yet": sum(
                window.value - sum(window.parts.values()) - window.unbilled
                for window in windows
                if window.closed is None
            ),
            "quarantined": self.quarantined if self._tenant is None else None,
        }


def windows_of(pages: Callable[[str, str], Collection[Row]]) -> tuple[dict[str, Row], dict[str, Row]]:
    """Returns billing's open and closed windows, by id. pages: fetches all rows of a path, under a field."""
    open_ = {
        f"{meter['id']}:{window['start'][:13]}": window
        for meter in pages("/v1/usage/meters", "meters")
        for window in meter["windows"]
    }
    return open_, {window["id"]: window for window in pages("/v1/usage/windows", "windows") if window["closed"]}


def _part_differences(window: Window) -> Iterator[Row]:
    """Yields the parts that are not reported, or not as they were used."""
    for number, quantity in window.parts.items():
        where = f"{window.id}#{number}"
        if number not in window.sent:
            yield _difference("unreported", where, quantity, window.failure or _NOT_YET)
        elif window.sent[number] != quantity:
            yield _difference("reported", where, quantity, window.sent[number])
    if window.unbilled > window.settled:
        yield _difference("unbilled", window.id, window.settled, window.unbilled)
    billed, billable = sum(window.parts.values()) + window.unbilled, max(window.value - window.included, 0)
    if billed > billable:
        yield _difference("overbilled", window.id, billable, billed)


def next_step(differences: Collection[Row], tenant: str | None) -> str:
    """Returns the command that shows the cause of the most severe difference. tenant: the proof is only of this one."""
    kinds = {"refused" if _is_refused(difference) else difference["kind"] for difference in differences}
    step = next(step for step, of in NEXT_STEPS.items() if kinds.intersection(of))
    return f"{step} --tenant {tenant}" if tenant is not None and step.startswith("paybill usage") else step


def _is_refused(difference: Row) -> bool:
    return difference["kind"] == "unreported" and bool(difference["found"] != _NOT_YET)


def _text(state: tuple[int, int, bool] | None) -> str:
    if state is None:
        return "no such window"
    value, records, closed = state
    return f"{value} of {records} measurements, {'closed' if closed else 'open'}"


def _difference(kind: str, where: str, expected: Any, found: Any) -> Row:
    return {"kind": kind, "where": where, "expected": expected, "found": found, "meaning": MEANINGS[kind]}
