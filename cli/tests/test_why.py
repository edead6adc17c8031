"""`paybill why` on a real stack: the root cause of several faults, and the commands that it names are run."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from paybill_cli.client.waiting import Deadline
from paybill_cli.exit_codes import ExitCode
from paybill_stripe_fake.client import FakeControl


def kinds(done: Any) -> list[str]:
    return [cause["kind"] for cause in done.data["causes"]]


def why_when(on_stack, tenant: str, kind: str | None) -> Any:
    """Returns the explanation as soon as `kind` is the root cause; None for no cause."""
    deadline = Deadline(30)
    while True:
        done = on_stack("why", tenant, "--json")
        if (kinds(done) or [None])[0] == kind:
            return done
        deadline.pause(f"{tenant}: {done.data['headline']}, not {kind}")


def run_next(on_stack, done: Any, *more: str) -> Any:
    """Runs the command that an explanation names."""
    return on_stack(*shlex.split(done.data["next"])[1:], *more)


@contextmanager
def fake_of(stack) -> Iterator[FakeControl]:
    key = (stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
    with FakeControl(stack.url("stripe_fake"), key) as fake:
        yield fake


def test_a_tenant_that_nobody_paid_for_waits_for_the_payment(on_stack, customers) -> None:
    tenant = customers.sign_up()

    deadline = Deadline(30)
    # Not only as the first cause: refused webhooks of other tests on this stack are a possible cause, too.
    while "not_paid" not in kinds(done := on_stack("why", tenant["slug"], "--json")):
        deadline.pause(done.data["headline"])
    unpaid = next(cause for cause in done.data["causes"] if cause["kind"] == "not_paid")
    shown = on_stack("tenant", "show", tenant["slug"], "--json")
    text = on_stack("why", tenant["slug"])

    assert done.code == text.code == ExitCode.FAILED
    assert tenant["checkout_url"] in unpaid["summary"]
    assert shown.data["why"].startswith(f"{tenant['slug']} is requested")
    assert {"tenant.tenant_requested", "billing.account_opened"} <= {link["type"] for link in done.data["chain"]}
    assert done.data["unanswered"] == []
    assert text.out.startswith(f"why: {tenant['slug']} is requested")


def test_an_unknown_tenant_is_not_found_and_a_service_that_is_away_is_the_cause(on_stack, customers) -> None:
    tenant = customers.sign_up()

    unknown = on_stack("why", "nobody-has-this", "--json")
    no_id = on_stack("why", "ten_" + "0" * 32, "--json")
    away = on_stack("why", tenant["slug"], "--json", "--billing-url", "http://127.0.0.1:9")

    for done in (unknown, no_id):
        assert (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, "tenant_not_found")
    assert away.code == ExitCode.FAILED
    assert kinds(away)[0] == "service"
    assert [each["service"] for each in away.data["unanswered"]] == ["billing"]
    assert away.data["next"] == "paybill doctor --billing-url http://127.0.0.1:9"


def test_billing_answers_in_time_when_the_provider_does_not(on_stack, real_stack, customers) -> None:
    tenant = customers.sign_up()
    with fake_of(real_stack) as fake:
        fake.delay_calls(30, path="/v1/subscriptions")
        try:
            deadline = Deadline(60)
            while (done := on_stack("why", tenant["slug"], "--json")).data["unanswered"]:
                deadline.pause(done.out)
        finally:
            fake.delay_calls(0, path="/v1/subscriptions")

    assert "it did not answer in 2 s" in done.out


@pytest.mark.e2e
def test_faults_in_a_running_stack_are_found_and_their_commands_help(on_stack, real_stack, customers) -> None:
    active, lost = customers.sign_up(), customers.sign_up()
    customers.pay(active["checkout_url"])
    assert why_when(on_stack, active["slug"], None).code == ExitCode.OK

    on_stack("tenant", "suspend", active["slug"], "--reason", "abuse report 7", "--yes")
    held = why_when(on_stack, active["slug"], "hold")
    assert run_next(on_stack, held).code == ExitCode.OK
    why_when(on_stack, active["slug"], None)

    with fake_of(real_stack) as fake:
        fake.pause_delivery()
        customers.pay(lost["checkout_url"])
        missing = why_when(on_stack, lost["slug"], "webhook_lost")
        run_next(on_stack, missing)
        why_when(on_stack, lost["slug"], None)
        fake.resume_delivery()
        fake.wait_delivered()

        account = httpx.get(
            f"{real_stack.url('billing')}/v1/tenants/{active['id']}/account",
            headers={"Authorization": f"Bearer {real_stack.key}"},
        ).json()
        fake.set_payment(account["customer"], "fail")
        fake.renew(account["subscriptions"][0]["provider_subscription"])
        declined = why_when(on_stack, active["slug"], "card_declined")
        assert run_next(on_stack, declined).code == ExitCode.OK

    waiting = customers.sign_up()
    for _ in range(3):
        httpx.post(
            f"{real_stack.url('billing')}/webhooks/stripe", content=b"{}", headers={"stripe-signature": "t=1,v1=0"}
        )
    deadline = Deadline(30)
    while "bad_signature" not in {row["reason"] for row in on_stack("webhook", "refused", "--json").data}:
        deadline.pause("the refusals are not counted")
    assert why_when(on_stack, waiting["slug"], "not_paid")  # anybody may have sent them

    with fake_of(real_stack) as fake:
        fake.pause_delivery()
        customers.pay(waiting["checkout_url"])
        refused = why_when(on_stack, waiting["slug"], "signature")
        fake.resume_delivery()
    assert "bad_signature" in [row["reason"] for row in run_next(on_stack, refused, "--json").data]
    why_when(on_stack, waiting["slug"], None)
