"""Tests of `paybill agent init | check | diff | publish`: the folder of a bundle, without a stack and with one."""

import json
import shutil
from pathlib import Path
from typing import Any

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
        "tables": ["tickets", "orders", "customers", "refunds"],
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

    assert (done.code, done.data["blueprint"], done.data["workflows"]) == (ExitCode.OK, "support-agent@1", ["refund"])
    assert (len(done.data["content_hash"]), done.data["drift"]) == (64, [])
    assert "not compared with a stack: no stack runs on" in done.err
    assert "live tables were not compared" in done.err


def test_errors_of_a_bundle_are_lines_with_file_and_line(paybill, product: Path) -> None:
    grants = product / "agents" / "grants.cedar"
    grants.write_text(grants.read_text().replace("resource.amount > 0", "resource.amont > 0"))

    refused = paybill("agent", "check", product / "agents", "--data-dir", product)

    assert refused.code == ExitCode.FAILED
    assert refused.out.startswith(f"{grants}:3: ")
    assert "amont" in refused.out
    assert "error[invalid_bundle]" in refused.err


def test_errors_of_a_bundle_have_file_line_and_reason_as_json(paybill, product: Path) -> None:
    folder = product / "agents"
    (folder / "close.yml").write_text("workflow: close\n")
    (folder / ".refund.yaml.swp").write_bytes(b"\xff")
    (folder / "notes.txt").write_bytes(b"\xff")

    refused = paybill("agent", "check", folder, "--data-dir", product, "--json")

    flaws = [json.loads(each)["data"] for each in refused.out.splitlines()]
    assert refused.code == ExitCode.FAILED
    assert [(each["file"], each["line"]) for each in flaws] == [
        (f"{folder}/close.yml", 1),
        (f"{folder}/notes.txt", 1),
    ]
    assert flaws[0]["reason"] == "the suffix is .yaml; rename it to close.yaml"


def test_a_file_that_cannot_be_read_is_an_error_beside_the_others(paybill, product: Path) -> None:
    folder = product / "agents"
    (folder / "binary.yaml").write_bytes(b"# first\n\xff\xfe")
    (folder / "huge.yaml").write_text("#" * (512 * 1024 + 1))
    (folder / "nested.yaml").mkdir()
    workflow = folder / "refund.yaml"
    workflow.write_text(workflow.read_text().replace("read: orders", "read: order"))

    refused = paybill("agent", "check", folder, "--data-dir", product, "--json")

    flaws = [json.loads(each)["data"] for each in refused.out.splitlines()]
    assert refused.code == ExitCode.FAILED
    assert [(Path(each["file"]).name, each["line"]) for each in flaws[:3]] == [
        ("binary.yaml", 2),
        ("huge.yaml", 1),
        ("nested.yaml", 1),
    ]
    assert "the file is not UTF-8" in flaws[0]["reason"]
    assert "larger than 524288 bytes" in flaws[1]["reason"]
    assert {Path(each["file"]).name for each in flaws[3:]} == {"refund.yaml"}


@pytest.mark.parametrize("name", ["resources.yaml", "grants.cedar"])
def test_a_labels_or_grants_file_that_cannot_be_read_is_one_error(paybill, product: Path, name: str) -> None:
    (product / "agents" / name).write_bytes(b"\xff\xfe")

    refused = paybill("agent", "check", product / "agents", "--data-dir", product)

    assert refused.code == ExitCode.FAILED
    assert [each.partition(": ")[0] for each in refused.out.splitlines()] == [f"{product / 'agents' / name}:1"]


def test_without_a_stack_and_a_blueprint_the_next_step_names_the_option(paybill, product: Path) -> None:
    (product / "blueprints.yaml").unlink()

    refused = paybill("agent", "check", product / "agents", "--data-dir", product)

    assert refused.code == ExitCode.UNREACHABLE
    assert "--blueprint FILE" in refused.err


@pytest.mark.parametrize(("command", "folder"), [("check", "missing"), ("check", "")], ids=["missing", "empty"])
def test_a_folder_without_a_bundle_is_an_error_with_a_next_step(paybill, product: Path, command, folder) -> None:
    (product / "empty").mkdir()

    refused = paybill("agent", command, product / (folder or "empty"), "--data-dir", product)

    assert refused.code == ExitCode.USAGE
    assert "  next  paybill agent init " in refused.err


@pytest.mark.e2e
def test_a_bundle_is_checked_against_the_blueprint_in_force(on_stack, product: Path) -> None:
    blueprint = product / "blueprints.yaml"
    blueprint.write_text(blueprint.read_text().replace("name: support-agent", "name: standard"))

    done = on_stack("agent", "check", product / "agents")
    drifted = on_stack("agent", "check", product / "agents", "--blueprint", blueprint, "--json")

    assert done.code == ExitCode.FAILED
    assert "the blueprint standard has no table tickets" in done.out
    assert f"publish it first: paybill blueprint publish {blueprint}" in done.err
    assert drifted.code == ExitCode.FAILED
    assert "compared with the stack at http" in drifted.err
    assert f"next: paybill blueprint publish {blueprint}, or repeat the check without --blueprint" in drifted.err
    assert "environment drift" not in drifted.err
    assert {each["where"] for each in drifted.data["drift"]} == {"blueprint standard"}
    assert "standard has no table tickets" in [each["difference"] for each in drifted.data["drift"]]


@pytest.mark.e2e
def test_init_reads_the_blueprint_in_force(on_stack, tmp_path: Path) -> None:
    done = on_stack("agent", "init", tmp_path / "agents")

    assert done.code == ExitCode.OK, done.err
    assert "documents: {}  # id text (key), body jsonb" in (tmp_path / "agents" / "resources.yaml").read_text()


@pytest.fixture(scope="module")
def product_stack(run_stack, tmp_path_factory):
    """Runs a stack with the blueprint and the catalogue of the example."""
    data_dir = tmp_path_factory.mktemp("product")
    options = ("--catalogue", EXAMPLE / "plans.yaml", "--blueprints", EXAMPLE / "blueprints.yaml")
    with run_stack(data_dir, *options) as stack:
        yield stack


@pytest.mark.e2e
def test_a_bundle_is_compared_published_and_rolled_back(paybill, product_stack, product: Path) -> None:
    folder, grants = product / "agents", product / "agents" / "grants.cedar"

    def run(*arguments: object) -> Any:
        return paybill("agent", *arguments, **product_stack.environment)

    checked = run("check", folder, "--json")
    previewed = run("publish", folder, "--dry-run")
    first = run("publish", folder, "--yes", "--json")
    repeated = run("publish", folder, "--yes")
    same = run("diff", folder, "--exit-code")
    grants.write_text(grants.read_text().replace("5000", "4000"))
    compared = run("diff", folder, "--exit-code")
    second = run("publish", folder, "--yes")
    listed = run("bundles", "--json").data
    table = run("bundles", "--limit", "1")
    back = run("publish", "--again", first.data["content_hash"][:10] + "…", "--yes")
    unchanged = run("publish", "--again", first.data["content_hash"], "--yes")
    unknown = run("publish", "--again", "0" * 64, "--yes")
    no_hash = run("publish", "--again", "../agents", "--yes")
    ambiguous = _ambiguous(run, product)

    assert checked.data["drift"] == []
    assert "nothing was published" in previewed.err
    assert (first.code, first.data["changes"]) == (ExitCode.OK, True)
    assert "in force already" in repeated.err
    assert (same.code, same.out, "no changes" in same.err) == (ExitCode.OK, "", True)
    assert compared.code == ExitCode.CHANGES
    assert "grant refunds up to 50.00" in compared.out
    assert second.code == ExitCode.OK, second.err
    assert f"published: {first.data['content_hash']}" in back.err
    assert "in force already" in unchanged.err
    assert [(each["content_hash"], each["in_force"]) for each in listed[-1:]] == [(first.data["content_hash"], False)]
    assert [each["in_force"] for each in listed] == [True, False]
    assert listed[0]["content_hash"][:14] in table.out
    assert listed[1]["content_hash"][:14] not in table.out
    assert "support-agent@1" in table.out
    assert (unknown.code, no_hash.code) == (ExitCode.NOT_FOUND, ExitCode.USAGE)
    assert "paybill agent bundles" in unknown.err
    assert "paybill agent bundles" in no_hash.err
    assert ambiguous.code == ExitCode.USAGE
    hashes = [each["content_hash"] for each in run("bundles", "--json").data]
    alike = [each for each in hashes if [one[0] for one in hashes].count(each[0]) > 1]
    assert any(f"{one}, {other}" in ambiguous.err for one in alike for other in alike if one != other)


def _ambiguous(run, product: Path) -> Any:
    """Publishes bundles until two hashes begin with the same character, and names both by it."""
    grants = product / "agents" / "grants.cedar"
    text = grants.read_text()
    for limit in range(4001, 4020):
        hashes = [each["content_hash"] for each in run("bundles", "--json").data]
        beginnings = [each[0] for each in hashes]
        shared = next((each for each in beginnings if beginnings.count(each) > 1), None)
        if shared is not None:
            return run("publish", "--again", shared, "--yes")
        grants.write_text(text.replace("4000", str(limit)))
        assert run("publish", product / "agents", "--yes").code == ExitCode.OK
    raise AssertionError("17 hashes have 16 beginnings")


@pytest.mark.e2e
def test_a_bundle_with_errors_is_not_sent(paybill, product_stack, product: Path) -> None:
    workflow = product / "agents" / "refund.yaml"
    workflow.write_text(workflow.read_text().replace("read: orders", "read: order"))

    checked, compared, refused = (
        paybill("agent", *command, product / "agents", **product_stack.environment)
        for command in (("check",), ("diff",), ("publish", "--yes"))
    )

    assert (checked.code, compared.code, refused.code) == (ExitCode.FAILED, ExitCode.FAILED, ExitCode.FAILED)
    assert refused.out.startswith(f"{workflow}:")
    assert checked.out == compared.out == refused.out


@pytest.mark.e2e
def test_a_refused_key_fails_the_check(paybill, product_stack, product: Path) -> None:
    environment = product_stack.environment | {"PAYBILL_API_KEY": "pbk_wrong_key"}

    assert paybill("agent", "check", product / "agents", **environment).code == ExitCode.DENIED


@pytest.mark.e2e
def test_without_a_key_a_check_is_offline_while_a_stack_runs(paybill, product_stack, product: Path) -> None:
    environment = product_stack.environment | {"PAYBILL_API_KEY": ""}
    file = ("--blueprint", product / "blueprints.yaml")

    checks = [paybill("agent", "check", product / "agents", *more, **environment) for more in ((), file)]

    assert [each.code for each in checks] == [ExitCode.OK, ExitCode.OK], checks[0].err
    assert all("not compared with a stack: an API key is missing" in each.err for each in checks)


@pytest.mark.e2e
def test_check_and_publish_use_the_blueprint_in_force(paybill, product_stack, product: Path) -> None:
    blueprint = product / "blueprints.yaml"
    blueprint.write_text(blueprint.read_text().replace("{name: total, type: bigint", "{name: sum, type: bigint"))
    workflow = product / "agents" / "refund.yaml"
    workflow.write_text(workflow.read_text().replace("order.total", "order.sum"))

    checked = paybill("agent", "check", product / "agents", **product_stack.environment)
    refused = paybill("agent", "publish", product / "agents", "--yes", **product_stack.environment)

    assert (checked.code, refused.code) == (ExitCode.FAILED, ExitCode.FAILED)
    assert "the step order has no field sum" in checked.out
    assert checked.out == refused.out
    assert f"publish it first: paybill blueprint publish {blueprint}" in checked.err
    assert f"publish it first: paybill blueprint publish {blueprint}" in refused.err
