"""`paybill licence`: a client of the billing service that issues and revokes licences."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer

from paybill_cli import formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, result_preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenant, with_tenants
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, OnlyTenant, Reason, RequestOptions, TenantName
from paybill_cli.output import Output

COLUMNS = ("licence_id", "tenant", "status", "plan", "seats_used", "seats", "expires_at")
FIELDS = (
    "licence_id",
    "tenant",
    "subscription_id",
    "status",
    "revision",
    "plan",
    "tier",
    "seats",
    "seats_used",
    "kid",
    "issued_at",
    "expires_at",
    "renews_at",
    "failure",
    "revoked",
)
KEYS = ("kid", "state", "published_at", "retire_at", "retired")

_LICENCE = re.compile(r"lic_[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WAIT_S = 30.0

Id = Annotated[str, typer.Argument(help="Id of the licence, lic_….", metavar="LICENCE")]
Machine = Annotated[
    str | None,
    typer.Argument(
        help="Identifier of the machine, such as its /etc/machine-id; only its hash is sent.", metavar="MACHINE"
    ),
]
Digest = Annotated[str | None, typer.Option("--digest", help="Hash of the identifier, instead of the identifier.")]


def issue(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    seats: Annotated[
        int | None, typer.Option("--seats", min=0, help="Number of machines; by default as many as were bought.")
    ] = None,
    valid_days: Annotated[
        int | None,
        typer.Option("--valid-days", min=1, max=366, help="Validity; the licence is renewed before its end."),
    ] = None,
) -> None:
    """Issue the licence of a tenant's entitling subscription.

    It is signed asynchronously, renewed while the subscription gives access, and reissued when the plan changes. A
    licence that exists is reissued if its seats or its validity change.

    Example: paybill licence issue acme --seats 5
    """
    path, body = f"/v1/tenants/{tenant_id(stack, tenant)}/licences", {"seats": seats, "valid_days": valid_days}
    with Service(stack, "billing") as billing:
        found = _post(out, billing, path, body, options.idempotency_key, dry_run=options.dry_run)
        _show(out, stack, found if options.dry_run else _signed(out, billing, found))
    if not options.dry_run:
        out.info(f"next: paybill licence show {found['licence_id']} --token, and send it to the customer")


def list_all(
    out: Output,
    stack: Stack,
    tenant: OnlyTenant = None,
    status: Annotated[
        Literal["signing", "in_force", "lapsing", "revoked"] | None,
        typer.Option("--status", help="Only licences with this status."),
    ] = None,
    kid: Annotated[str | None, typer.Option("--kid", help="Only licences that this key signed.")] = None,
    limit: Limit = 1000,
) -> None:
    """List licences in the order of their ids.

    Example: paybill licence list --status lapsing
    """
    query = {"tenant": tenant and tenant_id(stack, tenant), "status": status, "kid": kid}
    with Service(stack, "billing") as billing:
        found, more = billing.list_rows("/v1/licences", "licences", query, limit)
    rows = with_tenants(out, stack, found if out.json else [_row(licence) for licence in found])
    out.rows("licence.list", rows, COLUMNS)
    if more:
        out.more(limit)


def show(
    out: Output,
    stack: Stack,
    licence: Id,
    token: Annotated[bool, typer.Option("--token", help="Print only the token for the customer.")] = False,
) -> None:
    """Show a licence and its machines, or print its token.

    Example: paybill licence show lic_0123456789abcdef0123456789abcdef --token > acme.licence
    """
    path = _path(licence)
    with Service(stack, "billing") as billing:
        found = billing.get(path)
    if token:
        if found["token"] is None:
            raise CliError(
                "licence_not_in_force",
                f"{licence} is {found['licence']['status']}: it has no token",
                why=found["licence"]["failure"] or found["licence"]["revoked"] or "",
                next=f"paybill licence show {licence}",
                exit_code=ExitCode.CONFLICT,
            )
        out.line("licence.token", {"token": found["token"]}, found["token"])
    elif out.json:
        out.record("licence", found)
    else:
        _show(out, stack, found["licence"])
        for each in found["activations"]:
            out.info(f"machine {each['machine']}, last activation {formatting.readable(each['seen_at'])}")


def renew(out: Output, stack: Stack, options: RequestOptions, licence: Id) -> None:
    """Renew a licence before its scheduled renewal.

    Example: paybill licence renew lic_0123456789abcdef0123456789abcdef
    """
    path = _path(licence)
    with Service(stack, "billing") as billing:
        found = _post(out, billing, f"{path}/renew", None, options.idempotency_key, dry_run=options.dry_run)
        _show(out, stack, found if options.dry_run else _signed(out, billing, found))


def revoke(out: Output, stack: Stack, options: ConfirmedOptions, licence: Id, reason: Reason) -> None:
    """Revoke a licence, and release its seats.

    It is added to the signed revocation list, which revokes all its earlier tokens. It can be issued again.

    Example: paybill licence revoke lic_0123456789abcdef0123456789abcdef --reason "leaked"
    """
    path, body, dry_run = _path(licence), {"reason": reason}, options.dry_run
    with Service(stack, "billing") as billing:
        if not dry_run:
            out.confirm(f"Revoke {licence}? The customer needs a new one.", yes=options.yes)
        _show(out, stack, _post(out, billing, f"{path}/revoke", body, options.idempotency_key, dry_run=dry_run))


def activate(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    licence: Id,
    machine: Machine = None,
    digest: Digest = None,
) -> None:
    """Activate a machine: it uses a seat of the licence.

    For an active machine it records the time of the activation.

    Example: paybill licence activate lic_0123456789abcdef0123456789abcdef "$(cat /etc/machine-id)"
    """
    _change_seat(
        out,
        stack,
        "activate",
        licence,
        _machine(licence, machine, digest),
        options.idempotency_key,
        dry_run=options.dry_run,
    )


def deactivate(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    licence: Id,
    machine: Machine = None,
    digest: Digest = None,
) -> None:
    """Release the seat of a machine.

    Example: paybill licence deactivate lic_0123456789abcdef0123456789abcdef "$(cat /etc/machine-id)"
    """
    digest = _machine(licence, machine, digest)
    _change_seat(out, stack, "deactivate", licence, digest, options.idempotency_key, dry_run=options.dry_run)


def keys(
    out: Output,
    stack: Stack,
    every: Annotated[bool, typer.Option("--all", help="List all keys with their states.")] = False,
) -> None:
    """Print the public keys that verify licences, as a JWK set.

    Example: paybill licence keys > license-keys.json
    """
    with Service(stack, "billing") as billing:
        if every:
            out.rows("licence.keys", billing.get("/v1/licence-keys")["keys"], KEYS)
        else:
            out.document("licence.jwks", billing.get("/.well-known/license-keys.json"))


def rotate_keys(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    reason: Reason,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Distrust the current key: its signatures do not verify any more.")
    ] = False,
) -> None:
    """Sign licences with a new key from now on.

    The old key stays trusted until its last licence has expired, unless it is compromised.

    Example: paybill licence rotate-keys --reason "every year"
    """
    body, dry_run = {"reason": reason, "compromised": compromised}, options.dry_run
    with Service(stack, "billing") as billing:
        old = [key["kid"] for key in billing.get("/v1/licence-keys")["keys"] if key["state"] == "active"]
        if not dry_run:
            effect = "Its signatures will not verify any more." if compromised else "Its signatures stay valid."
            out.confirm(f"Replace the key {' '.join(old) or '(none yet)'}? {effect}", yes=options.yes)
        found = _post(out, billing, "/v1/licence-keys/rotate", body, options.idempotency_key, dry_run=dry_run)
        if not dry_run:
            found = _wait(
                out,
                "creating a new key",
                lambda: billing.get("/v1/licence-keys"),
                lambda ring: not ring["being_made"],
                "paybill licence keys --all",
            )
    out.rows("licence.keys", found["keys"], KEYS)
    for kid in old if compromised and not dry_run else ():
        out.info(f"the licences that {kid} signed have to be renewed; next: paybill licence list --kid {kid}")


def _path(licence: str) -> str:
    if not _LICENCE.fullmatch(licence):
        raise usage(f"{licence!r} is not an id of a licence", next="paybill licence list")
    return f"/v1/licences/{licence}"


def _machine(licence: str, machine: str | None, digest: str | None) -> str:
    """Returns the digest of the machine; its identifier is not sent."""
    if (machine is None) is (digest is None):
        raise usage("name either the machine or its --digest", next="paybill licence activate --help")
    if machine is not None:
        from paybill_licence import machine_digest

        return machine_digest(licence, machine)
    if not _DIGEST.fullmatch(digest or ""):
        raise usage("a --digest has 64 characters of 0-9 and a-f", next=f"paybill licence show {licence}")
    return str(digest)


def _change_seat(
    out: Output, stack: Stack, verb: str, licence: str, digest: str, key: str | None, *, dry_run: bool
) -> None:
    with Service(stack, "billing") as billing:
        _show(out, stack, _post(out, billing, f"{_path(licence)}/{verb}", {"machine": digest}, key, dry_run=dry_run))


def _post(
    out: Output, billing: Service, path: str, body: Mapping[str, Any] | None, key: str | None, *, dry_run: bool
) -> dict[str, Any]:
    """Returns the result of the request, or its preview."""
    if dry_run:
        return result_preview(out, billing, path, body, key)
    return post(out, billing, path, body, key)


def _signed(out: Output, billing: Service, requested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the licence once it is signed. Raises CliError when signing failed."""
    id_ = requested["licence_id"]
    found = _wait(
        out,
        f"signing {id_}",
        lambda: billing.get(f"/v1/licences/{id_}")["licence"],
        lambda licence: licence["pending"] is None or licence["failure"] is not None,
        f"paybill licence show {id_}",
    )
    if found["failure"] is not None:
        raise CliError(
            "licence_not_signed",
            f"{id_} could not be signed; signing is retried every hour",
            why=found["failure"],
            next=f"paybill licence show {id_}",
        )
    return found


def _wait(
    out: Output,
    text: str,
    fetch: Callable[[], dict[str, Any]],
    is_done: Callable[[dict[str, Any]], bool],
    next: str,  # noqa: A002  # as in CliError
) -> dict[str, Any]:
    deadline = Deadline(_WAIT_S, next)
    with out.progress(text):
        while not is_done(found := fetch()):
            deadline.pause(text)
    return found


def _row(licence: Mapping[str, Any]) -> dict[str, Any]:
    return {**licence, "plan": f"{licence['plan']['plan']} v{licence['plan']['version']}"}


def _show(out: Output, stack: Stack, licence: Mapping[str, Any]) -> None:
    out.record("licence", licence if out.json else with_tenant(out, stack, _row(licence)), FIELDS)
