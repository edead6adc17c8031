"""What we sell: plan versions that never change once published, so that a subscription can pin one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import CataloguePublished, Meter, MeteredFeature, PlanVersion, Price
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_definitions.plans_file import CatalogueDiagnostic, Tiers, unknown_tiers, version_name

from paybill_billing.providers.port.snapshots import PriceSnapshot

CATALOGUE = "plans"
"""There is one catalogue; a handler must know what to load before it has read anything."""


class CatalogueRefusedError(ConflictError):
    """What is well written and cannot be sold; a line for each objection."""

    code = "catalogue_refused"

    def __init__(self, objections: Sequence[CatalogueDiagnostic]) -> None:
        super().__init__("\n".join(objection.reason for objection in objections))
        self.objections = objections


class UnknownPlanError(NotFoundError):
    code = "unknown_plan"


class UnknownPriceError(DomainError):
    """The provider's subscription is for something that the catalogue does not hold."""

    code = "unknown_price"


@dataclass(frozen=True, slots=True)
class Published:
    """A plan version and the hash of the newest catalogue that held it."""

    plan: PlanVersion
    catalogue_hash: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All plan versions and meters ever published. `on_sale` is what the newest publication holds."""

    id: str
    content_hash: str
    on_sale: Content
    published: tuple[Published, ...]
    meters: tuple[Meter, ...] = ()


def existing(catalogue: Catalogue | None) -> Catalogue:
    """Raises UnknownPlanError: nothing was published yet."""
    if catalogue is None:
        raise UnknownPlanError("no catalogue is published yet; publish one: paybill plans publish FILE")
    return catalogue


def publish(catalogue: Catalogue | None, content: Content, buildable: Tiers | None = None) -> list[CataloguePublished]:
    """Sell this from now on. buildable: as in `objections`. Raises CatalogueRefusedError."""
    if catalogue is not None and catalogue.on_sale == content:
        return []
    refused = objections(catalogue, content, buildable)
    if refused:
        raise CatalogueRefusedError(refused)
    return [CataloguePublished(catalogue=CATALOGUE, content=content, content_hash=digest(content))]


def objections(catalogue: Catalogue | None, content: Content, buildable: Tiers | None) -> list[CatalogueDiagnostic]:
    """Why this cannot be sold: customers agreed to published versions as they were, and to how usage is counted.

    buildable: the tiers of the blueprint, None while nothing is known of them.
    """
    missing = unknown_tiers(content, buildable) if buildable is not None else []
    return [*_edits(catalogue, content), *missing] if catalogue is not None else missing


def _edits(catalogue: Catalogue, content: Content) -> Iterator[CatalogueDiagnostic]:
    known = {version_name(entry.plan): entry.plan for entry in catalogue.published}
    counted = _counted(catalogue)
    for plan in content.plans:
        name = version_name(plan)
        before = known.get(name, plan)
        fields = [field for field in PlanVersion.model_fields if getattr(before, field) != getattr(plan, field)]
        if fields:
            yield CatalogueDiagnostic(
                name,
                fields[0],
                f"{name} is published and differs in {', '.join(fields)}; customers agreed to it as it was: "
                f"restore it, and add version {_newest(catalogue, plan.plan) + 1}",
            )
    for declared in content.meters:
        before_it = meter(catalogue, declared.meter)
        fields = [field for field in ("aggregation", "window") if getattr(before_it, field) != getattr(declared, field)]
        if fields and declared.meter in counted:
            yield CatalogueDiagnostic(
                declared.meter,
                fields[0],
                f"the meter {declared.meter} differs in {', '.join(fields)} from how published plans are counted; "
                f"restore it, and declare another meter",
            )


def on_sale(catalogue: Catalogue, plan: str) -> PlanVersion:
    """The newest version of `plan` that can be bought. Raises UnknownPlanError."""
    versions = [version for version in catalogue.on_sale.plans if version.plan == plan]
    if not versions:
        names = ", ".join(sorted({version.plan for version in catalogue.on_sale.plans}))
        raise UnknownPlanError(f"there is no plan {plan}; on sale are: {names}")
    return max(versions, key=lambda version: version.version)


def published(catalogue: Catalogue, plan: str, version: int) -> Published:
    """A version that was ever published. Raises UnknownPlanError."""
    for entry in catalogue.published:
        if (entry.plan.plan, entry.plan.version) == (plan, version):
            return entry
    raise UnknownPlanError(f"{plan} version {version} was never published")


def meters(catalogue: Catalogue) -> frozenset[str]:
    """Those that were ever declared, or named by a plan."""
    return _counted(catalogue) | {declared.meter for declared in catalogue.meters}


def meter(catalogue: Catalogue, name: str) -> Meter:
    """How `name` is counted: as it was declared last, or, where a plan of old names it undeclared, summed by month."""
    return next((declared for declared in catalogue.meters if declared.meter == name), Meter(meter=name))


def sold_at(catalogue: Catalogue, provider: str, price: PriceSnapshot) -> Published:
    """The plan version that this price of the provider sells.

    What the catalogue says comes first, then what we wrote on the price, then its lookup key, which somebody at the
    provider can move to another price. Raises UnknownPriceError.
    """
    for entry in catalogue.published:
        if any(offer.provider_prices.get(provider) == price.id for offer in entry.plan.prices):
            return entry
    for entry in catalogue.published:
        if (entry.plan.plan, entry.plan.version) == (price.plan, price.version):
            return entry
    for entry in catalogue.published:
        if any(lookup_key(entry.plan, offer) == price.lookup_key for offer in entry.plan.prices):
            return entry
    raise UnknownPriceError(f"price {price.id} at {provider} sells no plan of the catalogue; add it to provider_prices")


def lookup_key(plan: PlanVersion, price: Price) -> str:
    """Our own name for a price at a provider."""
    return f"{plan.plan}_v{plan.version}_{price.interval}_{price.amount.currency.lower()}"


def evolve(catalogue: Catalogue | None, event: CataloguePublished) -> Catalogue:
    """The catalogue after `event`: versions that are no longer sold stay known, for those who bought them."""
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


def _counted(catalogue: Catalogue) -> frozenset[str]:
    features = (feature for entry in catalogue.published for feature in entry.plan.features)
    return frozenset(feature.meter for feature in features if isinstance(feature, MeteredFeature))


def _newest(catalogue: Catalogue, plan: str) -> int:
    return max(entry.plan.version for entry in catalogue.published if entry.plan.plan == plan)
