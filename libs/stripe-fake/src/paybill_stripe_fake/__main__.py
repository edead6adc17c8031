"""Runs `python -m paybill_stripe_fake serve`: starts the Stripe fake and stops it on SIGTERM."""

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import uvicorn

from paybill_stripe_fake.account import Account, RetryPolicy
from paybill_stripe_fake.deliveries import PAYLOADS
from paybill_stripe_fake.forms import is_web_url
from paybill_stripe_fake.sender import Sender
from paybill_stripe_fake.server import create_app
from paybill_stripe_fake.store import StateFileError, Store
from paybill_stripe_fake.traffic import Traffic
from paybill_stripe_fake.webhook_endpoints import is_loopback, set_static

_INTERRUPTED = 130
_MAX_RETRIES = 20
_SHUTDOWN_S = 5


class StartError(Exception):
    """Raised when the process cannot start with its options; the message names the next step."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return _serve(options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (StartError, StateFileError) as error:
        sys.stderr.write(f"stripe-fake: {error}\n")
        return 1


def _serve(options: argparse.Namespace) -> int:
    _check_loopback(options)
    api_key = _secrets(options.api_key_file)[0]
    signing = _secrets(options.webhook_secret_file) if options.webhook_secret_file else []
    with closing(_listen(options.host, options.port)) as listener, closing(Store(options.state)) as store:
        url = f"http://{_bracketed(options.host)}:{listener.getsockname()[1]}"
        account = Account(
            store,
            base_url=(options.public_url or url).rstrip("/"),
            finalize_after_s=options.finalize_after_s,
            retry_policy=RetryPolicy(options.retry_days, options.when_retries_fail),
            allow_remote=options.allow_remote,
            static_payload=options.webhook_payload,
            traffic=Traffic(options.limit_per_endpoint, options.limit_per_account),
        )
        with account.work():
            set_static(account, options.webhook_url, signing)
        sender = partial(Sender, account, timeout_s=options.webhook_timeout_s, retry_s=options.webhook_retry_s)
        app = create_app(account, api_key, sender, lambda: _announce(url, as_json=options.json))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_SHUTDOWN_S
        )
        # Uvicorn shuts down on SIGTERM, then raises the signal again; the second signal ends this process.
        signal.signal(signal.SIGTERM, _stop)
        asyncio.run(_run(uvicorn.Server(config), listener))
    return 0


async def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # A parent may block SIGINT until the event loop handles it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    await asyncio.sleep(0)  # ends here if an interrupt arrived before
    await server.serve(sockets=[listener])


def _announce(url: str, *, as_json: bool) -> None:
    line = json.dumps({"listening": url}) if as_json else f"stripe-fake is listening at {url}"
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paybill stripe-fake",
        description="Runs a fake of the Stripe API for development and tests.",
        epilog="Example: paybill stripe-fake serve --api-key-file key --port 8420",
    )
    serve = parser.add_subparsers(required=True).add_parser("serve", help="run until SIGTERM or Ctrl-C")
    add = serve.add_argument
    add("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    add("--port", type=int, default=8420, help="port to bind, 0 for any free one (default: %(default)s)")
    add("--state", type=Path, help="file that keeps all state across restarts (default: memory only)")
    add("--api-key-file", type=Path, required=True, help="file with the API key that clients use")
    add("--webhook-url", help="URL that receives all events")
    add("--webhook-secret-file", type=Path, help="file with the signing secrets, one a line; every one signs")
    add(
        "--webhook-payload",
        choices=PAYLOADS,
        default="snapshot",
        help="payload style: full snapshots, thin events, or both (default: %(default)s)",
    )
    add("--allow-remote", action="store_true", help="accept connections from, and send webhooks to, other machines")
    add("--public-url", help="public address of the checkout page (default: the bound address)")
    add(
        "--retry-days",
        type=_days,
        default=(3.0, 5.0, 7.0),
        metavar="D,D,…",
        help="retries of a failed renewal, in days after the previous failure (default: 3,5,7)",
    )
    add(
        "--when-retries-fail",
        choices=("canceled", "unpaid", "past_due"),
        default="canceled",
        help="status after the last retry (default: %(default)s)",
    )
    add(
        "--finalize-after-s",
        type=int,
        default=0,
        metavar="S",
        help="time from the end of a period to the finalisation of its invoice; about 3600 at Stripe "
        "(default: %(default)s)",
    )
    add(
        "--webhook-retry-s",
        type=_seconds,
        default=0.5,
        help="delay before the second attempt; it doubles up to 15 s (default: %(default)s)",
    )
    add("--webhook-timeout-s", type=_seconds, default=10.0, help="timeout of an attempt (default: %(default)s)")
    add(
        "--limit-per-endpoint",
        type=_rate,
        metavar="N",
        help="limit of API calls per second to one endpoint (default: none)",
    )
    add("--limit-per-account", type=_rate, metavar="N", help="limit of API calls per second in total (default: none)")
    add("--json", action="store_true", help="print the address as JSON")
    return parser


def _check_loopback(options: argparse.Namespace) -> None:
    if bool(options.webhook_url) != bool(options.webhook_secret_file):
        raise StartError("--webhook-url and --webhook-secret-file must be given together")
    for option, url in (("--webhook-url", options.webhook_url), ("--public-url", options.public_url)):
        if url and not is_web_url(url):
            raise StartError(f"{option} {url} is not an http(s) URL")
    if options.allow_remote:
        return
    for option, host in (
        ("--host", options.host),
        ("--webhook-url", urlsplit(options.webhook_url or "//localhost").hostname),
    ):
        if not is_loopback(host):
            raise StartError(f"{option} {host} is not this machine; add --allow-remote to permit it")


def _listen(host: str, port: int) -> socket.socket:
    # With the protocol named, asyncio disables Nagle's algorithm; without it, every response takes 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise StartError(
            f"cannot listen at {host}:{port}: {error}; choose another --port, or stop the process that uses it"
        ) from error
    return listener


def _secrets(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot read {path}: {error}") from error
    if not lines:
        raise StartError(f"{path} is empty; write a secret into it")
    return lines


def _days(text: str) -> tuple[float, ...]:
    days = tuple(float(part) for part in text.split(",") if part)
    if len(days) > _MAX_RETRIES or not all(0 < day <= 365 for day in days):  # noqa: PLR2004 - a year
        message = f"at most {_MAX_RETRIES} numbers above 0 and up to 365"
        raise argparse.ArgumentTypeError(message)
    return days


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:  # noqa: PLR2004 - an hour
        message = "a number above 0 and up to 3600"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _rate(text: str) -> int:
    rate = int(text)
    if not 1 <= rate <= 100_000:  # noqa: PLR2004 - far above the rate that it can serve
        message = "a whole number from 1 to 100000"
        raise argparse.ArgumentTypeError(message)
    return rate


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
