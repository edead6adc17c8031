"""Publication of blueprints: the newest version stays in force."""

import pytest
from blueprint_samples import DOCUMENTS, blueprint_of, published, tier_blueprint, with_version
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.event import digest
from paybill_contracts.kinds import Column, Table
from paybill_contracts.placement import Preset
from paybill_provisioner.domain.blueprints import (
    BlueprintNotPublishedError,
    BlueprintVersionError,
    InvalidBlueprintError,
    UnknownRegionError,
    UnknownTierError,
    definition_of,
    evolve,
    publish,
    publish_first,
    require_published,
)

STARTER = tier_blueprint("starter", Preset.POOLED)
BLUEPRINT = blueprint_of(STARTER, regions=("eu-central", "us-east"))
NEXT = BLUEPRINT.model_copy(update={"version": 2, "regions": ("us-east",)})


def test_publishing_a_blueprint_records_its_content_and_hash() -> None:
    (event,) = publish(None, BLUEPRINT)

    assert (event.blueprint, event.content, event.content_hash) == ("main", BLUEPRINT, digest(BLUEPRINT))


def test_publishing_the_same_blueprint_again_records_nothing() -> None:
    assert publish(published(BLUEPRINT), BLUEPRINT) == []


def test_a_newer_version_replaces_the_one_in_force() -> None:
    (event,) = publish(published(BLUEPRINT), NEXT)

    after = evolve(published(BLUEPRINT), event)
    assert [each.name for each in after.in_force] == ["standard@2"]
    assert [(each.name, each.version) for each in after.earlier] == [("standard", 1)]


def test_several_blueprints_are_in_force_and_the_fact_names_all_regions_and_tiers() -> None:
    other = blueprint_of(tier_blueprint("vast", Preset.SILO), regions=("ap-south",)).model_copy(update={"name": "vast"})
    (event,) = publish(published(BLUEPRINT), other)
    after = evolve(published(BLUEPRINT), event)

    assert [each.name for each in after.in_force] == ["standard@1", "vast@1"]
    assert event.known_regions == {"eu-central", "us-east", "ap-south"}
    assert [(each.tier, each.placement) for each in event.known_tiers] == [("starter", "pooled"), ("vast", "silo")]
    assert definition_of(after, "vast", Preset.SILO, "ap-south")[0].content == other
    with pytest.raises(UnknownRegionError, match="vast@1 builds nothing in us-east, only in ap-south"):
        definition_of(after, "vast", Preset.SILO, "us-east")


def test_a_tier_has_one_definition() -> None:
    other = BLUEPRINT.model_copy(update={"name": "other"})

    with pytest.raises(InvalidBlueprintError, match=r"the blueprint standard has the tier starter \(pooled\)"):
        publish(published(BLUEPRINT), other)


@pytest.mark.parametrize("other", [BLUEPRINT, NEXT.model_copy(update={"regions": ("eu-central",)})])
def test_another_content_needs_a_newer_version(other: Blueprint) -> None:
    with pytest.raises(BlueprintVersionError, match="standard@2 is in force; write `version: 3`"):
        publish(published(NEXT), other)


def test_a_start_publishes_only_the_first_blueprint() -> None:
    assert len(publish_first(None, BLUEPRINT)) == 1
    assert publish_first(published(NEXT), BLUEPRINT) == publish_first(published(BLUEPRINT), NEXT) == []


def test_a_blueprint_that_cannot_be_built_is_refused() -> None:
    moon = BLUEPRINT.model_copy(update={"tiers": (STARTER.model_copy(update={"cloud": "moon"}),)})

    with pytest.raises(InvalidBlueprintError, match="no driver for moon"):
        publish(None, moon)


def test_the_next_version_keeps_tables_columns_types_and_keys() -> None:
    """PostgreSQL would keep the old type, and a key of a table with data cannot change."""
    other = DOCUMENTS.model_copy(
        update={"columns": (Column(name="key", type="text"), Column(name="id", type="bigint"))}
    )
    changed = BLUEPRINT.model_copy(update={"version": 2, "tables": (other,)})

    with pytest.raises(InvalidBlueprintError) as refused:
        publish(published(BLUEPRINT), changed)
    assert [each.reason for each in refused.value.diagnostics] == [
        "the key of documents is id and cannot change",
        "documents.id is text and cannot become bigint",
        "documents.body is gone; Paybill removes no column",
    ]


def test_a_column_of_a_published_table_cannot_become_required_and_can_become_optional() -> None:
    key, body = DOCUMENTS.columns
    required = DOCUMENTS.model_copy(update={"columns": (key, body.model_copy(update={"required": True}))})
    title = Column(name="title", type="text", required=True)
    wider = DOCUMENTS.model_copy(update={"columns": (*DOCUMENTS.columns, title)})
    optional, strict = (blueprint_of(STARTER, tables=(each,)) for each in (DOCUMENTS, required))

    for table, column in ((required, "body"), (wider, "title")):
        with pytest.raises(InvalidBlueprintError, match=f"documents.{column} cannot become required"):
            publish(published(optional), blueprint_of(STARTER, tables=(table,), version=2))
    assert publish(published(strict), blueprint_of(STARTER, tables=(DOCUMENTS,), version=2))


def test_the_next_version_keeps_the_attributes_and_tables_of_a_tier_that_is_built() -> None:
    """A publication was accepted that no tenant of the tier could follow: database.main {version: 18}."""
    notes = Table(name="notes", columns=DOCUMENTS.columns)
    before = blueprint_of(
        tier_blueprint("starter", Preset.POOLED, tables=(DOCUMENTS, notes)), tables=(DOCUMENTS, notes)
    )
    other = with_version(tier_blueprint("starter", Preset.BRIDGE), 18)
    changed = blueprint_of(with_version(STARTER, 18), other, tables=(DOCUMENTS, notes), version=2)

    with pytest.raises(InvalidBlueprintError) as refused:
        publish(published(before), changed)
    assert [(each.path, each.reason) for each in refused.value.diagnostics] == [
        (
            ("tiers", 0, "resources", 2, "version"),
            "database.main: version is not set and cannot become 18 where it is built; add another tier for it",
        ),
        (
            ("tiers", 0, "resources", 3, "tables"),
            "schema.main: the table notes is gone; Paybill removes no table",
        ),
    ]


@pytest.mark.parametrize(
    "tables",
    [
        (DOCUMENTS.model_copy(update={"columns": (*DOCUMENTS.columns, Column(name="xmin", type="text"))}),),
        (DOCUMENTS, Table(name="notes", columns=(Column(name="ctid", type="text"),))),
        (DOCUMENTS, Table(name="pg_class", columns=DOCUMENTS.columns)),
        (DOCUMENTS, Table(name="documents_pkey", columns=DOCUMENTS.columns)),
    ],
)
def test_what_an_earlier_version_of_paybill_accepted_and_no_database_builds_can_be_removed(tables) -> None:
    stuck = BLUEPRINT.model_copy(update={"tables": tables})
    repaired = BLUEPRINT.model_copy(update={"version": 2})

    with pytest.raises(InvalidBlueprintError):
        publish(None, stuck)
    assert [each.content for each in publish(published(stuck), repaired)] == [repaired]


def test_a_tier_is_found_by_its_name_and_placement() -> None:
    assert definition_of(published(BLUEPRINT), "starter", Preset.POOLED, "us-east")[1] is STARTER


@pytest.mark.parametrize(("tier", "preset"), [("gold", Preset.POOLED), ("starter", Preset.SILO)])
def test_a_tier_missing_from_every_blueprint_is_refused(tier: str, preset: Preset) -> None:
    with pytest.raises(UnknownTierError, match=r"only starter \(pooled\)"):
        definition_of(published(BLUEPRINT), tier, preset, "us-east")


def test_a_missing_blueprint_is_a_retryable_error() -> None:
    with pytest.raises(BlueprintNotPublishedError):
        require_published(None)
