"""`paybill why` on a real stack for customers who pause, owe or were deleted: the commands that it names are run."""

from random import Random

import pytest
from fault_injection import Bed
from paybill_cli.exit_codes import ExitCode
from test_why import kinds, run_next, why_when


@pytest.fixture
def bed(real_stack, on_stack, customers):
    """Returns the stack with its Stripe fake."""
    with customers.fake() as fake:
        yield Bed(real_stack, on_stack, customers, fake, Random(1))


@pytest.mark.e2e
def test_the_command_for_a_paused_subscription_resumes_it(bed, on_stack) -> None:
    slug = bed.active()["slug"]
    paused = on_stack("subscription", "pause", slug, "--reason", "winter", "--yes")
    explained = why_when(on_stack, slug, "paused")

    resumed = run_next(on_stack, explained, "--yes")

    assert (paused.code, resumed.code) == (ExitCode.OK, ExitCode.OK), resumed.err
    why_when(on_stack, slug, None)


@pytest.mark.e2e
def test_a_debt_of_an_ended_subscription_comes_behind_its_end(bed, on_stack) -> None:
    tenant = bed.active()
    account = bed.account(tenant)
    theirs = account["subscriptions"][0]["provider_subscription"]
    bed.fake.set_payment(account["customer"], "fail")
    bed.fake.renew(theirs)
    why_when(on_stack, tenant["slug"], "card_declined")
    bed.stripe("DELETE", f"/v1/subscriptions/{theirs}")
    bed.wait(lambda: kinds(on_stack("why", tenant["slug"], "--json")) == ["subscription_ended", "debt"], tenant)
    explained = on_stack("why", tenant["slug"], "--json")

    shown = on_stack("tenant", "show", tenant["slug"], "--json")

    begins = shown.data["offboards_at"][:19].replace("T", " ")
    assert f"offboarding begins at {begins} UTC" in explained.data["headline"]
    assert run_next(on_stack, explained).code == ExitCode.OK


@pytest.mark.e2e
def test_a_customer_that_was_deleted_at_the_provider_is_not_sent_to_a_checkout(bed, on_stack) -> None:
    tenant = bed.active()
    customer = bed.account(tenant)["customer"]
    bed.stripe("DELETE", f"/v1/customers/{customer}")
    explained = why_when(on_stack, tenant["slug"], "subscription_ended")

    shown = run_next(on_stack, explained, "--json")
    refused = on_stack("tenant", "checkout", tenant["slug"], "--json")

    assert f"{customer} was deleted at stripe" in explained.data["causes"][0]["because"][0]
    assert (shown.code, shown.data["slug"]) == (ExitCode.OK, tenant["slug"])
    assert (refused.error["code"], refused.error["next"]) == ("no_checkout", f"paybill why {tenant['slug']}")


@pytest.mark.e2e
def test_a_sign_up_with_the_customer_of_another_tenant_is_given_up(bed, on_stack) -> None:
    customer = bed.account(bed.active())["customer"]
    slug = f"taken-{customer[-8:].lower()}"
    of_customer = ("--customer", customer, "--region", "eu-central", "--email", "ops@acme.example", "--plan", "starter")
    on_stack("tenant", "create", slug, *of_customer)
    explained = why_when(on_stack, slug, "provider")

    given_up = run_next(on_stack, explained, "--yes")

    assert explained.data["next"] == f"paybill tenant offboard {slug} --reason refused"
    assert given_up.code == ExitCode.OK, given_up.err
