"""`paybill licence verify`: is a licence good? Wholly offline, with nothing but its issuer's public keys."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
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
from pydantic import AwareDatetime, TypeAdapter

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
_ANY_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
_SPACE = 1024
"""White space around a text that a file may have, such as its last line break."""


def verify(
    out: Output,
    file: Annotated[str, typer.Argument(help="The file with the licence, or - for standard input.", metavar="FILE")],
    keys: Annotated[Path, typer.Option("--keys", help="The issuer's public keys, from `paybill licence keys`.")],
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="The issuer's list, from /.well-known/license-revocations.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="The time to verify it for, such as 2026-03-01T12:00:00Z; now if not given."),
    ] = None,
) -> None:
    """Say whether a licence is good, offline; exit code 1 when it is not.

    The error's code says why. That a licence is not good stops nothing by itself: docs/licences.md.

    Example: paybill licence verify acme.licence --keys license-keys.json --revocations license-revocations
    """
    now = _time(at)
    token = _read(file, MAX_LICENCE_CHARS)
    list_token = _read(str(revocations), MAX_REVOCATIONS_CHARS) if revocations is not None else None
    try:
        trusted = read_keys(_read(str(keys), MAX_KEYS_BYTES))
        revoked = verify_revocations(list_token, trusted, now) if list_token is not None else None
        licence = verify_licence(token, trusted, now, revoked)
    except LicenceRefusedError as error:
        what, _, then = str(error).partition("; ")
        raise CliError(error.code, what, next=then) from error
    if revoked is not None and revoked.is_stale(now):
        out.say(
            f"the list of revocations should have been replaced by {revoked.next_update.isoformat()}: fetch it anew"
        )
    said = licence.model_dump(mode="json")
    plan = said["plan"] if out.json else f"{licence.plan.plan} v{licence.plan.version}"
    advice = update_status(None, licence, now).advice
    out.record("licence.verified", {**said, "plan": plan, "advice": advice}, FIELDS)


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        return _ANY_TIME.validate_python(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise usage(f"{text!r} is no time with an offset", next="write it as 2026-03-01T12:00:00Z") from error


def _read(name: str, longest: int) -> bytes:
    """What is in a file, without the white space around it; no more of it than makes sense."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(longest + _SPACE).strip()
        with Path(name).open("rb") as file:
            return file.read(longest + _SPACE).strip()
    except OSError as error:
        raise usage(
            f"{name} cannot be read", code="file_unreadable", why=error.strerror or "", next="check its path"
        ) from error
