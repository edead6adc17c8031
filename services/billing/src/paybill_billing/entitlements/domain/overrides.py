"""Overrides and grants: what operators add to a plan for one tenant and for a time, and what that makes of the plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, assert_never

from paybill_contracts.catalogue import BooleanFeature, Feature, LimitFeature, MeteredFeature, StaticFeature

MAX_AMOUNT = 10**15
"""What a Count can hold."""


@dataclass(frozen=True, slots=True)
class Override:
    """A feature instead of the plan's. number: counts the overrides of the tenant in the order they were made."""

    id: str
    feature: Feature
    valid_from: datetime
    valid_until: datetime | None
    reason: str
    number: int


@dataclass(frozen=True, slots=True)
class Grant:
    """More of a feature."""

    id: str
    feature: str
    amount: int
    valid_from: datetime
    valid_until: datetime | None
    reason: str


T = TypeVar("T", Override, Grant)


def effective(
    of_plan: Iterable[Feature], overrides: Iterable[Override], grants: Iterable[Grant], at: datetime
) -> tuple[Feature, ...]:
    """What may be used at `at`: the plan's features in their order, then what overrides add, by key.

    The order in which overrides and grants are given, and whether one is given twice, makes no difference.
    """
    features: dict[str, Feature] = {feature.key: feature for feature in of_plan}
    added: dict[str, Feature] = {}
    for override in sorted(_holding(overrides, at), key=lambda each: (each.valid_from, each.number)):
        key = override.feature.key
        (features if key in features else added)[key] = override.feature
    features |= dict(sorted(added.items()))
    for grant in _holding(grants, at):
        if grant.feature in features:
            features[grant.feature] = _more(features[grant.feature], grant.amount)
    return tuple(features.values())


def unexpired(all_: Iterable[T], at: datetime) -> tuple[T, ...]:
    """Those that are not over at `at`."""
    return tuple(each for each in all_ if each.valid_until is None or at < each.valid_until)


def next_change(
    of_plan: Sequence[Feature],
    overrides: Sequence[Override],
    grants: Sequence[Grant],
    now: Sequence[Feature],
    after: datetime,
) -> datetime | None:
    """The first time after `after` at which time alone makes another set of what is in force `now`."""
    spans = [(each.valid_from, each.valid_until) for each in overrides]
    spans += [(each.valid_from, each.valid_until) for each in grants]
    times = {time for span in spans for time in span if time is not None and time > after}
    return next((time for time in sorted(times) if effective(of_plan, overrides, grants, time) != tuple(now)), None)


def _holding(all_: Iterable[T], at: datetime) -> Iterable[T]:
    """Those that are valid at `at`, each once."""
    return {each.id: each for each in unexpired(all_, at) if each.valid_from <= at}.values()


def _more(feature: Feature, amount: int) -> Feature:
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
