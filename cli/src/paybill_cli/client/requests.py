"""Sends requests idempotently, and prints the facts of dry runs."""

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


def preview(
    out: Output, service: Service, path: str, body: Mapping[str, Any] | None, key: str | None = None
) -> dict[str, Any] | None:
    """Prints the facts that a request would record; returns its result, or None when that is made later.

    The service decides, and rolls back. It refuses what it would refuse without the dry run. key: of the request, or of
    one that was executed, which would not be executed again.
    """
    found = service.post(path, body, key=key or str(uuid4()), dry_run=True)
    if out.json:
        out.record("dry_run", found)
    else:
        for fact in found["would_record"]:
            out.line("dry_run", fact, f"would record: {fact['sentence']}")
        if found["already_executed"]:
            out.line("dry_run", found, f"would record nothing: the request with the key {key} was already executed")
        elif not found["would_record"]:
            out.line("dry_run", found, "would record nothing: it is so already")
    out.info("nothing was changed")
    result: dict[str, Any] | None = found["result"]
    return result


def earlier_result(
    out: Output, service: Service, path: str, body: Mapping[str, Any] | None, key: str | None
) -> dict[str, Any] | None:
    """Returns the result of the executed request with this key, and prints that there is one; otherwise None."""
    if key is None:
        return None
    return executed(out, service.post(path, body, key=key, dry_run=True), key)


def executed(out: Output, dry_run: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Returns the result in the response to a dry run if it was executed before, and prints that; otherwise None."""
    if not dry_run["already_executed"]:
        return None
    out.info(f"the request with the key {key} was already executed, with this result; nothing was changed")
    return dict(dry_run["result"])


def result_preview(
    out: Output, service: Service, path: str, body: Mapping[str, Any] | None, key: str | None
) -> dict[str, Any]:
    """Returns the result that a request would have, of a route that previews it with `dry_run=true`.

    key: of a request that may be executed already; then its result.
    """
    if (earlier := earlier_result(out, service, path, body, key)) is not None:
        return earlier
    found: dict[str, Any] = service.post(f"{path}?dry_run=true", body)
    out.info("nothing was changed")
    return found
