"""Blueprints as the shipped one: five resources for each tier, on the local driver."""

from collections.abc import Sequence

from paybill_contracts.blueprints import Blueprint, CellGroup, ResourceDefinition, TierBlueprint
from paybill_contracts.event import digest
from paybill_contracts.kinds import Column, Table
from paybill_contracts.placement import Isolation, Preset, placement_of
from paybill_provisioner.domain import cells
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, Blueprints, PublishedBlueprint
from paybill_provisioner.domain.cells import Cells

DOCUMENTS = Table(name="documents", columns=(Column(name="id", type="text"), Column(name="body", type="jsonb")))
CELLS = tuple(CellGroup(isolation=level, count=1, capacity=1000) for level in (Isolation.POOL, Isolation.BRIDGE))


def tier_blueprint(
    tier: str,
    preset: Preset,
    connection_limit: int | str = 5,
    tables: Sequence[Table] = (DOCUMENTS,),
    *,
    at_once: bool = True,
) -> TierBlueprint:
    """Returns a tier with a database, files and a login."""
    return TierBlueprint(
        tier=tier,
        placement=preset,
        layers=placement_of(preset),
        cloud="local",
        credentials_at_once=at_once,
        resources=(
            ResourceDefinition(address="secret.database", attributes={}),
            ResourceDefinition(address="bucket.data", attributes={}),
            ResourceDefinition(address="database.main", attributes={}),
            ResourceDefinition(
                address="schema.main",
                attributes={"in_database": "database.main", "tables": tuple(table.name for table in tables)},
            ),
            ResourceDefinition(
                address="role.main",
                attributes={
                    "in_schema": "schema.main",
                    "secret": "secret.database",
                    "connection_limit": connection_limit,
                },
            ),
        ),
    )


def with_version(tier: TierBlueprint, version: int) -> TierBlueprint:
    """Returns a tier whose database has this version."""
    database = ResourceDefinition(address="database.main", attributes={"version": version})
    resources = tuple(database if each.address == database.address else each for each in tier.resources)
    return tier.model_copy(update={"resources": resources})


def blueprint_of(
    *tiers: TierBlueprint,
    regions: Sequence[str] = ("eu-central",),
    tables: Sequence[Table] = (DOCUMENTS,),
    version: int = 1,
) -> Blueprint:
    """Returns a blueprint with these tiers."""
    return Blueprint(
        name="standard", version=version, regions=tuple(regions), cells=CELLS, tiers=tiers, tables=tuple(tables)
    )


def published(*contents: Blueprint) -> Blueprints:
    """Returns the blueprints as those in force."""
    in_force = tuple(PublishedBlueprint(content=each, content_hash=digest(each)) for each in contents)
    return Blueprints(id=BLUEPRINT_ID, in_force=in_force)


def cells_of(*contents: Blueprint) -> dict[Isolation, Cells | None]:
    """Returns the cells of blueprints, without tenants."""
    found: dict[Isolation, Cells | None] = {}
    for level in cells.SHARED:
        found[level] = None
        for event in cells.opened(None, level, contents, {}):
            found[level] = cells.evolve(found[level], event)
    return found


def blueprint_text(region: str, version: int = 1, credentials: str = "at_once", **tiers: str) -> str:
    """Returns a blueprint file with a region, one tier for each placement, and more tiers with their placements."""
    known = {"starter": "pooled", "team": "bridge", "business": "silo"} | tiers
    resources = """
    resources:
      - {resource: secret.database}
      - {resource: bucket.data}
      - {resource: database.main}
      - {resource: schema.main, in_database: database.main, tables: [documents]}
      - {resource: role.main, in_schema: schema.main, secret: secret.database, connection_limit: 5}"""
    return f"""
name: test
version: {version}
regions: [{region}]
cells: [{{isolation: pool, count: 1, capacity: 1000}}, {{isolation: bridge, count: 1, capacity: 1000}}]
tables: [{{name: documents, columns: [{{name: id, type: text}}, {{name: body, type: jsonb}}]}}]
tiers:""" + "".join(
        f"\n  - tier: {tier}\n    placement: {placement}\n    cloud: local\n    credentials: {credentials}{resources}"
        for tier, placement in known.items()
    )
