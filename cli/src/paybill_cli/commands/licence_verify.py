"""`paybill licence verify`: verifies a licence offline, with the public keys of its issuer."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from paybill_cli import formatting
from paybill_cli.client.next_steps import next_step
from paybill_cli.errors import CliError, usage
from paybill_cli.output import Output

FIELDS = (
    "advice",
    "licence_id",
    "tenant_id",
    "subscription_id",
    "plan",
    "tier",
    "features",
    "seats",
    "issued_at",
    "expires_at",
    "revision",
    "kid",
)
_WHITE_SPACE_BYTES = 1024
"""White space around the content of a file, such as its last line break."""


def verify(
    out: Output,
    file: Annotated[str, typer.Argument(help="File with the licence, or - for standard input.", metavar="FILE")],
    keys: Annotated[Path, typer.Option("--keys", help="The issuer's public keys, from `paybill licence keys`.")],
    revocations: Annotated[
        Path | None,
        typer.Option("--revocations", help="The issuer's revocation list, from /.well-known/license-revocations."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="Time of the verification, such as 2026-03-01T12:00:00Z; by default now."),
    ] = None,
) -> None:
    """Verify a licence offline; exit code 1 when it is not valid.

    The code of the error names the reason. The verification itself blocks nothing: docs/licences.md.

    Example: paybill licence verify acme.licence --keys license-keys.json --revocations license-revocations
    """
    from paybill_licence import (
        MAX_KEYS_BYTES,
        MAX_LICENCE_CHARS,
        MAX_REVOCATIONS_CHARS,
        LicenceRefusedError,
        read_keys,
        update_status,
        verify_licence,
        verify_revocations,
    )

    now = _time(at)
    token = _read(file, MAX_LICENCE_CHARS)
    list_token = _read(str(revocations), MAX_REVOCATIONS_CHARS) if revocations is not None else None
    try:
        trusted = read_keys(_read(str(keys), MAX_KEYS_BYTES))
        revoked = verify_revocations(list_token, trusted, now) if list_token is not None else None
        licence = verify_licence(token, trusted, now, revoked)
    except LicenceRefusedError as error:
        message, _, advice = str(error).partition("; ")
        raise CliError(error.code, message, why=advice, next=next_step(error.code)) from error
    if revoked is not None and revoked.is_stale(now):
        due = formatting.time(revoked.next_update.isoformat())
        out.info(f"the revocation list is out of date since {due}: download it again")
    fields = licence.model_dump(mode="json")
    plan = fields["plan"] if out.json else f"{licence.plan.plan} v{licence.plan.version}"
    advice = update_status(None, licence, now).advice
    out.record("licence.verified", {**fields, "plan": plan, "advice": advice}, FIELDS)


def _time(text: str | None) -> datetime:
    from pydantic import AwareDatetime, TypeAdapter

    if text is None:
        return datetime.now(UTC)
    try:
        return TypeAdapter(AwareDatetime).validate_python(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise usage(f"{text!r} is not a time with a zone, such as 2026-03-01T12:00:00Z") from error


def _read(name: str, max_bytes: int) -> bytes:
    """Reads at most `max_bytes` of a file, without surrounding white space."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(max_bytes + _WHITE_SPACE_BYTES).strip()
        with Path(name).open("rb") as file:
            return file.read(max_bytes + _WHITE_SPACE_BYTES).strip()
    except OSError as error:
        raise usage(f"{name} cannot be read", code="file_unreadable", why=error.strerror or "") from error
