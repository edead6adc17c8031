"""The catalogue: what is sold, in plan versions that never change, and how usage of it is counted."""

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
    "PlanRef",
    "PlanVersion",
    "Price",
    "StaticFeature",
    "TiersNoted",
    "Window",
]


class Aggregation(StrEnum):
    """How a meter makes one number of many measurements. UNIQUE counts different things that were used."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    UNIQUE = "unique"


class Window(StrEnum):
    """The time that a meter counts in before it starts anew, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Meter(Value):
    """What is counted, and how. A window is closed `lateness_s` after its end; what comes later is quarantined.

    provider_meters maps a provider's name to its own name for the meter; usage is sent to those providers alone.
    """

    meter: Key
    aggregation: Aggregation = Aggregation.SUM
    window: Window = Window.MONTH
    lateness_s: Annotated[int, Field(ge=0, le=35 * 86_400)] = 3 * 86_400
    provider_meters: dict[Key, ProviderId] = {}  # noqa: RUF012  # pydantic copies it


class Interval(StrEnum):
    """How often a price is paid."""

    MONTH = "month"
    YEAR = "year"


class Price(Value):
    """What a plan costs each interval. `provider_prices` maps a provider's name to its price id."""

    amount: Money
    interval: Interval
    provider_prices: dict[Key, ProviderId]


class PlanVersion(Value):
    """A plan as it was sold from some day on; immutable once published, and a subscription pins it.

    trial_days: 0 for none. grace_s: how long access stays after a failed payment. retention_s: how long the data of a
    tenant that left is kept.
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


class Catalogue(Value):
    """All plan versions on sale or still subscribed to, and the meters that their features name.

    A meter that is not named in `meters` is a sum by the month.
    """

    product: Key
    plans: tuple[PlanVersion, ...]
    meters: tuple[Meter, ...] = ()


class BuildableTier(Value):
    """A tier on a placement, of which the provisioner's blueprint says how it is built."""

    tier: Key
    placement: Preset


class TiersNoted(Event, type="billing.tiers_noted", version=1, aggregate="tiers", key="noted"):
    """Billing has heard what environments can be built of; a plan that wants anything else is not published."""

    noted: Key
    tiers: tuple[BuildableTier, ...]
    source_hash: Digest


class CataloguePublished(Event, type="billing.catalogue_published", version=1, aggregate="catalogue", key="catalogue"):
    """From now on this is what we sell. Decisions name `content_hash`, so that a replay needs nothing else."""

    catalogue: Key
    content: Catalogue
    content_hash: Digest
