"""Quotas: a plan's allowance of a meter in each window, and the facts emitted when usage approaches or reaches it."""

from dataclasses import dataclass

from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.metering import QuotaExceeded, QuotaWarned

from paybill_billing.entitlements.domain.entitlements import Entitlements
from paybill_billing.usage.domain.windows import OpenWindow

WARN_AT_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Allowance:
    """A plan's allowance of a meter. quota: the maximum usage of a window; None when unlimited."""

    included: int
    quota: int | None

    @property
    def threshold(self) -> int:
        """The value at which `QuotaExceeded` is emitted: the quota, or the included amount when there is none."""
        return self.quota if self.quota is not None else self.included


def metered_features(entitlements: Entitlements | None) -> list[MeteredFeature]:
    """Returns the tenant's metered features."""
    features = entitlements.features if entitlements is not None else ()
    return [feature for feature in features if isinstance(feature, MeteredFeature)]


def allowance_of(entitlements: Entitlements | None, meter: str) -> Allowance | None:
    """Returns the plan's allowance of a meter, or None when no feature counts it.

    Where several features name the meter, the smallest values apply.
    """
    features = [feature for feature in metered_features(entitlements) if feature.meter == meter]
    if not features:
        return None
    quotas = [feature.quota for feature in features if feature.quota is not None]
    return Allowance(included=min(feature.included for feature in features), quota=min(quotas, default=None))


def quota_events(
    meter_id: str, tenant_id: str, meter: str, window: OpenWindow, value: int, quota: int
) -> list[QuotaWarned | QuotaExceeded]:
    """Returns the facts for `value`: each once in a window, and once more after the quota was raised."""
    events: list[QuotaWarned | QuotaExceeded] = []
    about = {"meter_id": meter_id, "tenant_id": tenant_id, "meter": meter, "value": value, "quota": quota}
    about |= {"window_start": window.start, "window_end": window.end}
    if value * 100 >= quota * WARN_AT_PERCENT and (window.warned is None or quota > window.warned):
        events.append(QuotaWarned.model_validate(about))
    if value >= quota and (window.exceeded is None or quota > window.exceeded):
        events.append(QuotaExceeded.model_validate(about))
    return events
