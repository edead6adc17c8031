"""Tests of `paybill plans` on files, and with the real services."""

from pathlib import Path

import pytest
import yaml
from paybill_cli.exit_codes import ExitCode

GOOD = """\
product: paybill-demo
meters:
  - {meter: calls}
plans:
  - plan: pro
    version: 1
    name: Pro
    tier: team
    placement: bridge
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 5}
      - {key: calls, kind: metered, meter: calls, included: 10}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""
BLUEPRINT = "name: x\ntiers:\n  - {tier: team, placement: bridge, cloud: local, connection_limit: 1}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def sold(on_stack, tmp_path: Path) -> Path:
    """Returns a file with the catalogue that the stack sells now."""
    shown = on_stack("plans", "list", "--retired", "--json").data
    known = [on_stack("plans", "show", row["plan"], "--json").data for row in shown if row["sold"]]
    plans = []
    for plan in known:
        prices = [{**price["amount"], "interval": price["interval"]} for price in plan["prices"]]
        spans = {"trial": f"{plan['trial_days']}d", "grace": f"{plan['grace_s']}s"}
        same = {name: plan[name] for name in ("plan", "version", "name", "tier", "placement", "features")}
        plans.append({**same, **spans, "retention": f"{plan['retention_s']}s", "prices": prices})
    path = tmp_path / "sold.yaml"
    path.write_text(yaml.safe_dump({"product": "paybill-demo", "meters": [{"meter": "calls"}], "plans": plans}))
    return path


def test_a_valid_file_is_summarised(paybill, file: Path, tmp_path: Path) -> None:
    blueprint = tmp_path / "blueprints.yaml"
    blueprint.write_text(BLUEPRINT)

    done = paybill("plans", "lint", file, "--blueprint", blueprint, "--json")

    assert done.code == ExitCode.OK
    assert (done.data["product"], done.data["versions"], done.data["meters"]) == ("paybill-demo", 1, 1)


def test_a_stack_with_an_invalid_catalogue_is_refused_before_anything_starts(
    paybill, file: Path, tmp_path: Path
) -> None:
    file.write_text(GOOD.replace("currency: EUR, ", "").replace("kind: limit", "kind: magic"))

    done = paybill("up", "--data-dir", tmp_path / "data", "--catalogue", file)

    assert done.code == ExitCode.FAILED
    assert [line.split(":")[1] for line in done.out.splitlines()] == ["13", "16"]
    assert "has 2 errors" in done.err
    assert not (tmp_path / "data").exists()


def test_an_invalid_catalogue_of_the_data_directory_is_refused_before_anything_starts(paybill, tmp_path: Path) -> None:
    (tmp_path / "plans.yaml").write_text(GOOD.replace("currency: EUR, ", ""))

    done = paybill("up", "--data-dir", tmp_path)

    assert done.code == ExitCode.FAILED
    assert done.out.startswith(f"{tmp_path / 'plans.yaml'}:16: ")
    assert [path.name for path in tmp_path.iterdir()] == ["plans.yaml"]


def test_every_error_is_a_line_with_file_line_and_reason(paybill, file: Path) -> None:
    file.write_text(GOOD.replace("currency: EUR, ", "").replace("kind: limit", "kind: magic"))

    done = paybill("plans", "lint", file)

    assert done.code == ExitCode.FAILED
    lines = done.out.splitlines()
    assert [line.startswith(f"{file}:{number}: ") for line, number in zip(lines, (13, 16), strict=True)] == [True, True]
    assert "has 2 errors" in done.err


def test_a_tier_that_is_not_in_the_blueprint_is_an_error(paybill, file: Path, tmp_path: Path) -> None:
    blueprint = tmp_path / "blueprints.yaml"
    blueprint.write_text(BLUEPRINT.replace("bridge", "silo"))

    done = paybill("plans", "lint", file, "--blueprint", blueprint)

    assert done.code == ExitCode.FAILED
    assert f"{file}:8: pro@1 needs the tier team (bridge)" in done.out


@pytest.mark.parametrize("content", [None, b"\xff", b"#" * (1024 * 1024 + 1)])
def test_an_unreadable_file_is_refused(paybill, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plans.yaml"
    if content is not None:
        path.write_bytes(content)

    assert paybill("plans", "lint", path).code == ExitCode.USAGE


def test_an_invalid_file_is_refused_before_a_request_is_sent(paybill, file: Path) -> None:
    file.write_text(GOOD.replace("minor: 2900", "minor: 29.00"))

    done = paybill(
        "plans", "publish", file, "--yes", "--json", "--billing-url", "http://127.0.0.1:9", PAYBILL_API_KEY="k"
    )

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "invalid_plans")
    assert done.error["what"].startswith(f"{file}:16: ")


def test_a_new_version_is_previewed_and_published_once(on_stack, sold: Path) -> None:
    written = yaml.safe_load(sold.read_text())
    newer = {**written["plans"][1], "version": 7}
    newer["features"] = [{"key": "projects", "kind": "limit", "limit": 77}, *newer["features"][1:]]
    written["plans"].append(newer)
    name = f"{newer['plan']}@7"
    sold.write_text(yaml.safe_dump(written))

    diff = on_stack("plans", "diff", sold)
    dry = on_stack("plans", "publish", sold, "--dry-run")
    unconfirmed = on_stack("plans", "publish", sold, "--json")
    before = on_stack("plans", "show", name)
    keyed = ("plans", "publish", sold, "--idempotency-key", f"publish-{name}")
    done = on_stack(*keyed, "--yes", "--json")
    again = on_stack("plans", "publish", sold, "--yes")
    repeated = [on_stack(*keyed, option) for option in ("--dry-run", "--yes")]

    assert diff.code == dry.code == done.code == again.code == ExitCode.OK, done.err
    assert ["feature projects", name, "at most 50", "at most 77"] in diff.rows
    assert "nothing was published" in dry.err
    assert (unconfirmed.code, unconfirmed.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert before.code == ExitCode.NOT_FOUND
    assert done.data["added"] == [name]
    assert "this catalogue is on sale already" in again.err
    assert all(each.code == ExitCode.OK and "was already executed" in each.err for each in repeated)
    assert on_stack("plans", "show", newer["plan"], "--json").data["version"] == 7
    assert "feature projects: at most 77" in on_stack("plans", "show", name).out


def test_an_edit_of_a_published_version_is_refused_with_file_line_and_reason(on_stack, sold: Path) -> None:
    sold.write_text(sold.read_text().replace("name: Starter", "name: Started"))
    line = next(n for n, text in enumerate(sold.read_text().splitlines(), 1) if "name: Started" in text)

    diff = on_stack("plans", "diff", sold, "--json")
    done = on_stack("plans", "publish", sold, "--yes", "--json")

    assert diff.data["refused"]
    assert (diff.code, diff.error["code"]) == (ExitCode.CONFLICT, "catalogue_refused")
    assert (done.code, done.error["code"]) == (ExitCode.CONFLICT, "catalogue_refused")
    assert done.error["what"].startswith(f"{sold}:{line}: starter@1 is published and differs in name")


def test_a_plan_is_shown_with_its_prices_durations_and_meters(on_stack) -> None:
    done = on_stack("plans", "show", "starter@1")
    listed = on_stack("plans", "list")

    assert "prices: 29.00 EUR per month" in done.out
    assert "grace: " in done.out
    assert "meter calls: sum per month" in done.out
    assert listed.rows[0][0] == "starter@1"
    assert on_stack("plans", "show", "gold", "--json").error["code"] == "unknown_plan"
    assert on_stack("plans", "show", "../x").code == ExitCode.USAGE


def test_the_difference_shows_overage_prices(on_stack, file: Path) -> None:
    metered = "included: 10, overage: [{minor: 200, currency: EUR, interval: month, per: 1000}]"
    sold_at_stripe = GOOD.replace("{meter: calls}", "{meter: calls, provider_meters: {stripe: api_calls}}")
    file.write_text(sold_at_stripe.replace("included: 10", metered))

    shown = on_stack("plans", "diff", file)

    (line,) = [line for line in shown.out.splitlines() if "overage" in line]
    assert "overage of calls per month" in line
    assert "2.00 EUR per 1,000 units" in line
