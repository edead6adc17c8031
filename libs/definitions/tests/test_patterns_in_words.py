"""Errors of definition files never show a regular expression, which their authors cannot read."""

import json
import re

import pytest
from paybill_contracts.inputs import PlainText
from paybill_contracts.validation_messages import plain_message
from paybill_definitions import blueprints_file, plans_file, policy_file, price_book_file
from paybill_definitions.blueprints_file import BlueprintFileError, read_blueprint
from pydantic import TypeAdapter

PLAIN = TypeAdapter(PlainText).json_schema()["pattern"]
LONG = "r" * 80
FILE = """\
name: standard
version: 1
regions: [eu-central]
tables:
  - name: documents
    columns: [{name: id, type: text}]
tiers:
  - {tier: starter, placement: pooled, cloud: local, resources: [{resource: bucket.data}]}
"""


@pytest.mark.parametrize(
    ("old", "line", "where"),
    [("eu-central", 3, "regions.0"), ("documents", 5, "tables.0.name"), ("starter", 8, "tiers.0.tier")],
)
def test_a_name_that_is_too_long_is_refused_in_words(old: str, line: int, where: str) -> None:
    with pytest.raises(BlueprintFileError) as refused:
        read_blueprint(FILE.replace(old, LONG), "b.yaml")

    words = "write 1 to 63 of a-z, 0-9, dash and underscore, beginning with a letter"
    assert f"b.yaml:{line}: {where}: {words}" in str(refused.value).splitlines()


@pytest.mark.parametrize(
    "module", [blueprints_file, plans_file, policy_file, price_book_file], ids=lambda each: each.__name__
)
def test_every_pattern_of_a_file_has_words(module) -> None:
    schema = json.dumps(module._File.model_json_schema())
    patterns = {json.loads(found) for found in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schema)}
    patterns.discard(PLAIN)  # its message names the character
    errors = [{"type": "string_pattern_mismatch", "msg": each, "ctx": {"pattern": each}} for each in patterns]

    assert [each["msg"] for each in errors if not plain_message(each).startswith("write ")] == []
