"""Validation and publication of blueprints."""

from typing import Any

import pytest
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, Column, Table, TierBlueprint
from paybill_provisioner.domain.blueprints import (
    BlueprintNotPublishedError,
    InvalidBlueprintError,
    UnknownRegionError,
    UnknownTierError,
    evolve,
    publish,
    require_published,
    require_region,
    tier_of,
)

STARTER = TierBlueprint(tier="starter", placement=Preset.POOLED, cloud="local", connection_limit=5)
DOCUMENTS = Table(name="documents", columns=(Column(name="id", type="text"), Column(name="body", type="jsonb")))
BLUEPRINT = Blueprint(name="standard", regions=("eu-central", "us-east"), tiers=(STARTER,), tables=(DOCUMENTS,))


def changed(**fields: Any) -> Blueprint:
    return BLUEPRINT.model_copy(update=fields)


def table(*columns: tuple[str, str], name: str = "notes") -> Table:
    return Table(name=name, columns=tuple(Column(name=column, type=type_) for column, type_ in columns))


def test_publishing_a_blueprint_records_its_content_and_hash() -> None:
    (event,) = publish(None, BLUEPRINT)

    assert (event.blueprint, event.content, event.content_hash) == ("main", BLUEPRINT, digest(BLUEPRINT))


def test_publishing_the_same_blueprint_again_records_nothing() -> None:
    (event,) = publish(None, BLUEPRINT)

    assert publish(evolve(None, event), BLUEPRINT) == []


def test_publishing_another_blueprint_replaces_the_first() -> None:
    (first,) = publish(None, BLUEPRINT)
    (second,) = publish(evolve(None, first), changed(regions=("us-east",)))

    assert evolve(evolve(None, first), second).content.regions == ("us-east",)


@pytest.mark.parametrize(
    ("blueprint", "message"),
    [
        (changed(regions=()), "needs at least a region"),
        (changed(tiers=()), "needs at least a region, a tier"),
        (changed(tables=()), "and a table"),
        (changed(regions=("eu-west", "eu_west")), "region eu_west is defined twice"),
        (changed(regions=("r" * 41,)), "longer than 40"),
        (changed(tiers=(STARTER, STARTER)), "starter \\(pooled\\) is defined twice"),
        (changed(tiers=(STARTER.model_copy(update={"cloud": "moon"}),)), "no driver for moon"),
        (changed(tiers=(STARTER.model_copy(update={"connection_limit": 0}),)), "connection_limit"),
        (changed(tables=(DOCUMENTS, DOCUMENTS)), "table documents is defined twice"),
        (changed(tables=(table(),)), "first column is the key"),
        (changed(tables=(table(("id", "jsonb")),)), "first column is the key"),
        (changed(tables=(table(("id", "text"), ("id", "text")),)), "column of notes id is defined twice"),
        (changed(tables=(table(("id", "text"), ("x", "money")),)), "x has the type money"),
        (changed(tables=(table(("tenant_id", "text")),)), "tenant_id is reserved"),
        (changed(tables=(table(("id", "text"), name="t" * 41),)), "longer than 40"),
        (changed(tables=(table(*((f"c{n}", "text") for n in range(51))),)), "50 columns at most"),
    ],
)
def test_a_blueprint_that_cannot_be_built_is_refused(blueprint: Blueprint, message: str) -> None:
    with pytest.raises(InvalidBlueprintError, match=message):
        publish(None, blueprint)


def test_a_tier_is_found_by_its_name_and_placement() -> None:
    assert tier_of(BLUEPRINT, "starter", Preset.POOLED) is STARTER


@pytest.mark.parametrize(("tier", "preset"), [("gold", Preset.POOLED), ("starter", Preset.SILO)])
def test_a_tier_missing_from_the_blueprint_is_refused(tier: str, preset: Preset) -> None:
    with pytest.raises(UnknownTierError):
        tier_of(BLUEPRINT, tier, preset)


def test_a_region_missing_from_the_blueprint_is_refused() -> None:
    require_region(BLUEPRINT, "us-east")

    with pytest.raises(UnknownRegionError, match="only in eu-central, us-east"):
        require_region(BLUEPRINT, "mars-north")


def test_a_missing_blueprint_is_a_retryable_error() -> None:
    with pytest.raises(BlueprintNotPublishedError):
        require_published(None)
