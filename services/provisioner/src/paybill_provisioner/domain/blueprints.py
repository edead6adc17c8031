"""The blueprint in force: published by a person, and never replaced by an older one."""

from dataclasses import dataclass

from paybill_contracts.blueprints import Blueprint, BlueprintPublished, TierBlueprint
from paybill_contracts.errors import ConflictError, DomainError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_definitions.blueprint_rules import BlueprintDiagnostic, changes_refused, errors

BLUEPRINT_ID = "main"
"""Id of the state with the blueprint in force."""


class InvalidBlueprintError(DomainError):
    """The blueprint contradicts itself or needs something that no driver can build."""

    code = "invalid_blueprint"

    def __init__(self, *diagnostics: BlueprintDiagnostic) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each.path))}: {each.reason}" for each in diagnostics[:5]))
        self.diagnostics = diagnostics


class BlueprintVersionError(ConflictError):
    """The version is not newer than the one in force."""

    code = "blueprint_version_conflict"


class UnknownTierError(DomainError):
    """The blueprint in force has no such tier on this placement."""

    code = "tier_unknown"


class UnknownRegionError(DomainError):
    """The blueprint in force has no such region."""

    code = "region_unknown"


class BlueprintNotPublishedError(Exception):
    """No blueprint is published yet. Not a refusal: the event is retried until there is one."""


@dataclass(frozen=True, slots=True)
class PublishedBlueprint:
    """The blueprint in force and its hash, which plans name."""

    id: str
    content: Blueprint
    content_hash: str


def publish(published: PublishedBlueprint | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Publishes `blueprint`; the one that is in force already changes nothing.

    Raises InvalidBlueprintError, BlueprintVersionError.
    """
    found = tuple(errors(blueprint))
    if published is not None and not found:
        found = tuple(changes_refused(published.content, blueprint))
    if found:
        raise InvalidBlueprintError(*found)
    content_hash = digest(blueprint)
    if published is not None:
        if published.content_hash == content_hash:
            return []
        current = published.content.version
        if blueprint.version <= current:
            raise BlueprintVersionError(
                f"version {current} is in force; write `version: {current + 1}` for another content"
            )
    return [BlueprintPublished(blueprint=BLUEPRINT_ID, content=blueprint, content_hash=content_hash)]


def publish_first(published: PublishedBlueprint | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Publishes the blueprint of an installation that has none. Raises InvalidBlueprintError."""
    return [] if published is not None else publish(None, blueprint)


def evolve(_published: PublishedBlueprint | None, event: BlueprintPublished) -> PublishedBlueprint:
    """Returns the blueprint of `event`, which replaces the previous one."""
    return PublishedBlueprint(id=event.blueprint, content=event.content, content_hash=event.content_hash)


def require_published(published: PublishedBlueprint | None) -> PublishedBlueprint:
    """Returns the published blueprint. Raises BlueprintNotPublishedError."""
    if published is None:
        raise BlueprintNotPublishedError("no blueprint is published yet; the provisioner publishes it at its start")
    return published


def tier_of(blueprint: Blueprint, tier: str, preset: Preset) -> TierBlueprint:
    """Returns the definition of `tier` on `preset`. Raises UnknownTierError."""
    for candidate in blueprint.tiers:
        if candidate.tier == tier and candidate.placement is preset:
            return candidate
    known = ", ".join(f"{each.tier} ({each.placement})" for each in blueprint.tiers)
    raise UnknownTierError(f"the blueprint has no tier {tier} ({preset}), only {known}; add it and publish again")


def require_region(blueprint: Blueprint, region: str) -> None:
    """Raises UnknownRegionError when the blueprint does not have `region`."""
    if region not in blueprint.regions:
        known = ", ".join(blueprint.regions)
        raise UnknownRegionError(f"no environments are built in {region}, only in {known}; add it and publish again")
