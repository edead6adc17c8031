"""Fixtures that run billing on real NATS and PostgreSQL, with the Stripe fake as a process that sends webhooks."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from paybill_billing.app import service
from paybill_runtime.messaging.streams import connect
from paybill_runtime.serving import serving
from paybill_stripe_fake.client import FakeControl

# Tests are imported by path, and not as a package: this makes their samples importable.
sys.path.append(str(Path(__file__).parent))

from billing_testbed import API_KEY, SECRETS, BillingTestbed, Fake, Publisher  # found through the path above


def pytest_configure(config):
    """Ignores a deprecation warning that Stripe's library causes in httpx."""
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(scope="session")
def stripe_fake(tmp_path_factory):
    """Starts the Stripe fake, one process for all tests."""
    tmp_path = tmp_path_factory.mktemp("stripe-fake")
    key_file, secrets_file = tmp_path / "stripe-key", tmp_path / "stripe-secrets"
    key_file.write_text(f"{API_KEY}\n")
    secrets_file.write_text("\n".join(SECRETS))
    reserved = socket.socket()  # no other process gets the port between two tests, and none listens there
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "paybill_stripe_fake", "serve", "--port", "0", "--json"]
    command += ["--api-key-file", str(key_file), "--webhook-secret-file", str(secrets_file)]
    command += ["--webhook-url", f"http://127.0.0.1:{port}/webhooks/stripe", "--webhook-retry-s", "0.05"]
    command += ["--when-retries-fail", "unpaid"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(process.stdout.readline())["listening"]
        http_client = stripe.RequestsClient(
            timeout=10
        )  # its default is 80 s, longer than a test may take with its retries
        client = stripe.StripeClient(API_KEY, base_addresses={"api": url}, http_client=http_client).v1
        with FakeControl(url, API_KEY) as control:
            yield Fake(url, port, control, client, key_file, secrets_file)
        http_client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()
        reserved.close()


@pytest.fixture
def fake(stripe_fake):
    """Resets the Stripe fake for one test."""
    stripe_fake.control.reset()
    return stripe_fake


@pytest.fixture
def catalogue(request, tmp_path):
    """Returns the catalogue file with the text of a test, or None for billing's own."""
    text = getattr(request, "param", None)
    if text is None:
        return None
    path = tmp_path / "plans.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def settings(fake, catalogue, tmp_path):
    """Returns billing's settings."""
    publishers = tmp_path / "publishers.json"
    publishers.write_text(json.dumps({"metering": {"tenants": ["*"]}}))
    return {
        "stripe_api_key_file": fake.key_file,
        "stripe_api_base": fake.url,
        "stripe_webhook_secrets_file": fake.secrets_file,
        "publishers_file": publishers,
        "catalogue_file": catalogue,
        "http_port": fake.receiver_port,
    }


@pytest.fixture
async def testbed_of(start, nats, log, fake, settings, tmp_path):
    """Runs a service at the address to which the fake sends webhooks."""
    async with AsyncExitStack() as stack:

        async def run(service_):
            served = await start(service_, **settings)
            port = await stack.enter_async_context(serving(served.running))
            publishers = []
            for user in ("tenant", "metering"):
                client = await connect(nats.url, user, nats.password(user))
                stack.push_async_callback(client.close)
                publishers.append(Publisher(client, tmp_path / "identities"))
            return BillingTestbed(served, *publishers, fake, log, f"http://127.0.0.1:{port}")

        yield run


@pytest.fixture
async def testbed(testbed_of):
    return await testbed_of(service())


@pytest.fixture
def signed() -> Callable[..., dict[str, Any]]:
    """Returns the headers of a body that Stripe signed."""

    def sign(body: bytes, at: float | None = None, secret: str = SECRETS[0]) -> dict[str, Any]:
        text = body.decode("utf-8", "surrogateescape")
        when = int(at if at is not None else datetime.now(UTC).timestamp())
        return {
            "stripe-signature": stripe.WebhookSignature.generate_signature_header(text, secret, when),
            "content-type": "application/json",
        }

    return sign


@pytest.fixture
async def outside(testbed):
    """Returns an HTTP client without an API key, as a provider has."""
    async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
        yield client
