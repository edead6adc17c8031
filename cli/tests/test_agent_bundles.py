"""Tests of `paybill agent init | check`: the folder of a bundle, without a stack and with one."""

import shutil
from pathlib import Path

import pytest
from paybill_cli.exit_codes import ExitCode

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-agent"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Returns a copy of the example."""
    shutil.copytree(EXAMPLE, tmp_path / "product")
    return tmp_path / "product"


def test_init_writes_every_table_and_the_result_is_valid(paybill, product: Path) -> None:
    labelled = product / "agents" / "resources.yaml"
    labelled.unlink()

    done = paybill("agent", "init", product / "agents", "--json")

    assert done.data == {
        "file": str(labelled),
        "blueprint": "support-agent@1",
        "tables": "tickets, orders, customers, refunds",
    }
    assert "tickets:   {}  # id text (key), order_id text, customer_id text" in labelled.read_text()
    assert "untrusted: other people write it" in labelled.read_text()
    assert paybill("agent", "check", product / "agents", "--data-dir", product).code == ExitCode.OK


def test_init_never_overwrites(paybill, product: Path) -> None:
    path = product / "agents" / "resources.yaml"
    before = path.read_text()

    refused = paybill("agent", "init", product / "agents")

    assert (refused.code, path.read_text()) == (ExitCode.USAGE, before)
    assert "is not overwritten" in refused.err


def test_a_valid_bundle_has_its_hash_without_a_stack_too(paybill, product: Path) -> None:
    done = paybill("agent", "check", product / "agents", "--data-dir", product, "--json")

    assert (done.code, done.data["blueprint"], done.data["workflows"]) == (ExitCode.OK, "support-agent@1", "refund")
    assert (len(done.data["content_hash"]), done.data["drift"]) == (64, [])
    assert "not compared with a stack: no stack runs on" in done.err


def test_errors_of_a_bundle_are_lines_with_file_and_line(paybill, product: Path) -> None:
    grants = product / "agents" / "grants.cedar"
    grants.write_text(grants.read_text().replace("resource.amount > 0", "resource.amont > 0"))

    refused = paybill("agent", "check", product / "agents", "--data-dir", product)

    assert refused.code == ExitCode.FAILED
    assert refused.out.startswith(f"{grants}:3: ")
    assert "amont" in refused.out
    assert "error[invalid_bundle]" in refused.err


@pytest.mark.parametrize(("command", "folder"), [("check", "missing"), ("check", "")], ids=["missing", "empty"])
def test_a_folder_without_a_bundle_is_an_error_with_a_next_step(paybill, product: Path, command, folder) -> None:
    (product / "empty").mkdir()

    refused = paybill("agent", command, product / (folder or "empty"), "--data-dir", product)

    assert refused.code == ExitCode.USAGE
    assert "  next  paybill agent init " in refused.err


@pytest.mark.e2e
def test_a_bundle_of_another_blueprint_than_that_in_force_is_drift(on_stack, product: Path) -> None:
    blueprint = product / "blueprints.yaml"
    blueprint.write_text(blueprint.read_text().replace("name: support-agent", "name: standard"))

    done = on_stack("agent", "check", product / "agents", "--json")

    assert done.code == ExitCode.FAILED
    assert [each["where"] for each in done.data["drift"]] == ["blueprint standard"]


@pytest.mark.e2e
def test_init_reads_the_blueprint_in_force(on_stack, tmp_path: Path) -> None:
    done = on_stack("agent", "init", tmp_path / "agents")

    assert done.code == ExitCode.OK, done.err
    assert "documents: {}  # id text (key), body jsonb" in (tmp_path / "agents" / "resources.yaml").read_text()
