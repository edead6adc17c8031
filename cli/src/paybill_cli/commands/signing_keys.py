"""`paybill signing-key`: the keys with which services sign their facts."""

import asyncio
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.stack import SERVICES, LocalStack, Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, Reason, Yes
from paybill_cli.output import Output

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from paybill_contracts.signing_keys import SigningKey
    from paybill_runtime.security.signing_identity import SigningIdentity

COLUMNS = ("service", "key_id", "number", "since", "until")

Service = Annotated[str, typer.Argument(help="The service, such as billing.", metavar="SERVICE")]
Identities = Annotated[
    Path | None,
    typer.Option(
        "--identities",
        help="Folder with SERVICE.signing-key and signing-root.pub; that of the data directory by default.",
    ),
]
RootKey = Annotated[
    Path | None,
    typer.Option("--root-key", help="File of the steward's root key; steward/signing-root.key by default."),
]


def list_all(out: Output, stack: Stack, identities: Identities = None) -> None:
    """List the signing keys of all services, with the sequences that they sign.

    Each is in the log, with a certificate of the root key or of the key before it.

    Example: paybill signing-key list
    """
    folder = identities or stack.data_dir / "identities"
    rows = [
        {"service": key.owner, "key_id": key.key_id, "number": key.number, "since": key.since, "until": key.until}
        for key in asyncio.run(_keys(stack, folder))
    ]
    out.rows("signing_key.list", sorted(rows, key=lambda row: (row["service"], row["number"])), COLUMNS)


def rotate(
    out: Output,
    stack: LocalStack,
    service: Service,
    identities: Identities = None,
    root_key: RootKey = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Replace the signing key of a service.

    The new key counts from the first fact after the restart of the service, which announces it; a stack of this data
    directory is told to restart it. Facts of the old key stay valid, also later ones of other replicas, until
    `paybill signing-key withdraw`.

    Example: paybill signing-key rotate billing
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from paybill_runtime.security.signing_identity import certified

    path, old, root = _read(stack, service, identities, root_key)
    number, replaces = old.announcement.number + 1, old.announcement.key_id
    found = {"service": service, "replaces": replaces, "number": number}
    if dry_run:
        out.record("signing_key.rotated", found)
        out.info("would write a new key and restart the service; nothing was changed")
        return
    out.confirm(f"Replace the signing key {replaces} of {service}?", yes=yes)
    new = certified(service, Ed25519PrivateKey.generate(), root, number=number, replaces=replaces)
    _write(path, new)
    out.record("signing_key.rotated", {**found, "key_id": new.announcement.key_id})
    out.info(_restart(stack, service))
    out.info(f"once every replica has restarted: paybill signing-key withdraw {service} --key {replaces} --reason WHY")


def withdraw(
    out: Output,
    stack: LocalStack,
    service: Service,
    key: Annotated[str, typer.Option("--key", help="Id of the key, which may begin with a hyphen.", metavar="KEY")],
    reason: Reason,
    identities: Identities = None,
    root_key: RootKey = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Withdraw an earlier signing key: later facts of it are refused.

    This cannot be undone. Facts before the withdrawal stay valid, and a replica that still signs with the key stops.

    Example: paybill signing-key withdraw billing --key m3Zp0Qe1rY7aBcDk --reason "copied from a lost disk"
    """
    path, identity, root = _read(stack, service, identities, root_key)
    if key == identity.announcement.key_id:
        raise CliError(
            "signing_key_in_use",
            f"{service} signs with the key {key}",
            next=f"paybill signing-key rotate {service}",
            exit_code=ExitCode.CONFLICT,
        )
    found = {"service": service, "key_id": key, "reason": reason}
    if dry_run:
        out.record("signing_key.withdrawn", found)
        out.info("would withdraw it and restart the service; nothing was changed")
        return
    try:
        changed = identity.withdraw(service, key, reason, root, datetime.now(UTC))
    except ValueError as error:
        raise usage(f"{key!r} is not the id of a signing key, or the reason is no text", next=_LIST) from error
    out.confirm(f"Refuse every later fact that the key {key} of {service} signs? This cannot be undone.", yes=yes)
    _write(path, changed)
    out.record("signing_key.withdrawn", found)
    out.info(_restart(stack, service))


_LIST = "paybill signing-key list"


def _read(
    stack: LocalStack, service: str, identities: Path | None, root_key: Path | None
) -> "tuple[Path, SigningIdentity, Ed25519PrivateKey]":
    """Returns the file of the signing key of a service, its content, and the root key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from paybill_runtime.errors import ConfigurationError
    from paybill_runtime.security.signing_identity import SigningIdentity, load_root

    if service not in SERVICES:
        raise usage(f"{service!r} is no service", next=f"one of {', '.join(SERVICES)}")
    folder = identities or stack.data_dir / "identities"
    file = root_key or stack.data_dir / "steward" / "signing-root.key"
    try:
        identity, public = SigningIdentity.load(folder, service), load_root(folder)
        root = Ed25519PrivateKey.from_private_bytes(file.read_bytes())
    except (ConfigurationError, OSError, ValueError) as error:
        raise CliError(
            "signing_key_unreadable",
            "the signing key of the service or the root key cannot be read",
            why=str(error),
            next="name their files with --identities and --root-key",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    if root.public_key().public_bytes_raw() != public:
        raise CliError(
            "root_key_mismatch",
            f"{file} is not the root key whose public half is {folder / 'signing-root.pub'}",
            next="name the root key of this installation with --root-key",
            exit_code=ExitCode.CONFLICT,
        )
    return folder / f"{service}.signing-key", identity, root


def _write(path: Path, identity: "SigningIdentity") -> None:
    from paybill_embedded.credentials import write_private

    write_private(path, identity.file().decode())


def _restart(stack: LocalStack, service: str) -> str:
    """Ends a service of a running stack, which starts it again; returns what happens, or has to be done."""
    from paybill_stack.layout import Layout
    from paybill_stack.servers import is_running

    if not is_running(Layout(stack.data_dir.absolute())):
        return f"restart every replica of {service}: its first fact announces the change"
    process = int(Stack(data_dir=stack.data_dir).running()["services"][service]["pid"])
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    return f"{service} restarts, and announces the change"


async def _keys(stack: Stack, folder: Path) -> "list[SigningKey]":
    from paybill_runtime.errors import ConfigurationError
    from paybill_runtime.messaging.known_keys import KeyDirectory
    from paybill_runtime.security.signing_identity import load_root

    from paybill_cli.client.event_log import connected

    try:
        directory = KeyDirectory(load_root(folder), 0)
    except ConfigurationError as error:
        raise CliError(
            "signing_key_unreadable",
            str(error),
            next="name the folder with --identities",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    async with connected(stack.nats()) as client:
        await directory.load(client)
    return directory.keys
