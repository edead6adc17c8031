"""`paybill licence`: a client of the billing service, for those who issue licences."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer
from paybill_licence import machine_digest

from paybill_cli.asking import Again, Reason, Yes, sent
from paybill_cli.calls import Service
from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output
from paybill_cli.tenants import id_of

COLUMNS = ("licence_id", "tenant_id", "status", "plan", "seats_used", "seats", "expires_at")
FIELDS = (
    "licence_id",
    "tenant_id",
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
_POLL_S = 0.2
_WAIT_S = 30.0

Tenant = Annotated[str, typer.Argument(help="The tenant's slug or id.", metavar="TENANT")]
Id = Annotated[str, typer.Argument(help="The licence's id, lic_….", metavar="LICENCE")]
Machine = Annotated[
    str | None,
    typer.Argument(help="What identifies the machine there, such as its /etc/machine-id; only a hash of it is sent."),
]
Digest = Annotated[str | None, typer.Option("--digest", help="The hash itself, as `paybill licence show` lists it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would come of it, and change nothing.")]


def issue(
    out: Output,
    stack: Stack,
    tenant: Tenant,
    seats: Annotated[
        int | None, typer.Option("--seats", min=0, help="Machines at once; as many as were bought if not given.")
    ] = None,
    valid_days: Annotated[
        int | None, typer.Option("--valid-days", min=1, max=366, help="How long each lasts; it is renewed before.")
    ] = None,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Issue the licence of the subscription that entitles a tenant.

    It is signed a moment later, renewed while the subscription gives access, and reissued when that gives something
    else. Issued already, it is reissued if its seats or its life are to be others.

    Example: paybill licence issue acme --seats 5
    """
    path, body = f"/v1/tenants/{id_of(stack, tenant)}/licences", {"seats": seats, "valid_days": valid_days}
    with Service(stack, "billing") as billing:
        found = _answered(out, billing, path, body, idempotency_key, dry_run=dry_run)
        _show(out, found if dry_run else _signed(out, billing, found))
    if not dry_run:
        out.say(f"next: paybill licence show {found['licence_id']} --token > FILE, for its holder")


def list_all(
    out: Output,
    stack: Stack,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's: its slug or id.")] = None,
    status: Annotated[
        Literal["signing", "in_force", "lapsing", "revoked"] | None,
        typer.Option("--status", help="Only those that stand so."),
    ] = None,
    kid: Annotated[str | None, typer.Option("--kid", help="Only those that this key signed.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
) -> None:
    """List licences in the order of their ids.

    Example: paybill licence list --status lapsing
    """
    query = {"tenant": tenant and id_of(stack, tenant), "status": status, "kid": kid}
    with Service(stack, "billing") as billing:
        found, more = billing.listed("/v1/licences", "licences", query, limit)
    out.rows("licence.list", found if out.json else [_for_people(licence) for licence in found], COLUMNS)
    if more:
        out.say(f"there are more than {limit}; see them with --limit")


def show(
    out: Output,
    stack: Stack,
    licence: Id,
    token: Annotated[
        bool, typer.Option("--token", help="Print the text that its holder gets, and nothing else.")
    ] = False,
) -> None:
    """Show a licence and its machines, or print its text.

    Example: paybill licence show lic_0123456789abcdef0123456789abcdef --token > acme.licence
    """
    path = _path(licence)
    with Service(stack, "billing") as billing:
        found = billing.get(path)
    if token:
        if found["token"] is None:
            raise CliError(
                "licence_not_in_force",
                f"{licence} is {found['licence']['status']}: there is nothing to hand out",
                why=found["licence"]["failure"] or found["licence"]["revoked"] or "",
                next=f"paybill licence show {licence}",
                exit_code=ExitCode.CONFLICT,
            )
        out.line("licence.token", {"token": found["token"]}, found["token"])
    elif out.json:
        out.record("licence", found)
    else:
        _show(out, found["licence"])
        for each in found["activations"]:
            out.say(f"machine {each['machine']}, last seen {each['seen_at']}")


def renew(out: Output, stack: Stack, licence: Id, idempotency_key: Again = None, dry_run: DryRun = False) -> None:
    """Sign a licence anew, without waiting for its time.

    Example: paybill licence renew lic_0123456789abcdef0123456789abcdef
    """
    path = _path(licence)
    with Service(stack, "billing") as billing:
        found = _answered(out, billing, f"{path}/renew", None, idempotency_key, dry_run=dry_run)
        _show(out, found if dry_run else _signed(out, billing, found))


def revoke(
    out: Output,
    stack: Stack,
    licence: Id,
    reason: Reason,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Take a licence back: it goes on the signed list, and its seats are free.

    What was signed of it before is revoked for whoever has the list. It can be issued again.

    Example: paybill licence revoke lic_0123456789abcdef0123456789abcdef --reason "leaked"
    """
    path, body = _path(licence), {"reason": reason}
    with Service(stack, "billing") as billing:
        if not dry_run:
            out.confirm(f"Revoke {licence}? Whoever holds it has to be given another.", yes=yes)
        _show(out, _answered(out, billing, f"{path}/revoke", body, idempotency_key, dry_run=dry_run))


def activate(
    out: Output,
    stack: Stack,
    licence: Id,
    machine: Machine = None,
    digest: Digest = None,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Let a machine use a seat of a licence.

    Again for the same machine, it says that the machine was seen.

    Example: paybill licence activate lic_0123456789abcdef0123456789abcdef "$(cat /etc/machine-id)"
    """
    path, body = _path(licence), {"machine": _machine(licence, machine, digest)}
    with Service(stack, "billing") as billing:
        _show(out, _answered(out, billing, f"{path}/activate", body, idempotency_key, dry_run=dry_run))


def deactivate(
    out: Output,
    stack: Stack,
    licence: Id,
    machine: Machine = None,
    digest: Digest = None,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Give a machine's seat back.

    Example: paybill licence deactivate lic_0123456789abcdef0123456789abcdef "$(cat /etc/machine-id)"
    """
    path, body = _path(licence), {"machine": _machine(licence, machine, digest)}
    with Service(stack, "billing") as billing:
        _show(out, _answered(out, billing, f"{path}/deactivate", body, idempotency_key, dry_run=dry_run))


def keys(
    out: Output,
    stack: Stack,
    every: Annotated[bool, typer.Option("--all", help="List all that there ever were, and where they stand.")] = False,
) -> None:
    """Print the public keys that licences are verified with, as a JWK set.

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
    reason: Reason,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Trust the key in use no more: what it signed does not verify.")
    ] = False,
    yes: Yes = False,
    idempotency_key: Again = None,
    dry_run: DryRun = False,
) -> None:
    """Have licences signed with a new key from now on.

    The old key is trusted until the last licence has ended that it signed, unless it is compromised.

    Example: paybill licence rotate-keys --reason "every year"
    """
    path, body = "/v1/licence-keys/rotate", {"reason": reason, "compromised": compromised}
    with Service(stack, "billing") as billing:
        old = [key["kid"] for key in billing.get("/v1/licence-keys")["keys"] if key["state"] == "active"]
        if not dry_run:
            effect = "Nothing that it signed will verify any more." if compromised else "What it signed stays good."
            out.confirm(f"Replace the key {' '.join(old) or '(none yet)'}? {effect}", yes=yes)
        found = _answered(out, billing, path, body, idempotency_key, dry_run=dry_run)
        if not dry_run:
            found = _until(
                out,
                "a new key is being made",
                lambda: billing.get("/v1/licence-keys"),
                lambda ring: not ring["being_made"],
                "paybill licence keys --all",
            )
    out.rows("licence.keys", found["keys"], KEYS)
    for kid in old if compromised and not dry_run else ():
        out.say(f"next: renew what it signed, each of: paybill licence list --kid {kid}")


def _path(licence: str) -> str:
    if not _LICENCE.fullmatch(licence):
        raise usage(f"{licence!r} is no licence's id", next="paybill licence list")
    return f"/v1/licences/{licence}"


def _machine(licence: str, machine: str | None, digest: str | None) -> str:
    """The digest of the machine: what identifies it stays here."""
    if (machine is None) is (digest is None):
        raise usage("name the machine, or give its --digest: one of them", next="paybill licence activate --help")
    if machine is not None:
        return machine_digest(licence, machine)
    if not _DIGEST.fullmatch(digest or ""):
        raise usage("a --digest is 64 of 0-9 and a-f", next=f"paybill licence show {licence}")
    return str(digest)


def _answered(
    out: Output, billing: Service, path: str, body: Mapping[str, Any] | None, key: str | None, *, dry_run: bool
) -> dict[str, Any]:
    """What came of it, or would."""
    if dry_run:
        tried: dict[str, Any] = billing.post(f"{path}?dry_run=true", body)
        out.say("nothing was changed")
        return tried
    return sent(out, billing, path, body, key)


def _signed(out: Output, billing: Service, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The licence once it is signed, or it is known why it could not be."""
    id_ = asked["licence_id"]
    found = _until(
        out,
        f"{id_} is being signed",
        lambda: billing.get(f"/v1/licences/{id_}")["licence"],
        lambda licence: licence["pending"] is None or licence["failure"] is not None,
        f"paybill licence show {id_}",
    )
    if found["failure"] is not None:
        raise CliError(
            "licence_not_signed",
            f"{id_} could not be signed; it is tried again every hour",
            why=found["failure"],
            next=f"paybill licence show {id_}",
        )
    return found


def _until(
    out: Output, text: str, look: Callable[[], dict[str, Any]], is_done: Callable[[dict[str, Any]], bool], then: str
) -> dict[str, Any]:
    deadline = time.monotonic() + _WAIT_S
    with out.progress(text):
        while not is_done(found := look()):
            if time.monotonic() > deadline:
                raise CliError(
                    "still_running", text, why="the time to wait is over", next=then, exit_code=ExitCode.TIMEOUT
                )
            time.sleep(_POLL_S)
    return found


def _for_people(licence: Mapping[str, Any]) -> dict[str, Any]:
    return {**licence, "plan": f"{licence['plan']['plan']} v{licence['plan']['version']}"}


def _show(out: Output, licence: Mapping[str, Any]) -> None:
    out.record("licence", licence if out.json else _for_people(licence), FIELDS)
