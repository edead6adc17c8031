"""Tests of what `paybill tenant` shows of tenants and when no tenant matches."""

from paybill_cli.exit_codes import ExitCode


def test_a_filter_that_matches_nothing_names_the_values_that_exist(on_stack) -> None:
    done = on_stack("tenant", "list", "--plan", "nope", "--region", "nowhere")

    assert (done.code, done.rows) == (ExitCode.OK, [])
    plans, regions = done.err.strip().split("; ")[1:]
    assert done.err.startswith("no tenants match; plans on sale are: ")
    assert "starter" in plans
    assert regions == "regions are: eu-central, us-east"


def test_a_tenant_shows_its_customer_unless_billing_does_not_answer(on_stack, customers) -> None:
    tenant = customers.sign_up()

    shown = on_stack("tenant", "show", tenant["slug"], "--json")
    away = on_stack("tenant", "show", tenant["slug"], "--json", "--billing-url", "http://127.0.0.1:9")

    assert shown.data["customer"].startswith("cus_")
    assert (away.code, away.data["customer"]) == (ExitCode.OK, None)
