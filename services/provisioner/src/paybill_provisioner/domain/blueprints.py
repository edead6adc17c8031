"""Blueprints in force: published by a person, and never replaced by an older version."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from paybill_contracts.blueprints import Blueprint, BlueprintPublished, TierBlueprint, buildable
from paybill_contracts.errors import ConflictError, DomainError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_definitions.blueprint_rules import changes_refused, errors
from paybill_definitions.diagnostics import PartDiagnostic

BLUEPRINT_ID = "main"
"""Id of the state with all blueprints in force."""

MAX_EARLIER = 200
"""Earlier versions that the state names; the log has all of them."""


class InvalidBlueprintError(DomainError):
    """The blueprint contradicts itself, needs something that no driver can build, or changes what must stay."""

    code = "invalid_blueprint"

    def __init__(self, *diagnostics: PartDiagnostic) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each.path))}: {each.reason}" for each in diagnostics[:5]))
        self.diagnostics = diagnostics


class BlueprintVersionError(ConflictError):
    """The version is not newer than the one in force."""

    code = "blueprint_version_conflict"


class UnknownTierError(DomainError):
    """No blueprint in force has such a tier on this placement."""

    code = "tier_unknown"


class UnknownRegionError(DomainError):
    """The blueprint of the tier has no such region."""

    code = "region_unknown"


class BlueprintNotPublishedError(Exception):
    """No blueprint is published yet. Not a refusal: the event is retried until there is one."""


@dataclass(frozen=True, slots=True)
class PublishedBlueprint:
    """A blueprint in force and its hash, which plans name."""

    content: Blueprint
    content_hash: str

    @property
    def name(self) -> str:
        """Its name and version, for people: `standard@4`."""
        return f"{self.content.name}@{self.content.version}"


@dataclass(frozen=True, slots=True)
class EarlierVersion:
    """A version that is no longer in force."""

    name: str
    version: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class Blueprints:
    """The newest version of each blueprint, in the order of their names, and the earlier ones."""

    id: str
    in_force: tuple[PublishedBlueprint, ...]
    earlier: tuple[EarlierVersion, ...] = ()

    def named(self, name: str) -> PublishedBlueprint | None:
        """Returns the version in force of the blueprint with this name."""
        return next((each for each in self.in_force if each.content.name == name), None)


def objections(blueprints: Blueprints | None, blueprint: Blueprint) -> list[PartDiagnostic]:
    """Returns why `blueprint` cannot be published; each with the path of the part in the blueprint."""
    found = list(errors(blueprint))
    current = blueprints.named(blueprint.name) if blueprints else None
    if found or blueprints is None:
        return found
    if current is not None:
        found += changes_refused(current.content, blueprint)
    return [*found, *_repeated_tiers(blueprints, blueprint)]


def version_conflict(current: PublishedBlueprint | None, blueprint: Blueprint) -> PartDiagnostic | None:
    """Returns why the version of `blueprint`, which has another content than `current`, cannot follow it."""
    if current is None or blueprint.version > current.content.version:
        return None
    reason = f"{current.name} is in force; write `version: {current.content.version + 1}` for another content"
    return PartDiagnostic(("version",), reason)


def _repeated_tiers(blueprints: Blueprints, blueprint: Blueprint) -> Iterator[PartDiagnostic]:
    """Yields the tiers that another blueprint has: a tier has one definition on a placement."""
    owners = {
        (tier.tier, tier.placement): other.content.name
        for other in blueprints.in_force
        if other.content.name != blueprint.name
        for tier in other.content.tiers
    }
    for index, tier in enumerate(blueprint.tiers):
        if owner := owners.get((tier.tier, tier.placement)):
            yield PartDiagnostic(
                ("tiers", index), f"the blueprint {owner} has the tier {tier.tier} ({tier.placement}); change it there"
            )


def publish(blueprints: Blueprints | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Publishes a version; the one that is in force already changes nothing.

    Raises InvalidBlueprintError, BlueprintVersionError.
    """
    content_hash = digest(blueprint)
    current = blueprints.named(blueprint.name) if blueprints else None
    if current is not None and current.content_hash == content_hash:
        return []
    if found := objections(blueprints, blueprint):
        raise InvalidBlueprintError(*found)
    if conflict := version_conflict(current, blueprint):
        raise BlueprintVersionError(conflict.reason)
    others = [each.content for each in blueprints.in_force if each is not current] if blueprints else []
    in_force = [*others, blueprint]
    return [
        BlueprintPublished(
            blueprint=BLUEPRINT_ID,
            content=blueprint,
            content_hash=content_hash,
            regions=tuple(sorted({region for each in in_force for region in each.regions})),
            tiers=buildable(tier for each in in_force for tier in each.tiers),
        )
    ]


def publish_first(blueprints: Blueprints | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Publishes the blueprint of an installation that has none. Raises InvalidBlueprintError."""
    return [] if blueprints is not None else publish(None, blueprint)


def evolve(blueprints: Blueprints | None, event: BlueprintPublished) -> Blueprints:
    """Returns the blueprints in force after `event`."""
    new = PublishedBlueprint(content=event.content, content_hash=event.content_hash)
    if blueprints is None:
        return Blueprints(id=event.blueprint, in_force=(new,))
    name = event.content.name
    others = [each for each in blueprints.in_force if each.content.name != name]
    replaced = blueprints.named(name)
    earlier = blueprints.earlier
    if replaced is not None:
        earlier = (*earlier, EarlierVersion(name, replaced.content.version, replaced.content_hash))[-MAX_EARLIER:]
    in_force = tuple(sorted([*others, new], key=lambda each: each.content.name))
    return replace(blueprints, in_force=in_force, earlier=earlier)


def require_published(blueprints: Blueprints | None) -> Blueprints:
    """Returns the blueprints in force. Raises BlueprintNotPublishedError."""
    if blueprints is None:
        raise BlueprintNotPublishedError("no blueprint is published yet; the provisioner publishes one at its start")
    return blueprints


def definition_of(
    blueprints: Blueprints, tier: str, preset: Preset, region: str
) -> tuple[PublishedBlueprint, TierBlueprint]:
    """Returns the definition of `tier` on `preset`, with its blueprint. Raises UnknownTierError, UnknownRegionError."""
    known = [(each, candidate) for each in blueprints.in_force for candidate in each.content.tiers]
    for blueprint, candidate in known:
        if candidate.tier == tier and candidate.placement is preset:
            _require_region(blueprint, region)
            return blueprint, candidate
    names = ", ".join(f"{each.tier} ({each.placement})" for _, each in known)
    raise UnknownTierError(f"no blueprint has the tier {tier} ({preset}), only {names}; add it and publish again")


def _require_region(blueprint: PublishedBlueprint, region: str) -> None:
    regions = blueprint.content.regions
    if region not in regions:
        raise UnknownRegionError(
            f"{blueprint.name} builds nothing in {region}, only in {', '.join(regions)}; add it and publish again"
        )
