"""Quotas: what a plan allows of a meter in each window, and when that is worth a fact."""

from dataclasses import dataclass

from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.metering import QuotaExceeded, QuotaWarned

from paybill_billing.entitlements.domain.entitlements import Entitlements
from paybill_billing.usage.domain.windows import OpenWindow

WARN_AT_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a plan allows of a meter. quota: None when there is no bound but the price."""

    included: int
    quota: int | None

    @property
    def threshold(self) -> int:
        """What is told about when it is used up: what may be used, or else what costs nothing extra."""
        return self.quota if self.quota is not None else self.included


def metered_features(entitlements: Entitlements | None) -> list[MeteredFeature]:
    """What of the tenant is counted."""
    features = entitlements.features if entitlements is not None else ()
    return [feature for feature in features if isinstance(feature, MeteredFeature)]


def allowance_of(entitlements: Entitlements | None, meter: str) -> Allowance | None:
    """What the tenant's plan says of a meter, the tightest where several features name it; None when it counts none."""
    features = [feature for feature in metered_features(entitlements) if feature.meter == meter]
    if not features:
        return None
    quotas = [feature.quota for feature in features if feature.quota is not None]
    return Allowance(included=min(feature.included for feature in features), quota=min(quotas, default=None))


def quota_events(
    meter_id: str, tenant_id: str, meter: str, window: OpenWindow, value: int, quota: int
) -> list[QuotaWarned | QuotaExceeded]:
    """What `value` says of the quota: each once in a window, and once more for a quota that is higher than before."""
    said: list[QuotaWarned | QuotaExceeded] = []
    about = {"meter_id": meter_id, "tenant_id": tenant_id, "meter": meter, "value": value, "quota": quota}
    about |= {"window_start": window.start, "window_end": window.end}
    if value * 100 >= quota * WARN_AT_PERCENT and (window.warned is None or quota > window.warned):
        said.append(QuotaWarned.model_validate(about))
    if value >= quota and (window.exceeded is None or quota > window.exceeded):
        said.append(QuotaExceeded.model_validate(about))
    return said
