"""Differences of an environment that were found and have not ended."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from paybill_contracts.drift import (
    EnvironmentDriftAccepted,
    EnvironmentDriftEnded,
    EnvironmentDriftFound,
    ResourceDifference,
)
from paybill_contracts.values import Timestamp

DriftEvent = EnvironmentDriftFound | EnvironmentDriftEnded | EnvironmentDriftAccepted


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference that was found. accepted: the reason of the person who accepted it.

    repaired: a plan has repaired it, and no check has confirmed that; unrepaired: it was found again after that.
    """

    difference: ResourceDifference
    since: Timestamp
    accepted: str | None = None
    repaired: bool = False
    unrepaired: bool = False


def repaired(drift: tuple[Drift, ...], addresses: Iterable[str]) -> tuple[Drift, ...]:
    """Marks the differences of resources that a plan has repaired."""
    done = frozenset(addresses)
    return tuple(replace(each, repaired=True) if each.difference.address in done else each for each in drift)


def evolve(drift: tuple[Drift, ...], event: DriftEvent) -> tuple[Drift, ...]:
    """Returns the differences after `event`."""
    key = event.difference.key
    match event:
        case EnvironmentDriftFound():
            new = Drift(event.difference, event.found_at, unrepaired=event.after_repair)
            return (*(each for each in drift if each.difference.key != key), new)
        case EnvironmentDriftEnded():
            return tuple(each for each in drift if each.difference.key != key)
        case EnvironmentDriftAccepted():
            return tuple(replace(each, accepted=event.reason) if each.difference.key == key else each for each in drift)
        case _:
            assert_never(event)
