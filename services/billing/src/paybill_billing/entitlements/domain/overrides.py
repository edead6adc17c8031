"""Overrides and grants: additions of operators to one tenant's plan, with a validity, and the effective feature set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, assert_never

from paybill_contracts.catalogue import BooleanFeature, Feature, LimitFeature, MeteredFeature, StaticFeature

MAX_AMOUNT = 10**15
"""The largest `Count`."""


@dataclass(frozen=True, slots=True)
class Override:
    """A feature that replaces the plan's. number: position in the order in which the tenant's overrides were made."""

    id: str
    feature: Feature
    valid_from: datetime
    valid_until: datetime | None
    reason: str
    number: int


@dataclass(frozen=True, slots=True)
class Grant:
    """An amount that is added to a feature."""

    id: str
    feature: str
    amount: int
    valid_from: datetime
    valid_until: datetime | None
    reason: str


T = TypeVar("T", Override, Grant)


def effective(
    plan_features: Iterable[Feature], overrides: Iterable[Override], grants: Iterable[Grant], at: datetime
) -> tuple[Feature, ...]:
    """Returns the features in force at `at`: the plan's in their order, then those that overrides add, by key.

    The order of overrides and grants, and duplicates among them, make no difference.
    """
    features: dict[str, Feature] = {feature.key: feature for feature in plan_features}
    added: dict[str, Feature] = {}
    for override in sorted(_in_force(overrides, at), key=lambda each: (each.valid_from, each.number)):
        key = override.feature.key
        (features if key in features else added)[key] = override.feature
    features |= dict(sorted(added.items()))
    for grant in _in_force(grants, at):
        if grant.feature in features:
            features[grant.feature] = _increased(features[grant.feature], grant.amount)
    return tuple(features.values())


def unexpired(all_: Iterable[T], at: datetime) -> tuple[T, ...]:
    """Returns those that have not ended at `at`."""
    return tuple(each for each in all_ if each.valid_until is None or at < each.valid_until)


def next_change(
    plan_features: Sequence[Feature],
    overrides: Sequence[Override],
    grants: Sequence[Grant],
    current: Sequence[Feature],
    after: datetime,
) -> datetime | None:
    """Returns the first time after `after` at which the effective set differs from `current`, if nothing else changes.

    None when there is no such time.
    """
    spans = [(each.valid_from, each.valid_until) for each in overrides]
    spans += [(each.valid_from, each.valid_until) for each in grants]
    times = {time for span in spans for time in span if time is not None and time > after}
    expected = tuple(current)
    return next((time for time in sorted(times) if effective(plan_features, overrides, grants, time) != expected), None)


def _in_force(all_: Iterable[T], at: datetime) -> Iterable[T]:
    """Returns those that are valid at `at`, without duplicates."""
    return {each.id: each for each in unexpired(all_, at) if each.valid_from <= at}.values()


def _increased(feature: Feature, amount: int) -> Feature:
    match feature:
        case BooleanFeature():
            return feature.model_copy(update={"enabled": True})
        case StaticFeature():
            return feature
        case LimitFeature():
            return feature.model_copy(update={"limit": min(feature.limit + amount, MAX_AMOUNT)})
        case MeteredFeature():
            quota = None if feature.quota is None else min(feature.quota + amount, MAX_AMOUNT)
            return feature.model_copy(update={"included": min(feature.included + amount, MAX_AMOUNT), "quota": quota})
        case _:
            assert_never(feature)
