"""Differences between the catalogue on sale and a new one, for review before publication."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import Feature, Interval, Meter, OveragePrice, PlanVersion, Price
from paybill_contracts.changes import FeatureDifference
from paybill_contracts.money import Money
from paybill_definitions.plans_file import version_name

from paybill_billing.catalogue.domain.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class PriceDifference:
    """A price before and after; None where it does not exist."""

    currency: str
    interval: Interval
    before: Money | None
    after: Money | None


@dataclass(frozen=True, slots=True)
class OverageDifference:
    """An overage price before and after; None where it does not exist."""

    before: OveragePrice | None
    after: OveragePrice | None


@dataclass(frozen=True, slots=True)
class TermDifference:
    """A changed term of a plan version, such as its tier or its grace period."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """A version that comes on sale, compared with the earlier version of its plan; `before` is None for a new plan."""

    before: str | None
    after: str
    terms: tuple[TermDifference, ...]
    features: tuple[FeatureDifference, ...]
    prices: tuple[PriceDifference, ...]
    overage: tuple[OverageDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class MeterDifference:
    """A meter before and after; None where it is not declared."""

    before: Meter | None
    after: Meter | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The changes of a publication. added: newly on sale. retired: no longer on sale, kept for their subscribers."""

    added: tuple[str, ...]
    retired: tuple[str, ...]
    versions: tuple[VersionDifference, ...]
    meters: tuple[MeterDifference, ...]


_TERMS = (
    "name",
    "tier",
    "placement",
    "trial_days",
    "grace_s",
    "retention_s",
    "access_while_paused",
    "trial_without_card",
)


def between(catalogue: Catalogue | None, content: Content) -> Difference:
    """Returns the changes that publishing `content` would make."""
    sold = {version_name(plan): plan for plan in (catalogue.on_sale.plans if catalogue is not None else ())}
    after_by_name = {version_name(plan): plan for plan in content.plans}
    known = [entry.plan for entry in (catalogue.published if catalogue is not None else ())]
    added = [plan for name, plan in after_by_name.items() if name not in sold]
    before = {meter.meter: meter for meter in (catalogue.on_sale.meters if catalogue is not None else ())}
    after = {meter.meter: meter for meter in content.meters}
    return Difference(
        added=tuple(map(version_name, added)),
        retired=tuple(name for name in sold if name not in after_by_name),
        versions=tuple(_version(_earlier(plan, [*known, *content.plans]), plan) for plan in added),
        meters=tuple(
            MeterDifference(before.get(name), after.get(name))
            for name in before | after
            if before.get(name) != after.get(name)
        ),
    )


def features_between(before: Iterable[Feature], after: Iterable[Feature]) -> tuple[FeatureDifference, ...]:
    """Returns the features that differ, in the order of their first appearance."""
    old, new = ({feature.key: feature for feature in features} for features in (before, after))
    return tuple(
        FeatureDifference(before=old.get(key), after=new.get(key)) for key in old | new if old.get(key) != new.get(key)
    )


def prices_between(before: Iterable[Price], after: Iterable[Price]) -> Iterator[PriceDifference]:
    """Yields the amounts that differ, by currency and interval."""
    old, new = ({(price.amount.currency, price.interval): price.amount for price in p} for p in (before, after))
    for currency, interval in old | new:
        was, is_ = old.get((currency, interval)), new.get((currency, interval))
        if was != is_:
            yield PriceDifference(currency, interval, was, is_)


def _overage_between(before: Iterable[OveragePrice], after: Iterable[OveragePrice]) -> Iterator[OverageDifference]:
    old, new = (
        {(price.feature, price.amount.currency, price.interval): price for price in prices}
        for prices in (before, after)
    )
    for key in old | new:
        if old.get(key) != new.get(key):
            yield OverageDifference(old.get(key), new.get(key))


def _version(before: PlanVersion | None, after: PlanVersion) -> VersionDifference:
    return VersionDifference(
        before=version_name(before) if before is not None else None,
        after=version_name(after),
        terms=tuple(
            TermDifference(field, str(getattr(before, field)), str(getattr(after, field)))
            for field in _TERMS
            if before is not None and getattr(before, field) != getattr(after, field)
        ),
        features=features_between(before.features if before is not None else (), after.features),
        prices=tuple(prices_between(before.prices if before is not None else (), after.prices)),
        overage=tuple(_overage_between(before.overage if before is not None else (), after.overage)),
    )


def _earlier(plan: PlanVersion, all_: Iterable[PlanVersion]) -> PlanVersion | None:
    """Returns the newest version of the plan before this one."""
    versions = [each for each in all_ if each.plan == plan.plan and each.version < plan.version]
    return max(versions, key=lambda each: each.version, default=None)
