"""Errors of a blueprint are reported with file, line and reason before anything is touched."""

import re
from pathlib import Path

import pytest
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.event import decode, digest
from paybill_contracts.kinds import KINDS, LAYERS, Change, KindAttributes, Role, meanings
from paybill_contracts.placement import Isolation
from paybill_definitions.blueprint_differences import differences
from paybill_definitions.blueprints_file import BlueprintFileError, read_blueprint
from paybill_definitions.resources import Values, render

DOCUMENT = Path(__file__).parents[3] / "docs/blueprints.md"
SHIPPED = Path(__file__).parents[3] / "services/provisioner/src/paybill_provisioner/blueprints.yaml"
BLUEPRINT = """\
name: standard
version: 1
regions: [eu-central]
cells:
  - {isolation: pool, count: 1, capacity: 100}
tables:
  - name: documents
    columns:
      - {name: id, type: text}
      - {name: body, type: jsonb}
tiers:
  - tier: starter
    placement: pooled
    cloud: local
    resources:
      - {resource: database.main}
      - {resource: schema.main, in_database: database.main, tables: [documents]}
      - {resource: role.main, in_schema: schema.main, connection_limit: 10}
"""


def reasons(text: str) -> str:
    with pytest.raises(BlueprintFileError) as error:
        read_blueprint(text, "b.yaml")
    return str(error.value)


def test_the_shipped_blueprint_has_every_preset_and_region() -> None:
    content = read_blueprint(SHIPPED.read_text(encoding="utf-8"), "blueprints.yaml").content

    assert [tier.placement for tier in content.tiers] == ["pooled", "bridge", "silo"]
    assert {each.isolation for each in content.cells} == {Isolation.POOL, Isolation.BRIDGE}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("database.main}", "databse.main}", "b.yaml:16: databse.main: write `<kind>.<name>` with one of the kinds"),
        (
            "connection_limit: 10",
            "limit: 10",
            "b.yaml:18: role.main.limit: a role has no such attribute, only in_schema",
        ),
        (
            "connection_limit: 10",
            "connection_limit: ten",
            "b.yaml:18: role.main.connection_limit: write a whole number",
        ),
        ("connection_limit: 10", "connection_limit: 0", "b.yaml:18: role.main.connection_limit: write 1 or more"),
        ("connection_limit: 10", "connection_limit: 1.5", "b.yaml:18: role.main.connection_limit: write text"),
        ("connection_limit: 10", 'connection_limit: "${plan}"', "b.yaml:18: role.main.connection_limit: "),
        ("connection_limit: 10", 'connection_limit: "$10"', "b.yaml:18: role.main.connection_limit: "),
        ("connection_limit: 10", "connection_limit: 10, name: x", "b.yaml:18: role.main.name: it follows from tenant"),
        ("[documents]", "[docs]", "b.yaml:17: schema.main.tables: there is no table docs, only documents"),
        ("in_database: database.main", "in_database: database.two", "b.yaml:17: schema.main needs database.two, which"),
        ("database.main}", "database.main, in_network: role.main}", "b.yaml:16: these need each other: "),
        ("database.main}", "network.main, cidr: 10.0.0.0/16}", "b.yaml:16: the driver for local builds no network"),
        ("cloud: local", "cloud: moon", "b.yaml:14: there is no driver for moon, only local"),
        ("isolation: pool", "isolation: bridge", "b.yaml:12: the layer data is pool, and `cells` has none"),
        ("isolation: pool", "isolation: silo", "b.yaml:5: a silo is not shared"),
        ("capacity: 100", "capacity: 9007199254740991", "b.yaml:5: cells.0.capacity: write 1000000000000000 or less"),
        ("count: 1", f"count: {10**30}", "b.yaml:5: cells.0.count: the number has more than 53 bits"),
        ("limit: 10", f"limit: {2**64}", "b.yaml:18: tiers.0.resources.2.connection_limit: the number has more than"),
        ("capacity: 100", "capacity: 1001", "b.yaml:5: a cell has 1 to 1000 tenants"),
        (
            "tables:\n  - name: documents",
            "tables:\n  - name: documents\n    columns: [{name: id, type: text}]\n  - name: documents",
            "b.yaml:9: the table documents is defined twice",
        ),
        ("[eu-central]", "[eu-central, eu_central]", "b.yaml:3: the region eu_central is defined twice"),
        ("[eu-central]", f"[{'r' * 41}]", "is longer than 40; shorten it"),
        ("regions: [eu-central]", "regions: []", "b.yaml:3: a blueprint needs at least one of the regions"),
        ("name: id,", "name: tenant_id,", "b.yaml:9: tenant_id is the first column of every table"),
        *(
            ("name: body", f"name: {name}", f"b.yaml:10: {name} is a system column of PostgreSQL; choose another name")
            for name in ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")
        ),
        ("name: documents", "name: pg_class", "b.yaml:7: pg_class: names with pg_ are PostgreSQL's own"),
        (
            "tables:\n  - name: documents",
            "tables:\n  - name: documents_pkey\n    columns: [{name: id, type: text}]\n  - name: documents",
            "b.yaml:7: the key of documents has an index named documents_pkey; choose another name",
        ),
        ("type: jsonb", "type: money", "b.yaml:10: body has the type money, not one of"),
        ("type: jsonb}", "type: jsonb, required: maybe}", "b.yaml:10: "),
        ("{name: id, type: text}", "{name: id, type: jsonb}", "b.yaml:9: the first column is the key, one of"),
        ("name: body", "name: id", "b.yaml:10: the column of documents id is defined twice"),
        ("resource: role.main", "resource: schema.main", "b.yaml:18: the resource schema.main is defined twice"),
        ("resource: role.main", f"resource: role.{'x' * 40}", "63 bytes at most"),
        ("version: 1\n", "", "b.yaml:1: version: it is required"),
        ("version: 1", "version: 1\nregoins: [b]", "b.yaml:3: regoins: there is no such field"),
    ],
)
def test_an_error_is_reported_with_its_line(old: str, new: str, message: str) -> None:
    assert old in BLUEPRINT

    assert message in reasons(BLUEPRINT.replace(old, new))


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "{name: x, 1: y}", "a: &a [*a]", "!!python/object/apply:os.system [x]"]
)
def test_a_file_of_another_shape_is_refused(text: str) -> None:
    assert reasons(text).startswith("b.yaml:1: ")


def test_one_layer_can_differ_from_the_preset() -> None:
    text = BLUEPRINT.replace("placement: pooled", "placement: pooled\n    layers: {storage: silo}")
    (tier,) = read_blueprint(text, "b.yaml").content.tiers

    assert (tier.layers.data, tier.layers.storage) == (Isolation.POOL, Isolation.SILO)


def test_a_column_can_be_required_and_the_hash_of_a_file_without_one_stays() -> None:
    optional = read_blueprint(BLUEPRINT, "b.yaml").content
    required = read_blueprint(BLUEPRINT.replace("type: jsonb", "type: jsonb, required: true"), "b.yaml").content

    assert [column.required for column in required.tables[0].columns] == [False, True]
    assert "required" not in str(optional.model_dump(mode="json"))
    assert digest(optional) != digest(required)
    assert [(each.change, each.before, each.after) for each in differences(optional, required)] == [
        ("column body", "jsonb", "jsonb required")
    ]


def test_every_resource_has_a_name_of_its_own() -> None:
    text = BLUEPRINT.replace(
        "  - {resource: database.main}", "  - {resource: database.main}\n      - {resource: bucket.files}"
    )
    content = read_blueprint(text, "b.yaml").content
    tenant = "ten_" + "1" * 32
    found = {each.address: each for each in render(content, content.tiers[0], Values(tenant, "acme", "eu-central"))}

    assert found["bucket.files"].attributes.name == f"eu-central/pool/t_{'1' * 32}/files"


def test_a_blueprint_of_version_1_of_the_fact_has_the_same_resources() -> None:
    """Facts before typed kinds had one set of five resources."""
    payload = (
        b'{"blueprint":"main","content_hash":"'
        + b"a" * 64
        + b'","content":{"name":"standard","regions":["eu-central"],'
        b'"tiers":[{"tier":"starter","placement":"pooled","cloud":"local","connection_limit":7}],'
        b'"tables":[{"name":"documents","columns":[{"name":"id","type":"text"}]}]}}'
    )
    event = decode("provisioner.blueprint_published", 1, payload)
    assert isinstance(event, BlueprintPublished)
    (tier,) = event.content.tiers
    resources = render(event.content, tier, Values("ten_" + "1" * 32, "acme", "eu-central"))

    assert (event.content.version, len(digest(event.content))) == (0, 64)
    assert {each.address for each in resources} == {
        "secret.database",
        "bucket.data",
        "database.main",
        "schema.main",
        "role.main",
    }


def test_the_documented_file_is_a_blueprint() -> None:
    (file,) = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    content = read_blueprint(file, "documented").content

    assert content.tiers[0].layers.storage is Isolation.SILO
    values = Values("ten_" + "1" * 32, "acme", "eu-central", {"connections": 12})
    role = render(content, content.tiers[0], values)[-1].attributes
    assert isinstance(role, Role)
    assert role.connection_limit == 12


CHANGES = [change for change in Change if change is not Change.REBUILD]
"""Changes of what an author writes: what is rebuilt is the form of tables, which is derived."""


def test_the_documented_kinds_have_the_attributes_and_outputs_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| `\w+` \|.*$", text, re.MULTILINE)
    ]
    documented = {
        row[0].strip("`"): (row[1], *(sorted(re.findall(r"`(\w+)`", cell)) for cell in row[2:]))
        for row in rows
        if row[0].strip("`") in KINDS
    }

    def named(kind: type[KindAttributes], change: Change) -> list[str]:
        return sorted(name for name, meaning in meanings(kind) if meaning.change is change and not meaning.derived)

    assert documented == {
        name: (LAYERS[name], *(named(kind, change) for change in CHANGES), sorted(kind.OUTPUTS))
        for name, kind in KINDS.items()
    }
