"""Wrong blueprints and missing credentials are refused with place and reason, before anything is recorded."""

import re
from pathlib import Path
from typing import Any

import pytest
from blueprint_samples import blueprint_text
from paybill_provisioner.app import service
from paybill_runtime.settings import ConfigurationError

YAML = {"Content-Type": "application/yaml"}
REFUSED = (
    ("a cycle", "database.main}", "database.main, in_network: role.main}", "these need each other: "),
    ("a missing need", "in_database: database.main", "in_database: database.two", "needs database.two, which"),
    ("an unknown kind", "bucket.data", "buckets.data", "write `<kind>.<name>` with one of the kinds"),
    ("an unknown attribute", "connection_limit: 5", "limit: 5", "a role has no such attribute"),
    (
        "an unknown expression",
        "connection_limit: 5",
        'connection_limit: "${plan.name}"',
        "role.main.connection_limit: ",
    ),
    ("a wrong type", "connection_limit: 5", "connection_limit: five", "write a whole number"),
    (
        "two tables of one name",
        "tables: [{",
        "tables: [{name: documents, columns: [{name: id, type: text}]}, {",
        "twice",
    ),
    ("two regions of one name", "regions: [", "regions: [a_b, a-b, ", "the region a_b is defined twice"),
    ("a cloud without a driver", "cloud: local", "cloud: moon", "there is no driver for moon, only local"),
    (
        "a kind without a driver",
        "bucket.data",
        "network.data, cidr: 10.0.0.0/16",
        "the driver for local builds no network",
    ),
    ("a long name", "role.main", f"role.{'x' * 40}", "63 bytes at most"),
    ("another type of a column", "type: jsonb", "type: text", "documents.body is jsonb and cannot become text"),
    (
        "another key",
        "{name: id, type: text}, {name: body, type: jsonb}",
        "{name: body, type: text}",
        "documents.id is gone",
    ),
    ("a table that is gone", "name: documents", "name: files", "the table documents is gone"),
)
"""Name of each fault, the change of a correct file, and the reason."""


async def test_a_wrong_blueprint_is_refused_with_place_and_reason(provisioner: Any, harness: Any, log: Any) -> None:
    good = blueprint_text(harness.region, 2)
    for what, old, new, reason in REFUSED:
        text = good.replace("tables: [documents]", "tables: [files]") if "name: files" in new else good
        assert old in text, what
        answer = await provisioner.client.post(
            "/v1/blueprints", content=text.replace(old, new), headers=YAML, params={"file": "b.yaml"}
        )
        found = answer.json()

        assert (answer.status_code, found["code"]) == (422, "invalid_blueprint"), what
        assert re.match(r"b\.yaml:[0-9]+: ", found["detail"]), (what, found["detail"])
        assert reason in found["detail"], (what, found["detail"])
    assert len(await log.facts("provisioner.blueprint_published")) == 1


async def test_a_cloud_without_its_credentials_is_named_at_the_start(start: Any, settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the secret file no-such-file cannot be read"):
        await start(service(), **(settings | {"local_database_password_file": tmp_path / "no-such-file"}))
