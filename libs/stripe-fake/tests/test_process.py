"""The process: its start, its refusals, and its stop."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from paybill_embedded.progress import processor_time_s
from paybill_stripe_fake.__main__ import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in this process to its end, for options that are refused."""
    monkeypatch.chdir(tmp_path)

    def command(*options):
        try:
            code = main(["serve", "--port", "0", *options])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("sk_test_1\n")
    return str(path)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),  # noqa: S104 - refused
        (["--host", "192.0.2.1", "--allow-remote"], "cannot listen"),
        (["--port", "99999"], "cannot listen"),
        (["--webhook-url", "http://127.0.0.1/x"], "--webhook-secret-file"),
        (["--webhook-secret-file", "key"], "--webhook-url"),
        (["--webhook-url", "ftp://127.0.0.1/x", "--webhook-secret-file", "key"], "http"),
        (["--webhook-url", "http://example.com/x", "--webhook-secret-file", "key"], "--allow-remote"),
        (["--webhook-url", "http://[::1/x", "--webhook-secret-file", "key"], "http"),
        (["--public-url", "pay.example.com"], "--public-url"),
        (["--api-key-file", "absent"], "cannot read absent"),
        (["--api-key-file", os.devnull], "is empty"),
        (["--state", "absent/state"], "writable folder"),
        (["--state", "key"], "key"),
    ],
)
def test_a_failed_start_gives_its_reason_in_one_line(run, key_file, options, hint):
    code, out, err = run("--api-key-file", key_file, *options)

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert hint in err
    assert "sk_test_1" not in err


@pytest.mark.parametrize(
    "options", [["--retry-days", "0"], ["--retry-days", "x"], ["--webhook-retry-s", "-1"], ["--nonsense"]]
)
def test_a_wrong_option_is_a_usage_error(run, key_file, options):
    assert run("--api-key-file", key_file, *options)[0] == 2


def test_an_occupied_port_is_one_clear_line(key_file, fake):
    port = fake.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "paybill_stripe_fake", "serve", "--port", port, "--api-key-file", key_file]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "choose another --port" in ended.stderr


def test_without_json_the_address_is_printed_as_text(key_file):
    command = [sys.executable, "-m", "paybill_stripe_fake", "serve", "--port", "0", "--api-key-file", key_file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        process.terminate()

    assert line.startswith("stripe-fake is listening at http://127.0.0.1:")
    assert process.returncode == 0


@pytest.mark.e2e
def test_a_restart_on_the_same_state_keeps_everything(start, tmp_path):
    fake = start("--state", str(tmp_path / "state"))
    paid = fake.control.pay_checkout(fake.checkout(customer_email="ada@example.com").id)
    options = {"idempotency_key": "kept"}
    product = fake.stripe.products.create({"name": "P"}, options)
    paths = ["/v1/events?limit=100", "/v1/customers", "/v1/subscriptions", "/v1/invoices", "/v1/checkout/sessions"]
    ahead = fake.control.advance_clock(timedelta(days=1))
    before = [fake.http.get(path).json() for path in paths]
    fake.stop(signal.SIGKILL)
    fake.start()

    assert [fake.http.get(path).json() for path in paths] == before
    assert fake.stripe.products.create({"name": "P"}, options).id == product.id
    assert fake.control.renew(paid["subscription"])["status"] == "active"
    assert 0 <= fake.control.clock()["offset_s"] - ahead["offset_s"] <= 1


@pytest.mark.e2e
def test_another_webhook_url_after_a_restart_gets_the_undelivered_events(start, receiver, tmp_path):
    fake = start("--state", str(tmp_path / "state"), receiver=receiver)
    fake.control.pause_delivery()
    fake.customer(card=None)
    fake.stop(signal.SIGKILL)
    fake.options[fake.options.index(receiver.url)] = f"{receiver.url}/moved"
    fake.start()
    fake.control.resume_delivery()
    fake.control.wait_delivered()

    assert receiver.paths == ["/webhooks/stripe/moved"]
    [endpoint] = fake.stripe.webhook_endpoints.list().data
    assert endpoint.url == f"{receiver.url}/moved"


@pytest.fixture(scope="module")
def unusual(launch, tmp_path_factory, running_receiver):
    """Starts a process with all options that other tests leave out."""
    folder = tmp_path_factory.mktemp("unusual")
    options = ["--host", "::1", "--public-url", "https://pay.example.com/", "--state", str(folder / "state")]
    process = launch(folder, running_receiver.url, *options)
    yield process
    process.stop(signal.SIGKILL)


def test_ipv6_loopback_counts_as_this_machine(unusual):
    assert unusual.url.startswith("http://[::1]:")
    assert unusual.customer().id.startswith("cus_")


def test_the_checkout_page_can_have_a_public_address(unusual):
    assert unusual.checkout().url.startswith("https://pay.example.com/fake/checkout/cs_test_")


def test_a_state_file_in_use_is_one_clear_line(run, key_file, unusual):
    code, _, err = run("--api-key-file", key_file, "--state", str(unusual.folder / "state"))

    assert (code, "in use" in err) == (1, True)


def test_secrets_from_the_command_line_are_not_in_the_state_file(unusual, receiver):
    unusual.customer()
    content = (unusual.folder / "state").read_text()

    assert not any(secret in content for secret in [*receiver.secrets, unusual.key])
    assert json.loads(content.splitlines()[0])["format"] == "paybill-stripe-fake"


def test_the_process_starts_with_a_second_of_work_prints_one_line_and_ends_with_0(start):
    """Its start is promised below one second. Other processes lengthen the start, and hardly its processor time."""
    fake = start()
    used_s = processor_time_s(fake.process.pid)
    fake.customer()
    fake.http.get("/v1/nothing")
    fake.process.send_signal(signal.SIGTERM)
    rest = fake.process.stdout.read()

    assert used_s < 3
    assert fake.url.startswith("http://127.0.0.1:")
    assert (fake.process.wait(10), rest) == (0, "")
