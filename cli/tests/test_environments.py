"""`paybill environment`, `approval`, `policy` and `prices`: on files, and on a real stack."""

import re
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from paybill_cli.exit_codes import ExitCode
from paybill_cli.plan_view import plan_lines

PLAN = {
    "hash": "7c" * 32,
    "environment_id": "env_" + "0" * 32,
    "cloud": "local",
    "region": "eu-central",
    "epoch": 1,
    "based_on": 9,
    "blueprint": "standard@4",
    "price_book": "list@2",
    "steps": [
        {
            "action": "create",
            "address": "database.main",
            "isolation_before": None,
            "isolation_after": "silo",
            "reason": None,
            "changes": [{"attribute": "version", "before": None, "after": "18"}],
        },
        {
            "action": "replace",
            "address": "schema.main",
            "isolation_before": "pool",
            "isolation_after": "silo",
            "reason": "placement of layer data changed",
            "changes": [],
        },
        {
            "action": "update",
            "address": "role.main",
            "isolation_before": "silo",
            "isolation_after": "silo",
            "reason": None,
            "changes": [{"attribute": "connection_limit", "before": "10", "after": "50"}],
        },
    ],
    "cost": {"before": {"minor": 1200, "currency": "EUR"}, "after": None, "missing": ["database, local"]},
    "expected_ms": 40_000,
    "risks": [{"rule": "writes_pause", "text": "writes pause"}],
    "limits": [{"feature": "connections", "before": 10, "after": 50}],
    "proration": {"minor": 16999, "currency": "EUR"},
    "handling": "other_person",
    "reasons": [{"rule": "replaces", "text": "the plan replaces schema.main"}],
    "transfers_data": False,
    "approval": {
        "id": "apr_" + "0" * 32,
        "status": "requested",
        "expired": False,
        "other_person": True,
        "decided_by": None,
        "expires_at": "2026-12-01T00:00:00Z",
        "ended": None,
    },
}
PRICES = """\
name: list
version: 1
source: contract
date: 2026-11-01
currency: EUR
prices:
  - {kind: bucket, cloud: local, minor: 200}
"""


def text_of(**edits: Any) -> str:
    return "\n".join(text for _, text in plan_lines({**PLAN, **edits}, "acme"))


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_a_plan_shows_everything_before_it_happens() -> None:
    text = text_of()

    for line in (
        "acme  env_00000000000000000000000000000000  local/eu-central  epoch 1  base revision 9  blueprint standard@4",
        f"plan {'7c' * 32}  waits for approval: the plan replaces schema.main",
        "  + database.main  create  silo, version 18",
        "  ± schema.main  replace  pool -> silo  because: placement of layer data changed",
        "  ~ role.main  update  silo, connection_limit 10 -> 50",
        "entitlements  connections 10 -> 50",
        "cost a month  12.00 EUR -> unknown (no price: database, local)",
        "proration  169.99 EUR now",
        "duration  about 40 s",
        "risks  writes pause",
        "as another person than the requester",
    ):
        assert line in text, line


def test_the_deletion_of_a_replaced_resource_has_a_label() -> None:
    deleted = PLAN["steps"][1] | {"action": "delete", "isolation_after": None, "reason": None}
    text = text_of(steps=[*PLAN["steps"], deleted, deleted | {"address": "bucket.data"}])

    assert "  ± schema.main  replace  pool -> silo" in text
    assert "  - schema.main  delete the replaced one  pool" in text
    assert "  - bucket.data  delete  pool" in text


@pytest.mark.parametrize(
    ("edits", "next_"),
    [
        ({"approval": PLAN["approval"] | {"status": "granted", "decided_by": "user:bo"}}, "environment apply acme"),
        ({"approval": PLAN["approval"] | {"expired": True}}, "environment plan acme"),
        ({"approval": None, "handling": "unattended"}, "environment apply acme"),
        ({"approval": None, "steps": []}, "environment show acme"),
        (
            {"approval": PLAN["approval"] | {"status": "granted", "decided_by": "user:bo"}, "transfers_data": True},
            "environment show acme",
        ),
    ],
)
def test_the_next_command_follows_from_the_state_of_the_approval(edits: dict[str, Any], next_: str) -> None:
    assert f"next  paybill {next_}" in text_of(**edits)


def test_an_unknown_cost_or_duration_has_no_number() -> None:
    text = text_of(cost={"before": None, "after": None, "missing": ["no price book is published"]}, expected_ms=None)

    assert "cost a month  unknown (no price: no price book is published)" in text
    assert "duration  unknown" in text


def test_a_price_book_is_checked_without_a_stack(paybill, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    good = paybill("prices", "lint", file, "--json")
    file.write_text(PRICES.replace("bucket", "folder"))
    bad = paybill("prices", "lint", file)

    assert (good.code, good.data["price_book"], good.data["prices"]) == (ExitCode.OK, "list@1", 1)
    assert bad.code == ExitCode.FAILED
    assert f"{file}:7: there is no kind folder" in bad.out


def test_a_policy_is_checked_without_a_stack(paybill, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("name: standard\nversion: 1\n")
    bad = paybill("policy", "lint", file)

    assert bad.code == ExitCode.FAILED
    assert "creates: it is required" in bad.out


@pytest.mark.parametrize(
    ("group", "name", "good", "old", "new"),
    [
        ("blueprint", "blueprints.yaml", None, "regions: [", "regions: [eu-central, "),
        ("blueprint", "blueprints.yaml", None, "name: standard", f"name: {'x' * 80}"),
        ("blueprint", "blueprints.yaml", None, "connection_limit: 10", "connection_limit: ten"),
        ("policy", "policy.yaml", "name: standard\nversion: 1\n", "", ""),
        ("prices", "prices.yaml", PRICES, "bucket", "folder"),
    ],
)
def test_an_invalid_file_is_wrong_input_of_a_publication_and_a_finding_of_a_check(
    paybill, tmp_path: Path, group: str, name: str, good: str | None, old: str, new: str
) -> None:
    text = good or files("paybill_provisioner").joinpath(name).read_text()
    assert old in text
    file = tmp_path / name
    file.write_text(text.replace(old, new, 1))
    away = ("--provisioner-url", "http://127.0.0.1:9")
    found = {"lint": paybill(group, "lint", file), "publish": paybill(group, "publish", file, "--yes", *away)}
    if group == "blueprint":
        found["diff"] = paybill(group, "diff", file, *away)
        found["render"] = paybill(group, "render", file, "--tier", "starter")

    assert found.pop("lint").code == ExitCode.FAILED
    assert {verb: done.code for verb, done in found.items()} == dict.fromkeys(found, ExitCode.USAGE)
    assert all(f"{file}:" in done.out for done in found.values())


def test_a_change_of_the_placement_is_planned_approved_and_pending(on_stack, customers) -> None:
    tenant = customers.sign_up()
    customers.pay(tenant["checkout_url"])
    slug = tenant["slug"]
    until(lambda: "status: ready" in on_stack("environment", "show", slug).out)
    watched = on_stack("environment", "show", slug, "--watch")
    before = on_stack("environment", "credentials", slug, "--dry-run")
    shown_logins = on_stack("environment", "credentials", slug, "--json")
    revealed = on_stack("environment", "credentials", slug, "--reveal", "--json")
    nothing = on_stack("environment", "plan", slug)
    refused = [on_stack("environment", "move", slug, "--to", to, "--json") for to in ("pooled", "silo")]
    changed = on_stack("subscription", "change", slug, "--plan", "business", "--reason", "growth", "--yes")
    assert changed.code == ExitCode.OK, changed.err

    approval = until(lambda: [each for each in on_stack("approval", "list", "--json").data if each["slug"] == slug])[0]
    shown = on_stack("approval", "show", approval["id"])
    plan = on_stack("environment", "plan", slug)
    early = on_stack("environment", "apply", slug, "--yes", "--json")
    dry = on_stack("approval", "approve", approval["id"], "--dry-run")
    done = on_stack("approval", "approve", approval["id"], "--yes", "--json")
    twice = on_stack("approval", "approve", approval["id"], "--yes", "--json")
    applied = on_stack("environment", "apply", slug, "--yes", "--json")
    environment = on_stack("environment", "show", slug)
    pending = on_stack("environment", "list", "--pending", "--json")

    assert "connection role.main" in watched.out
    assert "would record: " in before.out
    assert [each["secret"] for each in revealed.data] == [each["secret"] for each in shown_logins.data]
    assert shown_logins.data[0]["secret"].startswith("secret://provisioner/environments/")
    assert "password" not in shown_logins.data[0]
    assert len(revealed.data[0]["password"]) > 40  # 256 bits as text
    assert revealed.data[0]["password"] not in environment.out
    assert "no changes" in nothing.out
    assert [(each.code, each.error["code"]) for each in refused] == [
        (ExitCode.CONFLICT, "same_placement"),
        (ExitCode.USAGE, "tier_unknown"),
    ]
    for text in (shown.out, plan.out):
        assert "± schema.main  replace  pool -> silo" in text
        assert "cost a month  unknown" in text
        assert re.search(r"^proration  [0-9.]+ EUR now$", text, re.MULTILINE), text
    assert (early.code, early.error["code"]) == (ExitCode.CONFLICT, "approval_required")
    assert early.error["next"] == f"paybill approval show {approval['id']}"
    assert all(each.error["next"] for each in refused)
    assert "would record: " in dry.out
    assert (done.code, done.data["status"]) == (ExitCode.OK, "granted"), done.err
    assert f"next: paybill environment show {slug}  (this version transfers no data" in done.err
    assert (twice.code, twice.error["code"]) == (ExitCode.CONFLICT, "approval_ended")
    assert (applied.code, applied.error["code"]) == (ExitCode.CONFLICT, "transfer_unavailable")
    assert approval["id"] in environment.out
    assert slug in {each["slug"] for each in pending.data}


def test_the_policy_in_force_is_shown(on_stack) -> None:
    listed = on_stack("policy", "list", "--json")
    shown = on_stack("policy", "show", "standard")
    prices = on_stack("prices", "list")

    assert listed.data[0]["in_force"] is True
    assert "deletes: other_person" in shown.out
    assert prices.out.startswith("price_book\tin_force\tcontent_hash")


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("approval", "show", f"apr_{'0' * 32}"), "approval_unknown", ExitCode.NOT_FOUND),
        (("approval", "show", "acme"), "usage", ExitCode.USAGE),
        (("prices", "show", "nothing"), "price_book_not_published", ExitCode.NOT_FOUND),
        (("environment", "show", f"ten_{'0' * 32}"), "environment_unknown", ExitCode.NOT_FOUND),
        (("environment", "credentials", f"ten_{'0' * 32}"), "environment_unknown", ExitCode.NOT_FOUND),
    ],
)
def test_a_refusal_has_its_code(on_stack, arguments: tuple[str, ...], code: str, exit_code: ExitCode) -> None:
    done = on_stack(*arguments, "--json")

    assert (done.code, done.error["code"]) == (exit_code, code)
