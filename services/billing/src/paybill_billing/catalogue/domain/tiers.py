"""Tiers that environments can be built from, according to the provisioner's blueprint."""

from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.catalogue import BuildableTier, TiersNoted
from paybill_contracts.placement import Preset

TIERS = "tiers"
"""The id of the only list. It is fixed because a handler names its states before it loads them."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers of the blueprint in force."""

    id: str
    tiers: tuple[BuildableTier, ...]
    source_hash: str

    @property
    def buildable(self) -> frozenset[tuple[str, Preset]]:
        """The pairs of tier and placement that can be built."""
        return frozenset((each.tier, each.placement) for each in self.tiers)


def on_blueprint_published(known: Tiers | None, fact: BlueprintPublished) -> list[TiersNoted]:
    """Records the tiers of all blueprints in force."""
    if known is not None and known.source_hash == fact.content_hash:
        return []
    return [TiersNoted(noted=TIERS, tiers=fact.known_tiers, source_hash=fact.content_hash)]


def evolve(_known: Tiers | None, event: TiersNoted) -> Tiers:
    """Returns the tiers after `event`, which contains the whole list."""
    match event:
        case TiersNoted():
            return Tiers(id=event.noted, tiers=event.tiers, source_hash=event.source_hash)
        case _:
            assert_never(event)
