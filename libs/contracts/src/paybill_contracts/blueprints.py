"""Blueprints: versioned definitions of the resources that a tier needs on a placement."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import BuildableTier
from paybill_contracts.event import Event, Payload, Value, upcaster
from paybill_contracts.kinds import Address, Table
from paybill_contracts.placement import Isolation, Placement, Preset, placement_of
from paybill_contracts.values import Count, Digest, Key

Template = Annotated[
    str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f]*$"), Field(examples=["${tenant.slug}"])
]
"""Text with expressions: `${tenant.slug}`, `${region}`, `${limits.connections}`, `${database.main.host}`."""

AttributeValue: TypeAlias = bool | int | Template | tuple[Template, ...]


class ResourceDefinition(Value):
    """A resource that a tier needs: the attributes of its kind that do not follow from tenant, region and placement."""

    address: Address
    attributes: dict[Key, AttributeValue]


class CellGroup(Value):
    """Shared stacks of one isolation level: in each region `count` cells, each for at most `capacity` tenants."""

    isolation: Isolation
    count: Count
    capacity: Count


class TierBlueprint(Value):
    """Definition of a tier's environment on one placement and cloud.

    layers: the isolation of every layer. credentials_at_once: passwords are made when the environment is built, and not
    when they are first requested.
    """

    tier: Key
    placement: Preset
    layers: Placement
    cloud: Key
    resources: tuple[ResourceDefinition, ...]
    credentials_at_once: bool = False


class Blueprint(Value):
    """Versioned definition of regions, cells, tiers and tables."""

    name: Key
    version: Count
    regions: tuple[Key, ...]
    cells: tuple[CellGroup, ...]
    tiers: tuple[TierBlueprint, ...]
    tables: tuple[Table, ...]


class BlueprintPublished(
    Event, type="provisioner.blueprint_published", version=2, aggregate="blueprint", key="blueprint"
):
    """Environments are planned by this version from now on. Plans name `content_hash`.

    regions, tiers: of all blueprints in force; None in facts of earlier versions, when there was one.
    """

    blueprint: Key
    content: Blueprint
    content_hash: Digest
    regions: tuple[Key, ...] | None = None
    tiers: tuple[BuildableTier, ...] | None = None

    @property
    def known_regions(self) -> frozenset[str]:
        """Regions in which environments may be built."""
        return frozenset(self.content.regions if self.regions is None else self.regions)

    @property
    def known_tiers(self) -> tuple[BuildableTier, ...]:
        """Tiers that can be built, in order, each with a placement."""
        return buildable(self.content.tiers) if self.tiers is None else self.tiers


def buildable(tiers: Iterable[TierBlueprint]) -> tuple[BuildableTier, ...]:
    """Returns the tiers and placements of definitions, in order."""
    pairs = sorted({(tier.tier, tier.placement) for tier in tiers})
    return tuple(BuildableTier(tier=tier, placement=placement) for tier, placement in pairs)


UNLIMITED = 1_000_000
"""Capacity of the cells of blueprints before version 2, which had no capacity."""


@upcaster("provisioner.blueprint_published", 1)
def _published_v1(fields: Payload) -> Payload:
    """Adds what every environment had: one pool and one bridge in each region, and five resources."""
    content = fields["content"]
    tables = [table["name"] for table in content["tables"]]
    return fields | {
        "content": content
        | {
            "version": 0,
            "cells": [{"isolation": level, "count": 1, "capacity": UNLIMITED} for level in ("pool", "bridge")],
            "tiers": [_tier_v1(tier, tables) for tier in content["tiers"]],
        }
    }


def _tier_v1(tier: Payload, tables: list[str]) -> Payload:
    role = {"in_schema": "schema.main", "secret": "secret.database", "connection_limit": tier["connection_limit"]}
    resources: dict[str, dict[str, Any]] = {
        "secret.database": {},
        "bucket.data": {},
        "database.main": {},
        "schema.main": {"in_database": "database.main", "tables": tables},
        "role.main": role,
    }
    return {
        "tier": tier["tier"],
        "placement": tier["placement"],
        "layers": placement_of(Preset(tier["placement"])).model_dump(mode="json"),
        "cloud": tier["cloud"],
        "resources": [{"address": address, "attributes": each} for address, each in resources.items()],
        "credentials_at_once": True,
    }
