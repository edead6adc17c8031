"""Tests of `paybill entitlement` with the real services."""

from typing import Any

import pytest
from paybill_cli.exit_codes import ExitCode
from polling import until


@pytest.fixture
def tenant(on_stack, customers) -> str:
    """Returns the slug of a tenant that has paid."""
    made = customers.sign_up()
    customers.pay(made["checkout_url"])
    until(lambda: on_stack("entitlement", "show", made["slug"]).code == ExitCode.OK)
    return str(made["slug"])


def features(shown: dict[str, Any]) -> dict[str, Any]:
    return {feature["key"]: feature for feature in shown["features"]}


def test_overrides_and_grants_are_shown_beside_the_plan_until_they_are_withdrawn(on_stack, tenant: str) -> None:
    why = ("--reason", "contract 7", "--yes")
    over = on_stack("entitlement", "override", tenant, "projects", "--limit", 500, "--until", "2999-01-01", *why)
    more = on_stack("entitlement", "grant", tenant, "calls", "--amount", 5, *why, "--json")
    id_ = more.data["overrides"][0]["id"]
    gone = on_stack("entitlement", "withdraw", tenant, id_, *why, "--json")

    assert over.code == more.code == gone.code == ExitCode.OK, over.err
    assert "feature projects: at most 500 (plan: at most 5)" in over.out
    assert "changes_at: 2999-01-01" in over.out
    assert features(more.data)["calls"]["included"] == 10_005
    assert features(gone.data)["projects"]["limit"] == 5
    assert gone.data["set_revision"] == 4
    assert on_stack("entitlement", "withdraw", tenant, id_, *why).code == ExitCode.NOT_FOUND


def test_a_check_returns_a_reason_and_an_exit_code(on_stack, tenant: str) -> None:
    allowed = on_stack("entitlement", "check", tenant, "projects", "--used", 4, "--json")
    denied = on_stack("entitlement", "check", tenant, "projects", "--used", 5, "--json")
    metered = on_stack("entitlement", "check", tenant, "calls", "--used", 99, "--json").data

    assert (allowed.code, allowed.data["remaining"]) == (ExitCode.OK, 1)
    assert (denied.code, denied.error["code"], denied.data["limit"]) == (ExitCode.CONFLICT, "limit_reached", 5)
    assert (metered["used"], metered["used_from"]) == (0, "usage")


def test_invalid_overrides_and_grants_are_refused(on_stack, tenant: str) -> None:
    refused: list[tuple[list[object], str]] = [
        (["override", tenant, "calls", "--limit", 1], "other_kind_of_feature"),
        (["override", tenant, "disk", "--meter", "disk"], "undeclared_meter"),
        (["override", tenant, "projects", "--limit", 1, "--until", "2001-01-01"], "invalid_validity"),
        (["override", tenant, "projects"], "usage"),
        (["override", tenant, "projects", "--limit", 1, "--off"], "usage"),
        (["grant", tenant, "support"], "not_grantable"),
        (["grant", tenant, "calls", "--amount", 1, "--from", "soon"], "usage"),
        (["withdraw", tenant, "../x"], "usage"),
    ]

    for arguments, code in refused:
        done = on_stack("entitlement", *arguments, "--reason", "x", "--yes", "--json")
        assert (done.code, done.error["code"]) == (ExitCode.USAGE, code), arguments
    unknown = on_stack("entitlement", "show", "nobody", "--json")
    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "tenant_not_found")


def test_a_tenant_that_never_paid_has_no_entitlements(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    shown = on_stack("entitlement", "show", slug, "--json")
    done = on_stack("entitlement", "grant", slug, "projects", "--amount", 1, "--reason", "x", "--yes", "--json")
    checked = on_stack("entitlement", "check", slug, "projects", "--json")

    assert (shown.code, shown.error["code"]) == (ExitCode.NOT_FOUND, "nothing_entitled")
    assert (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, "nothing_entitled")
    assert (checked.code, checked.error["code"]) == (ExitCode.CONFLICT, "no_access")


def test_a_dry_run_prints_what_would_be_recorded_and_grants_nothing(on_stack, tenant: str) -> None:
    grant = ("entitlement", "grant", tenant, "calls", "--amount", 5, "--reason", "contract 7", "--dry-run")

    plain = on_stack(*grant)
    data = on_stack(*grant, "--json").data

    assert plain.out.splitlines()[0] == "would record: granted 5 more of calls: contract 7"
    assert features(data["result"])["calls"]["included"] == 10_005
    shown = on_stack("entitlement", "show", tenant, "--json").data
    assert features(shown)["calls"]["included"] == 10_000


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["withdraw", "ovr_" + "0" * 32], "no_such_override_or_grant"),
        (["grant", "support"], "not_grantable"),
    ],
    ids=["withdraw", "grant"],
)
def test_a_dry_run_is_refused_as_the_command_would_be(on_stack, tenant: str, arguments: list[str], code: str) -> None:
    verb, *more = arguments

    dry = on_stack("entitlement", verb, tenant, *more, "--reason", "x", "--dry-run", "--json")

    assert dry.error["code"] == code
