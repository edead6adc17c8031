"""`paybill environment drift` on a real stack: exit codes and rows, with and without a tenant."""

import pytest
from paybill_cli.exit_codes import ExitCode
from polling import until
from test_paid_changes import sql


@pytest.fixture
def drifted(on_stack, customers, real_stack):
    """Returns a tenant whose login has another connection limit than its record, until the test ends."""
    tenant = customers.sign_up()
    customers.pay(tenant["checkout_url"])
    slug, role = tenant["slug"], tenant["id"].replace("ten_", "t_")
    until(lambda: "status: ready" in on_stack("environment", "show", slug).out)
    clean = on_stack("environment", "drift", slug, "--json")
    assert (clean.code, clean.data) == (ExitCode.OK, []), clean.err
    sql(real_stack, f'ALTER ROLE "{role}" CONNECTION LIMIT 500')
    yield slug
    sql(real_stack, f'ALTER ROLE "{role}" CONNECTION LIMIT 10')
    assert on_stack("environment", "drift", slug).code == ExitCode.OK


def test_drift_of_one_tenant_fails_until_it_is_accepted(on_stack, drifted) -> None:
    before = on_stack("environment", "drift", drifted, "--dry-run", "--json")
    found = on_stack("environment", "drift", drifted, "--json")
    people = on_stack("environment", "drift", drifted)
    (difference,) = found.data
    accept = ("environment", "drift", drifted, "--accept", difference["id"])
    without = on_stack(*accept, "--json")
    unknown = on_stack(*accept[:-1], f"dif_{'0' * 16}", "--reason", "load", "--json")
    dry = on_stack(*accept, "--reason", "load", "--dry-run")
    still = on_stack("environment", "drift", drifted)
    accepted = on_stack(*accept, "--reason", "more load this month", "--json")
    after = on_stack("environment", "drift", drifted, "--json")

    assert (before.code, before.data) == (ExitCode.OK, [])  # the last check found nothing
    assert found.code == people.code == still.code == ExitCode.FAILED
    expected = {"kind": "changed", "address": "role.main", "attribute": "connection_limit", "observed": "500"}
    assert expected.items() <= difference.items()
    assert f"next: paybill environment plan {drifted}" in people.err
    assert [row[0] for row in people.rows] == [drifted]
    assert (without.code, without.error["code"]) == (ExitCode.USAGE, "usage")
    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "difference_unknown")
    assert dry.code == accepted.code == after.code == ExitCode.OK, dry.err
    assert [each["accepted"] for each in after.data] == ["more load this month"]


def test_drift_of_all_tenants_names_each_of_them(on_stack, drifted) -> None:
    found = on_stack("environment", "drift", "--json")
    last = on_stack("environment", "drift", "--dry-run", "--json")

    assert found.code == last.code == ExitCode.FAILED
    assert [each["observed"] for each in found.data if each["slug"] == drifted] == ["500"]
    assert [each["observed"] for each in last.data if each["slug"] == drifted] == ["500"]


def test_drift_of_an_unknown_tenant_is_not_found(on_stack) -> None:
    done = on_stack("environment", "drift", "nobody", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, "tenant_not_found")
