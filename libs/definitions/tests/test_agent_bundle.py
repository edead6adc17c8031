"""Bundles are read into one canonical form, and every error is reported with file, line and reason."""

from pathlib import Path

import pytest
from paybill_contracts.event import canonical, digest
from paybill_definitions.agent_bundle import BundleFileError, read_bundle
from paybill_definitions.blueprints_file import read_blueprint

EXAMPLE = Path(__file__).parents[3] / "examples/support-agent"
BLUEPRINT = read_blueprint((EXAMPLE / "blueprints.yaml").read_text(encoding="utf-8"), "blueprints.yaml").content
FILES = {path.name: path.read_text(encoding="utf-8") for path in (EXAMPLE / "agents").iterdir()}


def refused(name: str, old: str, new: str) -> str:
    """Returns the errors of the example with `old` replaced in one file."""
    assert old in FILES[name]
    with pytest.raises(BundleFileError) as error:
        read_bundle(FILES | {name: FILES[name].replace(old, new)}, BLUEPRINT)
    return str(error.value)


def test_the_example_is_a_bundle_with_its_defaults_written_out() -> None:
    bundle = read_bundle(FILES, BLUEPRINT)

    assert [each.name for each in bundle.resources] == ["customers", "orders", "refunds", "tickets"]
    assert [each.id for each in bundle.grants] == ["reads", "refunds up to 50.00"]
    assert bundle.grants[0].columns["customers"] == ("id", "name")
    (workflow,) = bundle.workflows
    assert [(step.name, step.next) for step in workflow.steps] == [
        ("ticket", "order"),
        ("order", "propose"),
        ("propose", "end"),
    ]


def test_the_hash_does_not_depend_on_the_order_of_files_keys_and_comments() -> None:
    resources = "".join(f"{each}\n" for each in reversed(FILES["resources.yaml"].splitlines()))
    grants = "".join(f"{each};\n" for each in reversed(FILES["grants.cedar"].rstrip().rstrip(";").split(";\n")))
    files = {"x.yaml": f"# a comment\n{FILES['refund.yaml']}", "grants.cedar": grants, "resources.yaml": resources}

    bundle = read_bundle(files, BLUEPRINT)

    assert digest(bundle) == digest(read_bundle(FILES, BLUEPRINT))
    assert type(bundle).model_validate_json(canonical(bundle.model_dump(mode="json"))) == bundle


def test_cedar_outside_the_subset_is_refused_with_its_line() -> None:
    message = refused("grants.cedar", "resource.amount > 0", "resource.amount + 1 > 0")

    assert message == "grants.cedar:3: arithmetic is outside the subset; docs/grants.md lists what a condition may use"
