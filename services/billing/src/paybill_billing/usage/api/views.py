"""What is shown of usage: meters, their open windows, those that are closed, and what may be used."""

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
    """What is about to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    meter: Key
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] = 1
    of: Annotated[
        ItemName | None, Field(description="Which of the things that the meter tells apart; an opaque name.")
    ] = None


class ConsumeView(BaseModel):
    """Whether it may be used. Nothing is counted unless `allowed`."""

    allowed: bool
    refusal: Annotated[Refusal | None, Field(description="Why not.")]
    meter: str
    value: Annotated[int, Field(description="What is used in the window, with this if it is allowed.")]
    included: int
    quota: Annotated[int | None, Field(description="What may be used in a window; null without a bound.")]
    remaining: int | None
    window_start: datetime
    window_end: datetime

    @classmethod
    def of(cls, meter: str, consumed: Consumed) -> Self:
        """What is answered."""
        bound, window = consumed.bound, consumed.window
        return cls(
            allowed=consumed.refusal is None,
            refusal=consumed.refusal,
            meter=meter,
            value=consumed.value,
            included=bound.included,
            quota=bound.quota,
            remaining=_remaining(bound, consumed.value),
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

    @classmethod
    def of(cls, window: OpenWindow) -> Self:
        """What is shown of it."""
        return cls(
            start=window.start,
            end=window.end,
            closes_at=window.closes_at,
            aggregation=window.aggregation,
            value=window.value,
            records=window.records,
        )


class MeterView(BaseModel):
    """What a tenant used of one thing: since ever, and in each window that is open."""

    id: MeterId
    tenant_id: TenantId
    meter: str
    total: int
    records: int
    windows: list[OpenWindowView]

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """What is shown of it."""
        return cls(
            id=meter.id,
            tenant_id=meter.tenant_id,
            meter=meter.meter,
            total=meter.total,
            records=meter.records,
            windows=[OpenWindowView.of(window) for window in meter.windows],
        )


class MeterPage(BaseModel):
    """Meters in the order of their ids."""

    meters: list[MeterView]
    next: Annotated[MeterId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class AllowanceView(BaseModel):
    """What is used of a meter now, and what the plan allows. included, quota: null when the plan counts it no more."""

    meter: str
    value: int
    included: int | None
    quota: int | None
    remaining: int | None
    total: int
    records: int
    windows: list[OpenWindowView]

    @classmethod
    def of(cls, name: str, meter: Meter | None, bound: Allowance | None, now: datetime) -> Self:
        """What is shown of a meter; None when nothing was used, or the plan does not count it."""
        value = usage.used_now(meter, now)
        return cls(
            meter=name,
            value=value,
            included=bound.included if bound is not None else None,
            quota=bound.quota if bound is not None else None,
            remaining=_remaining(bound, value) if bound is not None else None,
            total=meter.total if meter is not None else 0,
            records=meter.records if meter is not None else 0,
            windows=[OpenWindowView.of(window) for window in meter.windows] if meter is not None else [],
        )


class TenantUsageView(BaseModel):
    """All that a tenant uses and may use."""

    tenant_id: TenantId
    allows_access: bool
    meters: list[AllowanceView]


class ClosedWindowView(BaseModel):
    """A window that is over. status: whether the provider has its value; `unbilled` is sent nowhere."""

    id: WindowId
    tenant_id: TenantId
    meter: str
    start: datetime
    end: datetime
    aggregation: Aggregation
    value: int
    records: int
    status: Status
    provider: str
    provider_meter: str | None
    reported: Annotated[int | None, Field(description="What the provider was told.")]
    failure: Annotated[str | None, Field(description="Why it was not told.")]
    asked: Annotated[int, Field(description="How often the provider was asked what it has counted.")]
    answered: Annotated[int, Field(description="How many of those questions are answered.")]
    counted: Annotated[int | None, Field(description="What it said last.")]
    count_failure: Annotated[str | None, Field(description="Why it could not be asked.")]

    @classmethod
    def of(cls, window: ClosedWindow) -> Self:
        """What is shown of it."""
        return cls(**{name: getattr(window, name) for name in cls.model_fields})


class ClosedWindowPage(BaseModel):
    """Closed windows in the order of their ids: by tenant, meter and time."""

    windows: list[ClosedWindowView]
    next: Annotated[WindowId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def _remaining(bound: Allowance, value: int) -> int | None:
    return max(bound.quota - value, 0) if bound.quota is not None else None
