"""Closed windows: the final value of each, its report to the provider, and the provider's own count."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, TypeVar, assert_never

from paybill_contracts.catalogue import Aggregation
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.metering import (
    UsageCounted,
    UsageCountRequested,
    UsageReported,
    UsageReportFailed,
    UsageReportRequested,
    UsageWindowClosed,
)

from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import OpenWindow, window_id

WindowEvent = (
    UsageWindowClosed | UsageReported | UsageReportFailed | UsageReportRequested | UsageCountRequested | UsageCounted
)
F = TypeVar("F", UsageReported, UsageReportFailed, UsageReportRequested, UsageCountRequested, UsageCounted)


class UnknownWindowError(NotFoundError):
    code = "unknown_window"


class WindowNotReportedError(ConflictError):
    """The window is not billed by a provider, so it can be neither reported nor counted there."""

    code = "window_not_reported"


class WindowOrderError(DomainError):
    """A fact about the window precedes `UsageWindowClosed`."""

    code = "window_order"


class Status(StrEnum):
    """Progress of reporting the window to its provider. UNBILLED: no provider bills it."""

    UNBILLED = "unbilled"
    DUE = "due"
    REPORTED = "reported"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A closed window and its billed value.

    reported: the value sent to the provider. asked, answered: number of requests for the provider's count, and of
    answers. counted: the count in the last answer.
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

    @property
    def report_key(self) -> str:
        """The idempotency key of every attempt to report the window, so that it is billed once."""
        return sha256(f"paybill/usage/{self.id}".encode()).hexdigest()[:32]

    @property
    def at(self) -> datetime:
        """The time of use that is reported to the provider: `end` itself belongs to the next window."""
        return self.end - timedelta(seconds=1)


def close(meter: Meter, window: OpenWindow, account: Account | None) -> list[WindowEvent]:
    """Closes the window; its value is final."""
    provider = account.provider if account is not None else "none"
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
        )
    ]


def reported(window: ClosedWindow, customer: str) -> list[WindowEvent]:
    """Records that the provider accepted the value."""
    match window.status:
        case Status.DUE | Status.FAILED:
            report = {"quantity": window.value, "provider": window.provider, "provider_meter": window.provider_meter}
            return [_fact(UsageReported, window, **report, customer=customer)]
        case Status.REPORTED | Status.UNBILLED:
            return []
        case _:
            assert_never(window.status)


def report_failed(window: ClosedWindow, reason: str) -> list[WindowEvent]:
    """Records that reporting failed permanently; an operator has to retry it."""
    match window.status:
        case Status.DUE:
            return [_fact(UsageReportFailed, window, reason=reason)]
        case Status.FAILED | Status.REPORTED | Status.UNBILLED:
            return []
        case _:
            assert_never(window.status)


def retry_report(window: ClosedWindow) -> list[WindowEvent]:
    """Requests another report after the cause of the failure was removed. Raises WindowNotReportedError."""
    match window.status:
        case Status.FAILED:
            return [_fact(UsageReportRequested, window)]
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
    return [] if window.asked > window.answered else [_fact(UsageCountRequested, window)]


def record_count(window: ClosedWindow, quantity: int | None, reason: str | None) -> list[WindowEvent]:
    """Records the provider's count, or the reason why it could not be fetched."""
    if window.asked == window.answered:
        return []
    return [_fact(UsageCounted, window, quantity=quantity, reason=reason)]


def evolve(window: ClosedWindow | None, event: WindowEvent) -> ClosedWindow:
    """Returns the window after `event`; only `UsageWindowClosed` may come first."""
    if isinstance(event, UsageWindowClosed):
        return ClosedWindow(
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
    if window is None:
        raise WindowOrderError(f"{event.TYPE} precedes the fact that closes {event.window_id}")
    match event:
        case UsageReported():
            return replace(window, status=Status.REPORTED, reported=event.quantity, failure=None)
        case UsageReportFailed():
            return replace(window, status=Status.FAILED, failure=event.reason)
        case UsageReportRequested():
            return replace(window, status=Status.DUE)
        case UsageCountRequested():
            return replace(window, asked=window.asked + 1)
        case UsageCounted():
            return replace(window, answered=window.asked, counted=event.quantity, count_failure=event.reason)
        case _:
            assert_never(event)


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
