"""Plan catalogue: published plan versions never change, so that a subscription can pin one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import (
    CataloguePublished,
    Interval,
    Meter,
    MeteredFeature,
    OveragePrice,
    PlanVersion,
    Price,
)
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_definitions.plans_file import CatalogueDiagnostic, Tiers, unknown_tiers, version_name

from paybill_billing.providers.port.desired import MeteredPrice
from paybill_billing.providers.port.snapshots import PriceSnapshot

CATALOGUE = "plans"
"""The id of the only catalogue. It is fixed because a handler names its states before it loads them."""


class CatalogueRefusedError(ConflictError):
    """Raised for a valid catalogue that cannot be published; its message has one line for each objection."""

    code = "catalogue_refused"

    def __init__(self, objections: Sequence[CatalogueDiagnostic]) -> None:
        super().__init__("\n".join(objection.reason for objection in objections))
        self.objections = objections


class UnknownPlanError(NotFoundError):
    code = "unknown_plan"


class PlanNotOnSaleError(DomainError):
    """Raised for a plan, or a version of it, that is retired."""

    code = "plan_not_on_sale"


class UnknownPriceError(DomainError):
    """Raised when a provider's price belongs to no plan of the catalogue."""

    code = "unknown_price"


@dataclass(frozen=True, slots=True)
class Published:
    """A plan version and the hash of the newest catalogue that contains it."""

    plan: PlanVersion
    catalogue_hash: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All plan versions and meters ever published. `on_sale` is the content of the newest publication."""

    id: str
    content_hash: str
    on_sale: Content
    published: tuple[Published, ...]
    meters: tuple[Meter, ...] = ()


def existing(catalogue: Catalogue | None) -> Catalogue:
    """Returns the catalogue. Raises UnknownPlanError when none is published."""
    if catalogue is None:
        raise UnknownPlanError("no catalogue is published yet; publish one; paybill plans publish --help")
    return catalogue


def publish(catalogue: Catalogue | None, content: Content, buildable: Tiers | None = None) -> list[CataloguePublished]:
    """Puts `content` on sale. buildable: as in `objections`. Raises CatalogueRefusedError."""
    if catalogue is not None and catalogue.on_sale == content:
        return []
    refused = objections(catalogue, content, buildable)
    if refused:
        raise CatalogueRefusedError(refused)
    return [CataloguePublished(catalogue=CATALOGUE, content=content, content_hash=digest(content))]


def objections(catalogue: Catalogue | None, content: Content, buildable: Tiers | None) -> list[CatalogueDiagnostic]:
    """Returns the reasons against publishing `content`: edited plan versions, recounted meters, unknown tiers.

    buildable: the tiers of the blueprint, None until a blueprint is published.
    """
    missing = unknown_tiers(content, buildable) if buildable is not None else []
    return [*_edits(catalogue, content), *missing] if catalogue is not None else missing


def _edits(catalogue: Catalogue, content: Content) -> Iterator[CatalogueDiagnostic]:
    known = {version_name(entry.plan): entry.plan for entry in catalogue.published}
    counted = _used_meters(catalogue)
    for plan in content.plans:
        name = version_name(plan)
        before = known.get(name, plan)
        fields = [field for field in PlanVersion.model_fields if getattr(before, field) != getattr(plan, field)]
        if fields:
            yield CatalogueDiagnostic(
                name,
                fields[0],
                f"{name} is published and differs in {', '.join(fields)}; a published version cannot change: "
                f"restore it and add version {_newest(catalogue, plan.plan) + 1}",
            )
    for declared in content.meters:
        current = meter(catalogue, declared.meter)
        fields = [
            field
            for field in ("aggregation", "window", "by_period")
            if getattr(current, field) != getattr(declared, field)
        ]
        if fields and declared.meter in counted:
            yield CatalogueDiagnostic(
                declared.meter,
                fields[0],
                f"the meter {declared.meter} differs in {', '.join(fields)} from its declaration in published plans; "
                f"restore it and declare another meter",
            )


def on_sale(catalogue: Catalogue, plan: str) -> PlanVersion:
    """Returns the newest version of `plan` on sale. Raises UnknownPlanError."""
    versions = [version for version in catalogue.on_sale.plans if version.plan == plan]
    if not versions:
        names = ", ".join(sorted({version.plan for version in catalogue.on_sale.plans}))
        raise UnknownPlanError(f"there is no plan {plan}; plans on sale: {names}")
    return max(versions, key=lambda version: version.version)


def sold_now(catalogue: Catalogue, plan: str, version: int) -> PlanVersion:
    """Returns this version of the plan while it is on sale, and then the newest one. Raises PlanNotOnSaleError."""
    versions = {each.version: each for each in catalogue.on_sale.plans if each.plan == plan}
    if not versions:
        names = ", ".join(sorted({each.plan for each in catalogue.on_sale.plans}))
        raise PlanNotOnSaleError(f"{plan} is retired and cannot be bought; plans on sale: {names}")
    return versions.get(version) or versions[max(versions)]


def plan_of_size(catalogue: Catalogue, tier: str, placement: str) -> str | None:
    """Returns the first plan on sale with this tier and placement; None when there is none."""
    for each in catalogue.on_sale.plans:
        newest = on_sale(catalogue, each.plan)
        if (newest.tier, newest.placement) == (tier, placement):
            return newest.plan
    return None


def published(catalogue: Catalogue, plan: str, version: int) -> Published:
    """Returns a published version, on sale or retired. Raises UnknownPlanError."""
    for entry in catalogue.published:
        if (entry.plan.plan, entry.plan.version) == (plan, version):
            return entry
    raise UnknownPlanError(f"{plan} version {version} was never published")


def meters(catalogue: Catalogue) -> frozenset[str]:
    """Returns the names of all meters that were declared or are used by a published plan."""
    return _used_meters(catalogue) | {declared.meter for declared in catalogue.meters}


def meter(catalogue: Catalogue, name: str) -> Meter:
    """Returns the last declaration of the meter `name`; a meter that an old plan uses undeclared is summed by month."""
    return next((declared for declared in catalogue.meters if declared.meter == name), Meter(meter=name))


def plan_of_price(catalogue: Catalogue, provider: str, price: PriceSnapshot) -> Published:
    """Returns the plan version of this provider price.

    `provider_prices` of the catalogue comes first, then our metadata on the price, then its lookup key: at the
    provider anybody can transfer a lookup key to another price. Raises UnknownPriceError.
    """
    for entry in catalogue.published:
        if any(ours.provider_prices.get(provider) == price.id for ours in entry.plan.prices):
            return entry
    for entry in catalogue.published:
        if (entry.plan.plan, entry.plan.version) == (price.plan, price.version):
            return entry
    for entry in catalogue.published:
        if any(lookup_key(entry.plan, ours) == price.lookup_key for ours in entry.plan.prices):
            return entry
    raise UnknownPriceError(
        f"price {price.id} at {provider} belongs to no plan of the catalogue; add it to provider_prices"
    )


def lookup_key(plan: PlanVersion, price: Price | OveragePrice) -> str:
    """Returns our lookup key of a price at a provider; that of an overage price ends in its feature."""
    key = f"{plan.plan}_v{plan.version}_{price.interval}_{price.amount.currency.lower()}"
    return f"{key}/{price.feature}" if isinstance(price, OveragePrice) else key


def overage_of(plan: PlanVersion, currency: str, interval: Interval) -> tuple[OveragePrice, ...]:
    """Returns the overage prices that are sold with the plan's price of this currency and interval."""
    return tuple(price for price in plan.overage if (price.amount.currency, price.interval) == (currency, interval))


def metered_prices(
    catalogue: Catalogue, plan: PlanVersion, sold: Price | None, provider: str
) -> tuple[MeteredPrice, ...]:
    """Returns the overage prices of a sold price at a provider; one whose meter the provider does not have is left out.

    The meter is the last declaration of its name: usage is reported to that one.
    """
    if sold is None:
        return ()
    meter_of = {feature.key: feature.meter for feature in plan.features if isinstance(feature, MeteredFeature)}
    prices = overage_of(plan, sold.amount.currency, sold.interval)
    named = [(price, meter(catalogue, meter_of[price.feature]).provider_meters.get(provider)) for price in prices]
    return tuple(MeteredPrice(price, name) for price, name in named if name is not None)


def evolve(catalogue: Catalogue | None, event: CataloguePublished) -> Catalogue:
    """Returns the catalogue after `event`; retired versions are kept for their subscribers."""
    now = [Published(plan=plan, catalogue_hash=event.content_hash) for plan in event.content.plans]
    current = {(entry.plan.plan, entry.plan.version) for entry in now}
    before = catalogue.published if catalogue is not None else ()
    kept = [entry for entry in before if (entry.plan.plan, entry.plan.version) not in current]
    named = {meter.meter for meter in event.content.meters}
    undeclared = [meter for meter in (catalogue.meters if catalogue is not None else ()) if meter.meter not in named]
    return Catalogue(
        id=event.catalogue,
        content_hash=event.content_hash,
        on_sale=event.content,
        published=(*kept, *now),
        meters=(*undeclared, *event.content.meters),
    )


def _used_meters(catalogue: Catalogue) -> frozenset[str]:
    features = (feature for entry in catalogue.published for feature in entry.plan.features)
    return frozenset(feature.meter for feature in features if isinstance(feature, MeteredFeature))


def _newest(catalogue: Catalogue, plan: str) -> int:
    return max(entry.plan.version for entry in catalogue.published if entry.plan.plan == plan)
