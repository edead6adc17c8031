"""Sends requests idempotently, and prints requests of a dry run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from paybill_cli.client.http import Service
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output


@contextmanager
def idempotent(out: Output, key: str | None) -> Iterator[str]:
    """Provides the key of a request; if its outcome stays unknown, prints the option that repeats it safely."""
    key = key or str(uuid4())
    try:
        yield key
    except CliError as error:
        if error.exit_code is ExitCode.UNREACHABLE:
            out.info(f"repeat it with --idempotency-key {key}: it is executed once")
        raise


def post(out: Output, service: Service, path: str, body: Mapping[str, Any] | None, key: str | None) -> dict[str, Any]:
    """Posts a request under `key`, or under a new key; returns the response."""
    with idempotent(out, key) as own_key:
        response: dict[str, Any] = service.post(path, body, key=own_key)
    return response


def print_unsent(out: Output, service: str, path: str, body: Mapping[str, Any]) -> None:
    """Prints the request of a dry run."""
    out.record("request", {"service": service, "method": "POST", "path": path, "body": body})
    out.info("nothing was sent")
