"""Bundles: each is published once and never changes; one of them is in force for a blueprint."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from paybill_contracts.agent_bundles import BlueprintNoted, Bundle, BundleActivated, BundlePublished, TableRights
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.values import Digest, Key, Timestamp
from paybill_definitions.agent_drift import drift
from paybill_definitions.agent_rules import errors, normalised
from paybill_definitions.diagnostics import PartDiagnostic


class InvalidBundleError(DomainError):
    """The bundle breaks a rule. The message has one line for each error: `<part>: <reason>`."""

    code = "invalid_bundle"

    def __init__(self, diagnostics: Iterable[PartDiagnostic]) -> None:
        super().__init__("\n".join(f"{'.'.join(map(str, each.path))}: {each.reason}" for each in diagnostics))


class BundleUnknownError(NotFoundError):
    """No bundle with this hash is published."""

    code = "bundle_unknown"


class BlueprintUnknownError(NotFoundError):
    """The gateway knows no blueprint with this name."""

    code = "blueprint_unknown"


class BlueprintChangedError(ConflictError):
    """The bundle was checked against another version of its blueprint than the one in force."""

    code = "blueprint_changed"


class BundleDriftedError(ConflictError):
    """The bundle assumes tables or columns that the blueprint in force does not have."""

    code = "bundle_drifted"


@dataclass(frozen=True, slots=True)
class PublishedBundle:
    """A published bundle. content_hash: of its canonical form."""

    content_hash: Digest
    content: Bundle
    published_by: str
    published_at: Timestamp


@dataclass(frozen=True, slots=True)
class BundleInForce:
    """The bundle that is in force for a blueprint. rights: of agents' logins."""

    blueprint: Key
    bundle_hash: Digest
    rights: tuple[TableRights, ...]
    activated_by: str
    activated_at: Timestamp


@dataclass(frozen=True, slots=True)
class BlueprintInForce:
    """The version of a blueprint that bundles are checked against."""

    name: Key
    content: Blueprint
    content_hash: Digest


def checked(content: Bundle) -> Bundle:
    """Returns the bundle in its one order; its hash is that of this form. Raises InvalidBundleError."""
    bundle = normalised(content)
    if found := list(errors(bundle)):
        raise InvalidBundleError(found)
    return bundle


def publish(
    published: PublishedBundle | None, bundle: Bundle, blueprint: BlueprintInForce | None, by: str, now: datetime
) -> list[BundlePublished]:
    """Publishes a bundle that is `checked`; one that is published already changes nothing.

    Raises BlueprintUnknownError, BlueprintChangedError, BundleDriftedError.
    """
    current = known_blueprint(blueprint, bundle.blueprint.name)
    if bundle.blueprint.content_hash != current.content_hash:
        raise BlueprintChangedError(
            f"the bundle is checked against {bundle.blueprint.name}@{bundle.blueprint.version}, and "
            f"{current.name}@{current.content.version} is in force; check it again, then publish it"
        )
    require_no_drift(bundle, current)
    if published is not None:
        return []
    return [BundlePublished(content_hash=digest(bundle), content=bundle, published_by=by, published_at=now)]


def activate(
    in_force: BundleInForce | None,
    bundle: PublishedBundle,
    rights: tuple[TableRights, ...],
    blueprint: BlueprintInForce | None,
    by: str,
    now: datetime,
) -> list[BundleActivated]:
    """Puts a published bundle in force, a new one or an older one again; the one in force changes nothing.

    rights: of the bundle, computed before the decision, which has to be short.

    Raises BlueprintUnknownError, BundleDriftedError.
    """
    name = bundle.content.blueprint.name
    if in_force is not None and in_force.bundle_hash == bundle.content_hash:
        return []
    require_no_drift(bundle.content, known_blueprint(blueprint, name))
    return [
        BundleActivated(
            blueprint=name,
            bundle_hash=bundle.content_hash,
            rights=rights,
            activated_by=by,
            activated_at=now,
        )
    ]


def known_blueprint(blueprint: BlueprintInForce | None, name: str) -> BlueprintInForce:
    """Returns the blueprint. Raises BlueprintUnknownError for None."""
    if blueprint is None:
        raise BlueprintUnknownError(f"no blueprint {name} is in force; run: paybill blueprint list")
    return blueprint


def require_no_drift(bundle: Bundle, blueprint: BlueprintInForce) -> None:
    """Raises BundleDriftedError when the bundle assumes what the blueprint in force does not have."""
    if found := [each.reason for each in drift(bundle, blueprint.content)]:
        raise BundleDriftedError(
            f"{'; '.join(found)} in {blueprint.name}@{blueprint.content.version}; adapt the bundle and publish it"
        )


def existing(bundle: PublishedBundle | None, content_hash: str) -> PublishedBundle:
    """Returns the bundle. Raises BundleUnknownError for None."""
    if bundle is None:
        raise BundleUnknownError(
            f"no bundle {content_hash} is published; "
            "`paybill events tail --no-follow --type agent-gateway.bundle_` lists all"
        )
    return bundle


def on_blueprint_published(known: BlueprintInForce | None, fact: BlueprintPublished) -> list[BlueprintNoted]:
    """Records the version of a blueprint that is in force."""
    if known is not None and known.content_hash == fact.content_hash:
        return []
    return [BlueprintNoted(blueprint=fact.content.name, content=fact.content, content_hash=fact.content_hash)]


def evolve_blueprint(_: BlueprintInForce | None, event: BlueprintNoted) -> BlueprintInForce:
    """Returns the blueprint after `event`, which has its whole content."""
    return BlueprintInForce(event.blueprint, event.content, event.content_hash)


def evolve(_: PublishedBundle | None, event: BundlePublished) -> PublishedBundle:
    """Returns the bundle after `event`, which has its whole content."""
    return PublishedBundle(event.content_hash, event.content, event.published_by, event.published_at)


def evolve_in_force(_: BundleInForce | None, event: BundleActivated) -> BundleInForce:
    """Returns the bundle in force after `event`."""
    return BundleInForce(event.blueprint, event.bundle_hash, event.rights, event.activated_by, event.activated_at)
