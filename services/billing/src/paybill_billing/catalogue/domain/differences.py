"""Differences: what a catalogue changes of the one that is on sale, for people to look at before it is published."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import Feature, Interval, Meter, PlanVersion, Price
from paybill_contracts.changes import FeatureDifference
from paybill_contracts.money import Money
from paybill_definitions.plans_file import version_name

from paybill_billing.catalogue.domain.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class PriceDifference:
    """A price before and after; None where it is not there."""

    currency: str
    interval: Interval
    before: Money | None
    after: Money | None


@dataclass(frozen=True, slots=True)
class TermDifference:
    """Another term of a plan version, such as its tier or its grace, before and after."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """A version that comes on sale, beside the newest of its plan before it; all is new when there was none."""

    before: str | None
    after: str
    terms: tuple[TermDifference, ...]
    features: tuple[FeatureDifference, ...]
    prices: tuple[PriceDifference, ...]


@dataclass(frozen=True, slots=True)
class MeterDifference:
    """A meter before and after; None where it is not declared."""

    before: Meter | None
    after: Meter | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes. added: on sale from then on; retired: not on sale any more, and kept for those who bought it."""

    added: tuple[str, ...]
    retired: tuple[str, ...]
    versions: tuple[VersionDifference, ...]
    meters: tuple[MeterDifference, ...]


_TERMS = ("name", "tier", "placement", "trial_days", "grace_s", "retention_s")


def between(catalogue: Catalogue | None, content: Content) -> Difference:
    """What publishing `content` would change."""
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
    """The features that differ, in the order of their first appearance."""
    had, gets = ({feature.key: feature for feature in features} for features in (before, after))
    return tuple(
        FeatureDifference(before=had.get(key), after=gets.get(key))
        for key in had | gets
        if had.get(key) != gets.get(key)
    )


def prices_between(before: Iterable[Price], after: Iterable[Price]) -> Iterator[PriceDifference]:
    """The amounts that differ, by currency and interval."""
    had, gets = ({(price.amount.currency, price.interval): price.amount for price in p} for p in (before, after))
    for currency, interval in had | gets:
        was, is_ = had.get((currency, interval)), gets.get((currency, interval))
        if was != is_:
            yield PriceDifference(currency, interval, was, is_)


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
    )


def _earlier(plan: PlanVersion, all_: Iterable[PlanVersion]) -> PlanVersion | None:
    """The newest version of the plan before this one."""
    versions = [each for each in all_ if each.plan == plan.plan and each.version < plan.version]
    return max(versions, key=lambda each: each.version, default=None)
