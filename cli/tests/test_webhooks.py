"""Tests of `paybill webhook` with the real services: received webhooks and pending syncs."""

import json
import uuid

import httpx
import pytest
import stripe
from paybill_cli.exit_codes import ExitCode
from polling import until


@pytest.fixture
def sent(real_stack):
    """Sends a signed webhook to billing, by default about a subscription of an unknown customer."""
    secret = (real_stack.data_dir / "credentials" / "stripe-webhook-secrets").read_text().split()[0]

    def send(**more):
        number = uuid.uuid4().hex[:12]
        item = {"id": f"sub_{number}", "object": "subscription", "customer": "cus_none"}
        type_ = "customer.subscription.updated"
        event = {"id": f"evt_{number}", "type": type_, "created": 1, "data": {"object": item}, **more}
        body = json.dumps(event)
        headers = {"stripe-signature": stripe.WebhookSignature.generate_signature_header(body, secret)}
        url = f"{real_stack.url('billing')}/webhooks/stripe"
        assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 200
        return event["id"], item["id"]

    return send


def test_a_pending_sync_is_listed_with_its_reason_and_retried(on_stack, sent) -> None:
    _, object_ = sent()

    listed = on_stack("webhook", "waiting", "--json").data
    dry = on_stack("webhook", "retry", object_, "--dry-run")
    done = on_stack("webhook", "retry", object_, "--json")

    assert object_ in {row["object"] for row in listed}
    assert "would fetch it from stripe now and not at 20" in dry.err
    assert "nothing was changed" in dry.err
    assert (done.code, done.data["object"], done.data["tries"]) == (ExitCode.OK, object_, 0)


@pytest.fixture
def stranger(real_stack):
    """Creates a customer without an account at the Stripe fake; returns its id and that of its subscription."""
    key = (real_stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
    http_client = stripe.RequestsClient()
    at = stripe.StripeClient(key, base_addresses={"api": real_stack.url("stripe_fake")}, http_client=http_client).v1
    recurring = {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
    price = at.prices.create(recurring | {"product_data": {"name": "Other"}}).id
    customer = at.customers.create({"name": "Other"}).id
    made = at.subscriptions.create({"customer": customer, "items": [{"price": price}], "trial_period_days": 30})
    http_client.close()
    return customer, made.id


def test_the_dry_run_of_a_dismissal_prints_what_would_be_recorded(on_stack, stranger) -> None:
    customer, object_ = stranger
    dismiss = ("webhook", "dismiss", object_, "--reason", "not ours")
    until(lambda: on_stack(*dismiss, "--dry-run").code == ExitCode.OK)
    dry = on_stack(*dismiss, "--dry-run")

    before = on_stack("webhook", "dismissed", "--json").data
    done = on_stack(*dismiss, "--yes", "--json")

    assert dry.out.startswith("would record: a customer of the provider is not ours")
    assert customer not in {row["customer"] for row in before}
    assert done.data["customer"] == customer


def test_webhooks_are_listed_by_object_and_by_state(on_stack, sent, customers) -> None:
    with customers.fake() as fake:
        fake.wait_delivered()  # the webhooks of earlier tests would be newer
    first, object_ = sent()
    strange, _ = sent(livemode=True)

    about = on_stack("webhook", "list", "--object", object_, "--json").data
    quarantined = on_stack("webhook", "list", "--state", "quarantined")
    limited = on_stack("webhook", "list", "--limit", 1)

    assert [(row["id"], row["state"]) for row in about] == [(first, "waiting")]
    assert [row[2] for row in quarantined.rows] == [strange]
    assert "it is a live mode message" in quarantined.out
    assert [row[2] for row in limited.rows] == [strange]
    assert "there are more than 1" in limited.err


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["sub_unknown"], "not_waiting", ExitCode.NOT_FOUND),
        (["sub_unknown", "--dry-run"], "not_waiting", ExitCode.NOT_FOUND),
        (["../../tenants"], "usage", ExitCode.USAGE),
        (["sub_1", "--provider", "../x"], "usage", ExitCode.USAGE),
    ],
)
def test_only_a_pending_sync_can_be_retried(on_stack, arguments, code, exit_code) -> None:
    done = on_stack("webhook", "retry", *arguments, "--json")

    assert (done.code, done.error["code"]) == (exit_code, code)
