"""`paybill key`: API keys of persons and programs."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import LocalStack, Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, DryRun, Limit, RequestOptions, Yes
from paybill_cli.output import Output

COLUMNS = ("id", "name", "subject", "role", "scopes", "status", "source", "expires_at")
_KEYS = "/v1/keys"
_ID = re.compile(r"[A-Za-z0-9-]{1,32}")
_LIFETIME = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_OWN = re.compile(r"pbk_([A-Za-z0-9-]{1,32})_")

Id = Annotated[str, typer.Argument(help="Id of the key, as `paybill key list` lists it.", metavar="KEY")]


def create(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    name: Annotated[str, typer.Argument(help="Purpose of the key, such as reports.", metavar="NAME")],
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            help="Who uses the key: user:… for a person, service:… for a program. Kept in the log permanently: "
            "an identifier of an employee, not a name. Keys with one subject are one person.",
        ),
    ],
    role: Annotated[
        Literal["viewer", "operator", "approver", "admin"], typer.Option("--role", help="At most your own role.")
    ],
    scopes: Annotated[
        str,
        typer.Option(
            "--scopes",
            help="Scopes, separated by commas: tenant, billing, provisioner or agent-gateway with :read or :write, "
            "or * for all. At most your own.",
        ),
    ],
    expires: Annotated[
        str,
        typer.Option("--expires", help="Time until its end, such as 12h or 90d (at most 366d), or the end itself."),
    ] = "90d",
) -> None:
    """Create an API key, which is shown only now.

    Every service accepts it within a second. Your key needs the role admin and the scope tenant:write.

    Example: paybill key create reports --subject service:reports --role viewer --scopes tenant:read,billing:read
    """
    body = {
        "name": name,
        "subject": subject,
        "role": role,
        "scopes": [scope for scope in (part.strip() for part in scopes.split(",")) if scope],
        **_end(expires),
    }
    with Service(stack, "tenant") as tenant:
        if options.dry_run:
            preview(out, tenant, _KEYS, body, options.idempotency_key)
            return
        made = post(out, tenant, _KEYS, body, options.idempotency_key)
    if made["key"] is None:
        raise CliError(
            "key_not_shown_again",
            f"{made['id']} was created by an earlier attempt, whose response alone had the key",
            next=f"paybill key revoke {made['id']}",
            exit_code=ExitCode.CONFLICT,
        )
    out.record("key.created", _row(out, made), (*COLUMNS, "key"))
    out.info("the key is shown only now; every service accepts it within a second")


def list_all(
    out: Output,
    stack: Stack,
    subject: Annotated[str | None, typer.Option("--subject", help="Only keys of this person or program.")] = None,
    limit: Limit = 100,
) -> None:
    """List API keys, also expired and revoked ones.

    Keys of the source file are in the file of keys of the installation: they come first, and no command revokes them.

    Example: paybill key list --subject user:staff-17
    """
    with Service(stack, "tenant") as tenant:
        found, more = tenant.list_rows(_KEYS, "keys", {"subject": subject}, limit)
    out.rows("key.list", [_row(out, key) for key in found[:limit]], COLUMNS)
    if more or len(found) > limit:
        out.more(limit)


def revoke(out: Output, stack: Stack, options: ConfirmedOptions, key: Id) -> None:
    """Revoke an API key: every service refuses it within a second.

    This cannot be undone; create another key instead.

    Example: paybill key revoke key-0123456789abcdef
    """
    if _ID.fullmatch(key) is None:
        raise usage(f"{key!r} is not the id of an API key", next="paybill key list")
    path = f"{_KEYS}/{key}"
    with Service(stack, "tenant") as tenant:
        if options.dry_run:
            preview(out, tenant, f"{path}/revoke", None, options.idempotency_key)
            return
        found = tenant.get(path)
        own = _OWN.match(stack.api_key())
        is_own = " It is the key of this command." if own is not None and own[1] == key else ""
        out.confirm(f"Revoke {key} ({found['name']}) of {found['subject']}?{is_own}", yes=options.yes)
        done = post(out, tenant, f"{path}/revoke", None, options.idempotency_key)
    out.record("key.revoked", _row(out, done), (*COLUMNS, "revoked_by", "revoked_at"))


def rotate(out: Output, stack: LocalStack, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Replace the operator's key of a local stack, and show the new one.

    Only its hash is stored, so that it cannot be shown again. The old key ends at once, and a running stack accepts the
    new one without a restart. This needs no key, but access to the data directory.

    Example: paybill key rotate
    """
    from paybill_stack.layout import Layout
    from paybill_stack.operator_key import ensure_operator_key, operator_keys

    path = Layout(stack.data_dir.absolute()).api_keys
    old = ", ".join(key.id for key in operator_keys(path))
    if not old:
        raise CliError(
            "operator_key_not_found",
            f"{path} has no operator's key",
            why="the first `paybill up` in a data directory creates it",
            next="name its folder with --data-dir",
            exit_code=ExitCode.NOT_FOUND,
        )
    if dry_run:
        out.record("key.rotated", {"ends": old})
        out.info("would end this key and show a new one; nothing was changed")
        return
    out.confirm(f"End the operator's key {old}, and show a new one?", yes=yes)
    key = ensure_operator_key(path, datetime.now(UTC), replace=True)
    out.record("key.rotated", {"ends": old, "key": key})
    out.info("the key is shown only now: export PAYBILL_API_KEY=…")


def _row(out: Output, key: dict[str, Any]) -> dict[str, Any]:
    return key if out.json else key | {"scopes": ", ".join(key["scopes"])}


def _end(text: str) -> dict[str, Any]:
    """Returns the field with the end of a key.

    A time from now is sent as such: a repeated command is then the same request.
    """
    lifetime = _LIFETIME.fullmatch(text)
    if lifetime is not None:
        return {"lifetime_s": int(lifetime[1]) * _SECONDS[lifetime[2]]}
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise usage(f"{text!r} is no time such as 12h, 90d or 2027-01-01", next="paybill key create --help") from error
    return {"expires_at": (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).isoformat()}
