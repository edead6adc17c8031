"""`paybill up --stripe-key-file`: a Stripe account whose webhooks cannot reach this machine."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
from paybill_cli.exit_codes import ExitCode
from paybill_embedded.ports import free_port
from paybill_stack.environment import StripeAccount
from paybill_stack.supervisor import Options, Supervisor
from paybill_stripe_fake.client import FakeControl

KEY = "sk_test_" + "k" * 32
CREATE = ("tenant", "create", "acme", "--plan", "starter", "--region", "eu-central", "--email", "a@acme.example")


@pytest.fixture
def account(tmp_path):
    """Runs a Stripe fake that sends no webhooks; returns it as an account with an API at another address."""
    file, port = tmp_path / "stripe-key", free_port()
    file.write_text(KEY)
    command = [sys.executable, "-P", "-m", "paybill_stripe_fake", "serve", "--port", str(port)]
    command += ["--state", str(tmp_path / "stripe.json"), "--api-key-file", str(file)]
    with subprocess.Popen(command) as process:
        try:
            yield StripeAccount(file, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


@pytest.mark.e2e
async def test_events_of_an_account_are_fetched_where_no_webhook_arrives(account, paybill, tmp_path) -> None:
    async with Supervisor(Options(tmp_path / "data", stripe=account), lambda _: None) as stack:
        options = ("--json", "--data-dir", tmp_path / "data")
        key = {"PAYBILL_API_KEY": stack.new_key or ""}
        created = await asyncio.to_thread(paybill, *CREATE, *options, **key)
        with FakeControl(account.api_base, KEY) as fake:
            fake.pay_checkout(created.data["checkout_url"].rpartition("/")[2])
        end = time.monotonic() + 60
        while (await asyncio.to_thread(paybill, "tenant", "show", "acme", *options, **key)).data["status"] != "active":
            assert time.monotonic() < end
            await asyncio.sleep(0.5)
        shown = await asyncio.to_thread(paybill, "subscription", "show", "acme", *options, **key)
        tail = ("events", "tail", "--no-follow", *options)
        opened = await asyncio.to_thread(paybill, *tail, "--type", "billing.account_opened", **key)
        with FakeControl(account.api_base, KEY) as fake:
            fake.set_payment(opened.data["payload"]["customer"], "fail")
            fake.renew(shown.data["provider_subscription"])
        while (await asyncio.to_thread(paybill, "subscription", "show", "acme", *options, **key)).data[
            "access"
        ] != "grace":
            assert time.monotonic() < end
            await asyncio.sleep(0.5)
        failures = await asyncio.to_thread(paybill, *tail, "--type", "billing.payment_failed", **key)
        drifts = await asyncio.to_thread(paybill, "provider", "drifts", *options, **key)

    assert {part.name for part in stack.parts()} >= {"tenant", "billing", "provisioner", "agent-gateway"}
    assert len(failures.out.splitlines()) == 1
    assert drifts.data == []  # fetching is the ordinary way of its messages


@pytest.mark.parametrize(
    ("content", "code"), [("sk_live_" + "k" * 32, "not_a_test_key"), ("whsec_x", "not_a_test_key"), (None, "usage")]
)
def test_a_key_that_is_not_of_test_mode_is_refused(paybill, tmp_path, content, code) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)

    refused = paybill("up", "--data-dir", tmp_path / "data", "--stripe-key-file", file, "--json")

    assert (refused.code, refused.error["code"]) == (ExitCode.USAGE, code)
    assert (content or "none") not in refused.err


@pytest.mark.parametrize("provider", ["acmepay", "acmepay=missing.json", "acmepay=list.json"])
def test_settings_of_a_provider_that_cannot_be_read_are_refused(paybill, tmp_path, monkeypatch, provider) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps([]))

    refused = paybill("up", "--data-dir", tmp_path / "data", "--provider", provider, "--json")

    assert (refused.code, refused.error["code"]) == (ExitCode.USAGE, "usage")
