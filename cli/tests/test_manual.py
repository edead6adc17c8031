"""Tests of `paybill manual` with the real services: a customer who pays by invoice."""

import time

import pytest
from paybill_cli.exit_codes import ExitCode


def create(slug, *more):
    options = ("--plan", "starter", "--region", "eu-central")
    return ("tenant", "create", slug, *options, "--email", "ops@acme.example", *more)


@pytest.fixture(scope="session")
def numbers():
    return iter(range(1000))


@pytest.fixture
def by_invoice(on_stack, numbers):
    """Returns slug and id of a new tenant that pays by invoice."""
    slug = f"inv{next(numbers)}"
    done = on_stack(*create(slug, "--payment", "manual"))
    assert done.code == ExitCode.OK, done.err
    assert f"next: paybill manual accept {slug} --po NUMBER" in done.err
    fields = dict(line.split(": ", 1) for line in done.out.splitlines())
    return slug, fields["id"]


def status_of(on_stack, tenant_id, expected):
    """Returns the status of the tenant once it is `expected`, or after a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done = on_stack("tenant", "show", tenant_id, "--json")
        if done.data["status"] == expected:
            return expected
        time.sleep(0.1)
    return done.data["status"]


def test_an_order_is_previewed_accepted_invoiced_and_paid(on_stack, by_invoice) -> None:
    slug, tenant_id = by_invoice
    offers = on_stack("manual", "offers", "--json").data
    order = ("manual", "accept", slug, "--po", "PO 1", "--interval", "year", "--quantity", 5, "--terms", "14d")

    preview = on_stack(*order, "--dry-run")
    unconfirmed = on_stack(*order)
    done = on_stack(*order, "--yes", "--json")

    assert tenant_id in [offer["tenant_id"] for offer in offers]
    assert (preview.code, preview.err) == (ExitCode.OK, "nothing was changed\n")
    assert "quantity: 5" in preview.out
    assert (unconfirmed.code, "there is no terminal" in unconfirmed.err) == (ExitCode.USAGE, True)
    assert "  quantity: 5" in unconfirmed.err.splitlines()
    assert (done.code, done.data["invoices"][0]["total"]["minor"]) == (ExitCode.OK, 5 * 29000)
    assert status_of(on_stack, tenant_id, "active") == "active"
    (listed,) = on_stack("manual", "invoices", "--tenant", slug).rows
    assert listed[1:3] == ["open", "1450.00 EUR"]
    paid = on_stack("manual", "paid", listed[0], "--reference", "bank 1", "--yes", "--json")
    assert paid.data["invoices"][0]["status"] == "paid"
    assert "status: active" in on_stack("manual", "show", slug).out
    voided = on_stack("manual", "void", listed[0], "--reason", "twice", "--yes", "--json")
    assert (voided.code, voided.error["code"]) == (ExitCode.CONFLICT, "invoice_settled")


def test_the_dry_run_of_an_executed_order_shows_its_result_and_another_is_refused(on_stack, by_invoice) -> None:
    slug, _ = by_invoice
    order = ("manual", "accept", slug, "--po", "PO 2", "--idempotency-key", f"order-{slug}")
    new = on_stack(*order, "--dry-run")
    done = on_stack(*order, "--yes", "--json")

    again = on_stack(*order, "--dry-run", "--json")
    other = on_stack(*order, "--quantity", 9, "--dry-run", "--json")

    assert new.err == "nothing was changed\n"
    assert again.data == done.data
    assert again.err == (
        f"the request with the key order-{slug} was already executed, with this result; nothing was changed\n"
    )
    assert other.error["code"] == "idempotency_key_reused"


def test_a_second_quotation_replaces_the_first(on_stack, by_invoice) -> None:
    slug, _ = by_invoice

    done = on_stack("manual", "offer", slug, "--plan", "team", "--quantity", 3, "--valid", "60d", "--yes", "--json")

    assert (done.data["offer"]["terms"]["plan"], done.data["offer"]["terms"]["quantity"]) == ("team", 3)
    wrong = on_stack("manual", "offer", slug, "--plan", "gold", "--yes", "--json")
    assert (wrong.code, wrong.error["code"]) == (ExitCode.NOT_FOUND, "unknown_plan")


@pytest.mark.parametrize(
    "arguments",
    [
        ("accept", "acme", "--po", "1", "--terms", "soon"),
        ("accept", "../acme", "--po", "1"),
        ("paid", "inv_1", "--reference", "x"),
        ("offer", "acme", "--valid", "60"),
    ],
)
def test_invalid_arguments_are_refused(on_stack, arguments) -> None:
    done = on_stack("manual", *arguments, "--yes", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "usage")


def test_a_tenant_that_pays_by_invoice_has_no_customer_portal(on_stack, by_invoice) -> None:
    done = on_stack("tenant", "portal", by_invoice[0], "--json")

    assert (done.code, done.error["code"]) == (ExitCode.CONFLICT, "no_portal")


def test_an_unknown_payment_provider_is_refused(on_stack) -> None:
    done = on_stack(*create("barterer", "--payment", "barter", "--json"))

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "unknown_payment")
