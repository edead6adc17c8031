"""`paybill cell` and `paybill blueprint show` on a real stack."""

import pytest
from paybill_cli.exit_codes import ExitCode

CELL = "bridge-us-east-1"
"""No other test places a tenant in this cell."""


@pytest.fixture
def drained(on_stack):
    """Drains the cell, and lets it take tenants again at the end."""
    yield on_stack("cell", "drain", CELL, "--reason", "another server", "--json")
    undone = on_stack("cell", "drain", CELL, "--reason", "it runs", "--undo", "--json")
    assert (undone.data["drained"], undone.data["free"]) == (None, undone.data["capacity"])


def test_a_drained_cell_is_listed_with_its_reason(on_stack, drained) -> None:
    listed = on_stack("cell", "list", "--region", "us-east", "--json")
    people = on_stack("cell", "list", "--region", "us-east")
    shown = on_stack("blueprint", "show", "standard")

    assert (drained.code, drained.data["drained"], drained.data["free"]) == (ExitCode.OK, "another server", 0)
    assert {each["id"]: each["drained"] for each in listed.data} == {"pool-us-east-1": None, CELL: "another server"}
    assert people.out.startswith("cell\tisolation\tregion\ttenants\tcapacity\tfree\tdrained")
    assert f"cell {CELL}: 0 of 200 tenants, drained: another server" in shown.out


def test_a_dry_run_drains_nothing(on_stack) -> None:
    done = on_stack("cell", "drain", "pool-us-east-1", "--reason", "another server", "--dry-run")
    listed = on_stack("cell", "list", "--region", "us-east", "--json")

    assert done.code == ExitCode.OK
    assert "would record: " in done.out
    assert [each["drained"] for each in listed.data if each["id"] == "pool-us-east-1"] == [None]


def test_an_unknown_cell_is_not_found(on_stack) -> None:
    done = on_stack("cell", "drain", "pool-us-east-9", "--reason", "another server", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, "cell_unknown")
    assert done.error["next"] == "paybill cell list"
