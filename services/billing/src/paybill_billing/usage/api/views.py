"""Request and response bodies of usage: consumption, meters, open windows, closed windows and allowances."""

from datetime import datetime
from typing import Annotated, Self

from paybill_contracts.catalogue import Aggregation
from paybill_contracts.metering import MeterId, WindowId
from paybill_contracts.usage import ItemName
from paybill_contracts.values import Key, TenantId
from pydantic import BaseModel, ConfigDict, Field

from paybill_billing.usage.domain import usage
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status
from paybill_billing.usage.domain.quotas import Allowance
from paybill_billing.usage.domain.usage import MAX_QUANTITY, Consumed, Meter, Refusal
from paybill_billing.usage.domain.windows import OpenWindow


class ConsumeBody(BaseModel):
    """Usage that is about to happen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    meter: Key
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] = 1
    of: Annotated[
        ItemName | None,
        Field(description="Opaque name of the item used; for a meter that counts distinct items."),
    ] = None


class ConsumeView(BaseModel):
    """Result of a consumption. Nothing is counted unless `allowed`."""

    allowed: bool
    refusal: Annotated[Refusal | None, Field(description="Why it is not allowed; null when it is.")]
    meter: str
    value: Annotated[int, Field(description="Usage in the window, this consumption included if it is allowed.")]
    included: int
    quota: Annotated[int | None, Field(description="Maximum usage in a window; null when unlimited.")]
    remaining: int | None
    window_start: datetime
    window_end: datetime

    @classmethod
    def of(cls, meter: str, consumed: Consumed) -> Self:
        """Returns the response for `consumed`."""
        allowance, window = consumed.allowance, consumed.window
        return cls(
            allowed=consumed.refusal is None,
            refusal=consumed.refusal,
            meter=meter,
            value=consumed.value,
            included=allowance.included,
            quota=allowance.quota,
            remaining=_remaining(allowance, consumed.value),
            window_start=window.start,
            window_end=window.end,
        )


class OpenWindowView(BaseModel):
    """A window that still counts."""

    start: datetime
    end: datetime
    closes_at: datetime
    aggregation: Aggregation
    value: int
    records: int
    reported: Annotated[int, Field(description="Units that are allocated to invoices so far.")]

    @classmethod
    def of(cls, window: OpenWindow) -> Self:
        """Returns the response for `window`."""
        return cls(
            start=window.start,
            end=window.end,
            closes_at=window.closes_at,
            aggregation=window.aggregation,
            value=window.value,
            records=window.records,
            reported=window.billed,
        )


class MeterView(BaseModel):
    """A tenant's usage of one meter: in total, and in each open window."""

    id: MeterId
    tenant_id: TenantId
    meter: str
    total: int
    records: int
    windows: list[OpenWindowView]

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Returns the response for `meter`."""
        return cls(
            id=meter.id,
            tenant_id=meter.tenant_id,
            meter=meter.meter,
            total=meter.total,
            records=meter.records,
            windows=[OpenWindowView.of(window) for window in meter.windows],
        )


class MeterPage(BaseModel):
    """Meters ordered by id."""

    meters: list[MeterView]
    next: Annotated[MeterId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class AllowanceView(BaseModel):
    """Current usage of a meter and the plan's allowance. included, quota: null when the plan does not meter it."""

    meter: str
    value: int
    included: int | None
    quota: int | None
    remaining: int | None
    total: int
    records: int
    windows: list[OpenWindowView]

    @classmethod
    def of(cls, name: str, meter: Meter | None, allowance: Allowance | None, now: datetime) -> Self:
        """Returns the response for a meter. meter: None without usage. allowance: None when the plan has none."""
        value = usage.used_now(meter, now)
        return cls(
            meter=name,
            value=value,
            included=allowance.included if allowance is not None else None,
            quota=allowance.quota if allowance is not None else None,
            remaining=_remaining(allowance, value) if allowance is not None else None,
            total=meter.total if meter is not None else 0,
            records=meter.records if meter is not None else 0,
            windows=[OpenWindowView.of(window) for window in meter.windows] if meter is not None else [],
        )


class TenantUsageView(BaseModel):
    """A tenant's usage and allowances, by meter."""

    tenant_id: TenantId
    allows_access: bool
    meters: list[AllowanceView]


class ClosedWindowView(BaseModel):
    """A window of which at least a part is closed. status: the progress of reporting to the provider.

    `unbilled`: not reported, because no provider bills it or because the last invoice was final.
    """

    id: WindowId
    tenant_id: TenantId
    meter: str
    start: datetime
    end: datetime
    aggregation: Aggregation
    value: Annotated[int, Field(description="The final value; 0 while the window is open.")]
    records: int
    closed: Annotated[bool, Field(description="False while the window accepts usage, and only parts are reported.")]
    status: Status
    provider: str
    provider_meter: str | None
    reported: Annotated[int | None, Field(description="The units that were reported to the provider.")]
    unbilled: Annotated[int, Field(description="Units that no invoice has.")]
    failure: Annotated[str | None, Field(description="Why reporting failed.")]
    asked: Annotated[int, Field(description="Number of requests for the provider's count.")]
    answered: Annotated[int, Field(description="Number of those requests that are answered.")]
    counted: Annotated[int | None, Field(description="The provider's count in its last answer.")]
    count_failure: Annotated[str | None, Field(description="Why the count could not be fetched.")]

    @classmethod
    def of(cls, window: ClosedWindow) -> Self:
        """Returns the response for `window`."""
        return cls(**{name: getattr(window, name) for name in cls.model_fields})


class ClosedWindowPage(BaseModel):
    """Closed windows ordered by id, that is by tenant, meter and time."""

    windows: list[ClosedWindowView]
    next: Annotated[WindowId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def _remaining(allowance: Allowance, value: int) -> int | None:
    return max(allowance.quota - value, 0) if allowance.quota is not None else None
