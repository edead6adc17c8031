"""Reports of windows: the parts that the provider bills, the final value, and the provider's own count."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, TypeVar, assert_never

from paybill_contracts.catalogue import Aggregation
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.metering import (
    UsageAllocated,
    UsageCounted,
    UsageCountRequested,
    UsagePartClosed,
    UsageReported,
    UsageReportFailed,
    UsageReportRequested,
    UsageUnbilled,
    UsageWindowClosed,
)

from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import OpenWindow, minute_of, window_id

WindowEvent = (
    UsagePartClosed
    | UsageWindowClosed
    | UsageReported
    | UsageReportFailed
    | UsageReportRequested
    | UsageUnbilled
    | UsageCountRequested
    | UsageCounted
)
F = TypeVar(
    "F", UsageReported, UsageReportFailed, UsageReportRequested, UsageUnbilled, UsageCountRequested, UsageCounted
)


class UnknownWindowError(NotFoundError):
    code = "unknown_window"


class WindowNotReportedError(ConflictError):
    """The window is not billed by a provider, so it can be neither reported nor counted there."""

    code = "window_not_reported"


class WindowOrderError(DomainError):
    """A fact about the window precedes `UsagePartClosed` and `UsageWindowClosed`."""

    code = "window_order"


class Status(StrEnum):
    """Progress of reporting a window or a part. UNBILLED: no provider bills it, or its last invoice was final."""

    UNBILLED = "unbilled"
    DUE = "due"
    REPORTED = "reported"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Part:
    """Units of a window for one invoice. number: from 1; 0 for the value of a window that is reported as a whole.

    at: the reported time of use. before: units that other reports have in the same minute.
    """

    number: int
    quantity: int
    at: datetime
    before: int = 0
    status: Status = Status.DUE
    failure: str | None = None

    @property
    def minute(self) -> tuple[datetime, datetime]:
        """The minute in which the provider counts the report."""
        start = minute_of(self.at)
        return start, start + timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A window of which at least a part is closed. value: final if `closed`, else up to its last part.

    parts: empty for a window that is reported as a whole. reported: the units that were sent to the provider. asked,
    answered: number of requests for the provider's count, and of answers. counted: the count in the last answer.
    """

    id: str
    tenant_id: str
    meter: str
    start: datetime
    end: datetime
    aggregation: Aggregation
    value: int
    records: int
    provider: str
    provider_meter: str | None
    status: Status
    reported: int | None = None
    failure: str | None = None
    asked: int = 0
    answered: int = 0
    counted: int | None = None
    count_failure: str | None = None
    closed: bool = True
    parts: tuple[Part, ...] = ()

    @property
    def due_parts(self) -> tuple[Part, ...]:
        """The parts that are to be reported; the value of a window that is reported as a whole is one."""
        return tuple(part for part in self._parts if part.status is Status.DUE)

    @property
    def reported_parts(self) -> tuple[Part, ...]:
        """The parts that the provider has accepted."""
        return tuple(part for part in self._parts if part.status is Status.REPORTED)

    @property
    def unbilled(self) -> int:
        """The units of parts that no invoice has."""
        return sum(part.quantity for part in self.parts if part.status is Status.UNBILLED)

    def report_key(self, part: Part) -> str:
        """Returns the idempotency key of every attempt to report the part, so that it is billed once."""
        name = f"{self.id}/{part.number}" if part.number else self.id
        return sha256(f"paybill/usage/{name}".encode()).hexdigest()[:32]

    @property
    def _parts(self) -> tuple[Part, ...]:
        if self.parts or self.provider_meter is None or not self.closed:
            return self.parts
        whole = Part(0, self.value, self.end - timedelta(seconds=1), status=self.status, failure=self.failure)
        return () if self.status is Status.REPORTED and self.reported is None else (whole,)


def close_part(
    meter: Meter, window: OpenWindow, allocated: UsageAllocated, provider: str, *, unbilled: str | None = None
) -> list[WindowEvent]:
    """Closes the part of an open window that was allocated, to be reported to its provider.

    unbilled: why no invoice will have it. Without a meter of the provider, nothing is reported.
    """
    provider_meter = window.provider_meters.get(provider)
    if provider_meter is None or allocated.free or not allocated.quantity:
        return []
    part = UsagePartClosed(
        window_id=window_id(meter.id, window.start),
        tenant_id=meter.tenant_id,
        meter=meter.meter,
        window_start=window.start,
        window_end=window.end,
        number=window.parts + 1,
        quantity=allocated.quantity,
        at=allocated.at,
        before=meter.reported.get(minute_of(allocated.at), 0),
        aggregation=window.aggregation,
        provider=provider,
        provider_meter=provider_meter,
    )
    if unbilled is None:
        return [part]
    about = {name: getattr(part, name) for name in ("window_id", "tenant_id", "meter", "window_start", "window_end")}
    lost = UsageUnbilled.model_validate({**about, "part": part.number, "quantity": part.quantity, "reason": unbilled})
    return [part, lost]


def close(meter: Meter, window: OpenWindow, provider: str) -> list[WindowEvent]:
    """Closes the window; its value is final, and all of it is allocated."""
    return [
        UsageWindowClosed(
            window_id=window_id(meter.id, window.start),
            tenant_id=meter.tenant_id,
            meter=meter.meter,
            window_start=window.start,
            window_end=window.end,
            aggregation=window.aggregation,
            value=window.value,
            records=window.records,
            catalogue_hash=window.catalogue_hash,
            provider=provider,
            provider_meter=window.provider_meters.get(provider),
            in_parts=True,
        )
    ]


def reported(window: ClosedWindow, part: Part, customer: str) -> list[WindowEvent]:
    """Records that the provider accepted the part."""
    match part.status:
        case Status.DUE | Status.FAILED:
            report = {"quantity": part.quantity, "provider": window.provider, "provider_meter": window.provider_meter}
            return [_fact(UsageReported, window, **report, customer=customer, part=part.number or None)]
        case Status.REPORTED | Status.UNBILLED:
            return []
        case _:
            assert_never(part.status)


def report_failed(window: ClosedWindow, reason: str) -> list[WindowEvent]:
    """Records that reporting the next part failed permanently; an operator has to retry it."""
    part = next(iter(window.due_parts), None)
    return [] if part is None else [_fact(UsageReportFailed, window, reason=reason, part=part.number or None)]


def retry_report(window: ClosedWindow) -> list[WindowEvent]:
    """Requests another report after the cause of the failure was removed. Raises WindowNotReportedError."""
    match window.status:
        case Status.FAILED:
            return [_fact(UsageReportRequested, window, provider=window.provider)]
        case Status.DUE | Status.REPORTED:
            return []
        case Status.UNBILLED:
            raise _unbilled(window)
        case _:
            assert_never(window.status)


def request_count(window: ClosedWindow) -> list[WindowEvent]:
    """Requests the provider's count unless a request is pending. Raises WindowNotReportedError."""
    if window.provider_meter is None:
        raise _unbilled(window)
    return [] if window.asked > window.answered else [_fact(UsageCountRequested, window, provider=window.provider)]


def record_count(window: ClosedWindow, quantity: int | None, reason: str | None) -> list[WindowEvent]:
    """Records the provider's count, or the reason why it could not be fetched."""
    if window.asked == window.answered:
        return []
    return [_fact(UsageCounted, window, quantity=quantity, reason=reason)]


def evolve(window: ClosedWindow | None, event: WindowEvent) -> ClosedWindow:
    """Returns the window after `event`; only `UsagePartClosed` or `UsageWindowClosed` may come first."""
    match event:
        case UsagePartClosed():
            return _part_closed(window, event)
        case UsageWindowClosed():
            return _closed(window, event)
    if window is None:
        raise WindowOrderError(f"{event.TYPE} precedes the fact that closes {event.window_id}")
    match event:
        case UsageReported():
            return _with_part(window, event.part, Status.REPORTED, None, event.quantity)
        case UsageReportFailed():
            return _with_part(window, event.part, Status.FAILED, event.reason)
        case UsageUnbilled():
            return _with_part(window, event.part, Status.UNBILLED, event.reason)
        case UsageReportRequested():
            parts = tuple(replace(p, status=Status.DUE) if p.status is Status.FAILED else p for p in window.parts)
            return replace(window, status=Status.DUE, parts=parts)
        case UsageCountRequested():
            return replace(window, asked=window.asked + 1)
        case UsageCounted():
            return replace(window, answered=window.asked, counted=event.quantity, count_failure=event.reason)
        case _:
            assert_never(event)


def _part_closed(window: ClosedWindow | None, event: UsagePartClosed) -> ClosedWindow:
    part = Part(event.number, event.quantity, event.at, event.before)
    if window is None:
        window = ClosedWindow(
            id=event.window_id,
            tenant_id=event.tenant_id,
            meter=event.meter,
            start=event.window_start,
            end=event.window_end,
            aggregation=event.aggregation,
            value=0,
            records=0,
            provider=event.provider,
            provider_meter=event.provider_meter,
            status=Status.DUE,
            closed=False,
        )
    return _summarised(replace(window, end=event.window_end, parts=(*window.parts, part)))


def _closed(window: ClosedWindow | None, event: UsageWindowClosed) -> ClosedWindow:
    closed = ClosedWindow(
        id=event.window_id,
        tenant_id=event.tenant_id,
        meter=event.meter,
        start=event.window_start,
        end=event.window_end,
        aggregation=event.aggregation,
        value=event.value,
        records=event.records,
        provider=event.provider,
        provider_meter=event.provider_meter,
        status=Status.UNBILLED if event.provider_meter is None else Status.DUE,
    )
    if not event.in_parts or event.provider_meter is None:
        return closed
    if window is None:
        return replace(closed, status=Status.REPORTED)
    return _summarised(replace(closed, parts=window.parts, asked=window.asked, answered=window.answered))


def _with_part(
    window: ClosedWindow, number: int | None, status: Status, failure: str | None, quantity: int = 0
) -> ClosedWindow:
    """Returns the window with the new status of a part, or of a window that is reported as a whole."""
    if number is None:
        reported = quantity if status is Status.REPORTED else window.reported
        return replace(window, status=status, failure=failure, reported=reported)
    parts = tuple(replace(p, status=status, failure=failure) if p.number == number else p for p in window.parts)
    return _summarised(replace(window, parts=parts))


def _summarised(window: ClosedWindow) -> ClosedWindow:
    """Returns the window with the status, the reported units and the failure of its parts."""
    statuses = {part.status for part in window.parts}
    order = (Status.FAILED, Status.DUE, Status.UNBILLED)
    status = next((each for each in order if each in statuses), Status.REPORTED)
    failure = next((part.failure for part in window.parts if part.failure is not None), None)
    sent = [part.quantity for part in window.parts if part.status is Status.REPORTED]
    return replace(window, status=status, failure=failure, reported=sum(sent) if sent else None)


def existing(window: ClosedWindow | None, id_: str) -> ClosedWindow:
    """Returns `window`. Raises UnknownWindowError when it is None."""
    if window is None:
        raise UnknownWindowError(f"there is no closed window {id_}; list them with: paybill usage windows")
    return window


def _unbilled(window: ClosedWindow) -> WindowNotReportedError:
    return WindowNotReportedError(
        f"{window.id} is not reported: the catalogue named no meter of {window.provider} when the window opened"
    )


def _fact(kind: type[F], window: ClosedWindow, **more: Any) -> F:
    about = {"window_id": window.id, "tenant_id": window.tenant_id, "meter": window.meter}
    return kind.model_validate({**about, "window_start": window.start, "window_end": window.end, **more})
