"""Fixtures: the Stripe fake as a real process, the official SDK as its client, and a real webhook receiver."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import stripe
from paybill_stripe_fake.client import FakeControl

API_KEY = "sk_test_0123456789"
SECRETS = ["whsec_first", "whsec_second"]
DEADLINE_S = 60.0


class RunningFake:
    """One process of the Stripe fake; `start` and `stop` may be repeated on the same state file."""

    def __init__(self, folder: Path, receiver_url: str | None, *options: str):
        self.folder = folder
        self.key = API_KEY
        self.options = [*options, "--api-key-file", self._file("api-key", API_KEY), "--json"]
        if receiver_url:
            secrets = self._file("webhook-secrets", "\n".join(SECRETS))
            self.options += ["--webhook-url", receiver_url, "--webhook-secret-file", secrets]
            self.options = ["--webhook-retry-s", "0.02", *self.options]
        self._closing = []
        self.start()

    def start(self):
        command = [sys.executable, "-m", "paybill_stripe_fake", "serve", "--port", "0", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, "it did not start; its stderr says why"
        self.url = json.loads(line)["listening"]
        http_client = stripe.RequestsClient()
        self.stripe = stripe.StripeClient(API_KEY, base_addresses={"api": self.url}, http_client=http_client).v1
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {API_KEY}"}, trust_env=False)
        self.control = FakeControl(self.url, API_KEY)
        self._closing = [http_client, self.http, self.control]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        for client in self._closing:
            client.close()
        self._closing = []
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.stdout.close()

    def clone(self) -> httpx.Client:
        """Returns another connection, for use in a separate thread."""
        return httpx.Client(base_url=self.url, headers=self.http.headers, trust_env=False)

    def price(self, amount: int = 2000, **more):
        recurring = more.pop("recurring", {"interval": "month"})
        data = {"product_data": {"name": "Team"}, "currency": "usd", "unit_amount": amount, "recurring": recurring}
        return self.stripe.prices.create({**data, **more})

    def customer(self, card: str | None = "pm_card_visa", **more):
        cards = {"payment_method": card, "invoice_settings": {"default_payment_method": card}} if card else {}
        return self.stripe.customers.create({"email": "ada@example.com", **cards, **more})

    def subscribe(self, card: str | None = "pm_card_visa", **more):
        items = more.pop("items", None) or [{"price": self.price().id}]
        return self.stripe.subscriptions.create({"customer": self.customer(card).id, "items": items, **more})

    def checkout(self, **more):
        line_items = more.pop("line_items", None) or [{"price": self.price().id, "quantity": 1}]
        data = {"mode": "subscription", "success_url": "https://example.com/done", "line_items": line_items}
        return self.stripe.checkout.sessions.create({**data, **more})

    def middle_of(self, subscription) -> int:
        """Advances the clock to the middle of the subscription's period; returns that time."""
        item = subscription["items"].data[0]
        middle = (item.current_period_start + item.current_period_end) // 2
        self.http.post("/fake/clock/advance", json={"to": middle}).raise_for_status()
        return middle

    def newest_event(self) -> str:
        """Returns the id of the newest event."""
        return self.http.get("/v1/events", params={"limit": 1}).json()["data"][0]["id"]

    def events(self, object_id: str | None = None, *, since: str | None = None) -> list:
        """Returns events, oldest first; of one object, or after the event `since`."""
        params = {"limit": 100, **({"ending_before": since} if since else {})}
        found = list(self.stripe.events.list(params).auto_paging_iter())
        oldest_first = found if since else found[::-1]
        return [event for event in oldest_first if object_id in {None, event.data.object["id"]}]

    def _file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(f"{content}\n")
        return str(path)


class Receiver:
    """Webhook endpoint of a customer; it keeps each event whose signature the SDK accepts."""

    def __init__(self):
        self.clear()
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.take(body, dict(self.headers), self.path)
                with suppress(ConnectionError):  # a sender whose response was held may have given up
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_arguments):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/webhooks/stripe"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def clear(self):
        self.secrets = list(SECRETS)
        self.received: list[dict] = []
        self.bodies: list[bytes] = []
        self.refused: list[str] = []
        self.paths: list[str] = []
        self.headers: list[dict] = []
        self.statuses: list[int] = []
        self._released = threading.Event()
        self._released.set()

    @contextmanager
    def holding_responses(self):
        """Holds all responses back meanwhile."""
        self._released.clear()
        yield
        self._released.set()

    def take(self, body: bytes, headers: dict, path: str) -> int:
        with self._changed:
            status, current = self.statuses.pop(0) if self.statuses else 200, self.received
        self._released.wait(DEADLINE_S)
        if current is not self.received:
            return status  # held until after the end of its test
        for secret in self.secrets:
            stripe.WebhookSignature.verify_header(body, headers["Stripe-Signature"], secret, tolerance=300)
        event = json.loads(body)
        with self._changed:
            self.headers.append(headers)
            self.paths.append(path)
            if status < 300:
                self.received.append(event)
                self.bodies.append(body)
            else:
                self.refused.append(event["id"])
            self._changed.notify_all()
        return status

    def wait_for(self, condition: Callable[[list[dict]], object]) -> list[dict]:
        """Returns the received events once they satisfy the condition."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.received), DEADLINE_S), [
                e["type"] for e in self.received
            ]
            return list(self.received)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def launch() -> type[RunningFake]:
    """Returns the process class, for test modules with their own processes."""
    return RunningFake


@pytest.fixture(scope="session")
def running(tmp_path_factory) -> Iterator[RunningFake]:
    process = RunningFake(tmp_path_factory.mktemp("stripe-fake"), None)
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="session")
def running_receiver() -> Iterator["Receiver"]:
    served = Receiver()
    yield served
    served.close()


@pytest.fixture(scope="session")
def running_with_webhooks(tmp_path_factory, running_receiver) -> Iterator[RunningFake]:
    process = RunningFake(tmp_path_factory.mktemp("stripe-fake-webhooks"), running_receiver.url)
    yield process
    assert process.stop() == 0


@pytest.fixture
def fake(running) -> RunningFake:
    """Returns the shared process with an empty account, without webhooks."""
    running.control.reset()
    return running


@pytest.fixture
def receiver(running_receiver) -> "Receiver":
    """Returns the shared receiver, without received events."""
    running_receiver.clear()
    return running_receiver


@pytest.fixture
def webhook_fake(running_with_webhooks, receiver) -> RunningFake:
    """Returns the shared process with an empty account whose webhooks go to the receiver."""
    running_with_webhooks.control.reset()
    receiver.clear()
    return running_with_webhooks


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., RunningFake]]:
    """Starts a separate process for one test."""
    running: list[RunningFake] = []

    def begin(*options: str, receiver: Receiver | None = None) -> RunningFake:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(RunningFake(folder, receiver and receiver.url, *options))
        return running[-1]

    yield begin
    for process in running:
        process.stop(signal.SIGKILL)


@pytest.fixture
def refusal() -> Callable[..., SimpleNamespace]:
    """Runs a call and returns the error that Stripe's SDK raises."""

    def refused(kind: type[stripe.StripeError], call: Callable, *arguments) -> SimpleNamespace:
        with pytest.raises(kind) as caught:
            call(*arguments)
        error = caught.value
        return SimpleNamespace(
            status=error.http_status, code=error.code, param=getattr(error, "param", None), text=error.user_message
        )

    return refused
