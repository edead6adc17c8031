"""Tests of `paybill webhook` with the real services: received webhooks and pending syncs."""

import json
import uuid

import httpx
import pytest
import stripe
from paybill_cli.exit_codes import ExitCode


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
    assert "nothing was changed" in dry.err
    assert (done.code, done.data["object"], done.data["tries"]) == (ExitCode.OK, object_, 0)


def test_webhooks_are_listed_by_object_and_by_state(on_stack, sent) -> None:
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
