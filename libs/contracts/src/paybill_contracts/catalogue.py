"""The catalogue: immutable plan versions, their features and prices, and the meters of usage."""

from enum import StrEnum
from typing import Annotated

from paybill_licence.claims import (
    BooleanFeature,
    Feature,
    LimitFeature,
    MeteredFeature,
    PlanRef,
    StaticFeature,
)
from pydantic import Field

from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Digest, Key, ProviderId, Text

__all__ = [
    "Aggregation",
    "BooleanFeature",
    "BuildableTier",
    "Catalogue",
    "CataloguePublished",
    "Feature",
    "Interval",
    "LimitFeature",
    "Meter",
    "MeteredFeature",
    "OveragePrice",
    "PlanRef",
    "PlanVersion",
    "Price",
    "StaticFeature",
    "TiersNoted",
    "Window",
]


class Aggregation(StrEnum):
    """Aggregation of a meter's measurements to one number. UNIQUE counts distinct items."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    UNIQUE = "unique"


class Window(StrEnum):
    """Period after which a meter starts again from zero, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Meter(Value):
    """Measurement of usage. A window closes `lateness_s` after its end; later usage is quarantined.

    provider_meters maps a provider's name to its own name for the meter; usage is sent to those providers alone.
    by_period: its windows are the billing periods of each subscription, and not those of `window`, which counts only
    while the billing period is unknown.
    """

    meter: Key
    aggregation: Aggregation = Aggregation.SUM
    window: Window = Window.MONTH
    lateness_s: Annotated[int, Field(ge=0, le=35 * 86_400)] = 3 * 86_400
    provider_meters: dict[Key, ProviderId] = {}  # noqa: RUF012  # pydantic copies it
    by_period: bool = False


class Interval(StrEnum):
    """Billing period of a price."""

    MONTH = "month"
    YEAR = "year"


class Price(Value):
    """Amount that a plan costs each interval. `provider_prices` maps a provider's name to its price id."""

    amount: Money
    interval: Interval
    provider_prices: dict[Key, ProviderId]


class OveragePrice(Value):
    """Amount that usage of a metered feature beyond its included amount costs, for each `units` units.

    A block of units that has begun is charged as a whole. interval: of the price of the plan with which it is sold.
    """

    feature: Key
    amount: Money
    interval: Interval
    units: Annotated[int, Field(ge=1, le=10**9)] = 1
    provider_prices: dict[Key, ProviderId] = {}  # noqa: RUF012  # pydantic copies it


class PlanVersion(Value):
    """A version of a plan; immutable once published, and pinned by subscriptions.

    trial_days: 0 for none. grace_s: access after a failed payment. retention_s: of the data after offboarding.
    access_while_paused: the behaviours of a pause of collection at the provider that keep access; others suspend it.
    trial_without_card: a trial begins without a payment method, and ends the subscription if there is none by its end.
    overage: of metered features. It is not written while it is empty, so that older catalogues keep their hash.
    """

    plan: Key
    version: Annotated[int, Field(ge=1, le=10**6)]
    name: Text
    tier: Key
    placement: Preset
    trial_days: Annotated[int, Field(ge=0, le=730)]
    grace_s: Annotated[int, Field(ge=0, le=365 * 86_400)]
    retention_s: Annotated[int, Field(ge=0, le=10 * 365 * 86_400)]
    features: tuple[Feature, ...]
    prices: tuple[Price, ...]
    access_while_paused: tuple[Key, ...] = ("keep_as_draft", "mark_uncollectible")
    trial_without_card: bool = False
    overage: Annotated[tuple[OveragePrice, ...], Field(exclude_if=lambda prices: not prices)] = ()


class Catalogue(Value):
    """All plan versions on sale or with subscribers, and the meters that their features name.

    A meter that is not in `meters` is a monthly sum.
    """

    product: Key
    plans: tuple[PlanVersion, ...]
    meters: tuple[Meter, ...] = ()


class BuildableTier(Value):
    """A tier and placement that the provisioner's blueprint can build."""

    tier: Key
    placement: Preset


class TiersNoted(Event, type="billing.tiers_noted", version=1, aggregate="tiers", key="noted"):
    """Billing knows the tiers that can be built; a plan with another tier is refused."""

    noted: Key
    tiers: tuple[BuildableTier, ...]
    source_hash: Digest


class CataloguePublished(Event, type="billing.catalogue_published", version=1, aggregate="catalogue", key="catalogue"):
    """This catalogue is in force from now on. Decisions name `content_hash`, so that a replay needs nothing else."""

    catalogue: Key
    content: Catalogue
    content_hash: Digest
