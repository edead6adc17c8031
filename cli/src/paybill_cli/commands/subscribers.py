"""`paybill subscriber`: identities with which other services read events of chosen contexts."""

import asyncio
import re
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.stack import NatsAccess, Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, Yes
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_embedded.subscribers import Subscriber

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_RECIPIENTS = "/v1/operations/key-recipients"
_APPLY_TIMEOUT_S = 30.0
_POLL_S = 0.05


async def create(
    out: Output,
    stack: Stack,
    name: Annotated[str, typer.Argument(help="Name of the subscriber, such as crm.", metavar="NAME")],
    contexts: Annotated[
        str,
        typer.Option(
            "--contexts", help="Contexts that it may read, with commas: agent-gateway, billing, provisioner, tenant."
        ),
    ],
    types: Annotated[
        str,
        typer.Option("--types", help="Of their contexts, deliver only these types, with commas; by default all."),
    ] = "",
    batches: Annotated[
        bool, typer.Option("--batches", help="Also allow reading in batches, from any position in the log.")
    ] = False,
    open_sealed: Annotated[
        str,
        typer.Option(
            "--open-sealed", help="Of its contexts, those whose personal data it may open, with commas: tenant."
        ),
    ] = "",
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Begin with the next event; by default with the first of the log.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Credentials file to write; by default clients/NAME.json in the data directory."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the rights, and change nothing.")] = False,
) -> None:
    """Create an identity with which another service reads events.

    Writes its credentials file, creates its durable consumer, and adds it to the embedded NATS without a restart. For
    another NATS it prints the lines that its configuration needs. Run again to change the rights: password and
    position stay. With --open-sealed, your API key needs the role admin.

    Example: paybill subscriber create crm --contexts billing,tenant
    """
    chosen, chosen_types = _checked(name, _split(contexts), _split(types))
    opens = _checked_opens(chosen, _split(open_sealed))
    path = file or stack.data_dir / "clients" / f"{name}.json"
    rights = {
        "name": name,
        "contexts": chosen,
        "types": chosen_types,
        "batches": batches,
        "open_sealed": opens,
        "file": str(path),
    }
    if dry_run:
        out.record("subscriber", rights)
        out.info("nothing was changed")
        return
    from paybill_embedded.credentials import private_dir, write_private
    from paybill_embedded.subscribers import store_subscriber
    from paybill_stack.clients import ensure_consumer, event_filters, write_subscriber_file

    from paybill_cli.client.event_log import connected, stream_info

    access = stack.nats()
    embedded = _is_embedded(stack)
    async with connected(access) as client:
        await stream_info(client)
        private_dir(stack.data_dir)
        await asyncio.to_thread(_share_keys, stack, name, opens)
        subscriber = store_subscriber(stack.data_dir, name, tuple(chosen), batches=batches, opens=tuple(opens))
        filters = event_filters(chosen, chosen_types)
        created = await ensure_consumer(client, subscriber.consumer, filters, new_only=new_only)
    default = private_dir(stack.data_dir / "clients") / f"{name}.json"
    write_subscriber_file(default, stack.data_dir, access.url, subscriber)
    if file is not None:
        write_private(file, default.read_text(encoding="utf-8"))
    if embedded:
        await _applied(stack.data_dir, access.url, subscriber)
    state = "applied" if embedded else "add it to the configuration of NATS"
    out.record("subscriber", rights | {"created": created, "rights": state})
    if not embedded:
        _show_configuration(out, stack, subscriber)
    out.info(f"next: copy {path} to the service, and write Subscriber({path.name!r}) in it; see libs/client/README.md")


def list_all(out: Output, stack: Stack) -> None:
    """List the subscribers of this data directory and their rights.

    Example: paybill subscriber list
    """
    from paybill_embedded.subscribers import read_subscribers

    rows = [
        {
            "name": each.name,
            "contexts": each.contexts if out.json else ",".join(each.contexts),
            "batches": each.batches,
            "open_sealed": each.opens if out.json else ",".join(each.opens),
            "consumer": each.consumer,
        }
        for _, each in sorted(read_subscribers(stack.data_dir).items())
    ]
    out.rows("subscriber.list", rows, ("name", "contexts", "batches", "open_sealed"))


async def delete(
    out: Output,
    stack: Stack,
    name: Annotated[str, typer.Argument(help="Name of the subscriber.", metavar="NAME")],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Delete a subscriber: its login, rights and position in the log.

    Use it when its credentials are lost or stolen. A new subscriber of the same name gets another password and begins
    with the first event.

    Example: paybill subscriber delete crm
    """
    from nats.js.errors import NotFoundError
    from paybill_embedded.subscribers import read_subscribers, remove_subscriber
    from paybill_stack.clients import remove_client_files
    from paybill_stack.layout import Layout

    from paybill_cli.client.event_log import EVENTS, connected

    known = read_subscribers(stack.data_dir).get(name)
    if known is None:
        raise CliError(
            "subscriber_not_found",
            f"there is no subscriber {name}",
            next="paybill subscriber list",
            exit_code=ExitCode.NOT_FOUND,
        )
    if dry_run:
        out.record("subscriber", {"name": name, "contexts": list(known.contexts), "consumer": known.consumer})
        out.info("would delete its login, its rights and its position in the log; nothing was changed")
        return
    out.confirm(f"{name} cannot read events any more. Delete it?", yes=yes)
    access = stack.nats()
    embedded = _is_embedded(stack)
    async with connected(access) as client:
        await asyncio.to_thread(_share_keys, stack, name, [])
        remove_subscriber(stack.data_dir, name)
        with suppress(NotFoundError):
            await client.jetstream().delete_consumer(EVENTS, known.consumer)
    remove_client_files(Layout(stack.data_dir), name)
    out.info(f"{name} is deleted" + ("" if embedded else "; remove the user from the configuration of NATS, too"))


def _is_embedded(stack: Stack) -> bool:
    """Returns whether `paybill up` runs the NATS of the stack, and so applies changes itself."""
    return stack.nats_url is None and bool(stack.running().get("nats", {}).get("embedded"))


def _checked(name: str, contexts: list[str], types: list[str]) -> tuple[list[str], list[str]]:
    """Returns sorted contexts and types. Raises CliError for wrong ones."""
    from paybill_contracts.schemas import contexts as contexts_of
    from paybill_contracts.schemas import published_events
    from paybill_embedded.nats import DEFAULT_PUBLISHERS
    from paybill_embedded.users import IDENTITIES

    if not _NAME.fullmatch(name) or name in {*IDENTITIES, *DEFAULT_PUBLISHERS}:
        raise usage(
            f"{name!r} cannot be the name of a subscriber",
            why="it is used by Paybill, or is not a lower-case letter with at most 31 letters, digits, - and _ behind",
            next="choose another name",
        )
    events = published_events()
    known = contexts_of(events)
    unknown = sorted(set(contexts) - known)
    if unknown or not contexts:
        raise usage(
            f"there is no context {', '.join(unknown)}" if unknown else "no context is named",
            next=f"--contexts with some of {', '.join(sorted(known))}",
        )
    readable = {event.TYPE for event in events if event.OWNER in contexts}
    wrong = sorted(set(types) - readable)
    if wrong:
        raise usage(
            f"{', '.join(wrong)} is no event type of {', '.join(sorted(contexts))}", next="paybill events schema"
        )
    return sorted(set(contexts)), sorted(set(types))


def _checked_opens(contexts: list[str], opens: list[str]) -> list[str]:
    """Returns the sorted contexts whose personal data is to be opened. Raises CliError for wrong ones."""
    from paybill_runtime.security.data_keys import RECIPIENTS

    for context in sorted(set(opens)):
        if context not in contexts:
            raise usage(f"the subscriber may not read the context {context}", next=f"add {context} to --contexts")
        if context not in RECIPIENTS:
            raise usage(
                f"{context} seals no personal data of its own",
                why=f"the personal data in its events is sealed by {', '.join(RECIPIENTS)}",
                next=f"--open-sealed {','.join(RECIPIENTS)}",
            )
    return sorted(set(opens))


def _share_keys(stack: Stack, name: str, opens: list[str]) -> None:
    """Makes the services encrypt their data keys for the subscriber, or end that."""
    from paybill_embedded.subscribers import read_subscribers
    from paybill_stack.clients import subscriber_public_key

    known = read_subscribers(stack.data_dir).get(name)
    for context in opens:
        with Service(stack, context) as service:
            public_key = b64encode(subscriber_public_key(stack.data_dir, name)).decode()
            service.put(f"{_RECIPIENTS}/{name}", {"public_key": public_key})
    for context in set(known.opens if known else ()) - set(opens):
        with Service(stack, context) as service:
            service.delete(f"{_RECIPIENTS}/{name}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


async def _applied(data_dir: Path, url: str, subscriber: "Subscriber") -> None:
    """Returns once the running NATS knows the subscriber's rights; `paybill up` applies them."""
    from paybill_embedded.credentials import password
    from paybill_embedded.users import account_lines

    from paybill_cli.client.event_log import EVENTS, connected

    secret = password(data_dir, f"nats-{subscriber.name}")
    entry = account_lines(subscriber.name, secret, subscriber)
    configuration = data_dir / "nats" / "nats-server.conf"
    try:
        async with asyncio.timeout(_APPLY_TIMEOUT_S):
            while not all(line in configuration.read_text(encoding="utf-8") for line in entry):  # noqa: ASYNC110  # a file
                await asyncio.sleep(_POLL_S)
            while True:
                try:
                    # A new login is accepted a moment before its account reaches the streams.
                    async with connected(NatsAccess(url, subscriber.name, secret)) as client:
                        await client.jetstream().consumer_info(EVENTS, subscriber.consumer)
                        return
                except CliError:
                    await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise CliError(
            "not_applied",
            f"NATS does not accept {subscriber.name} after {_APPLY_TIMEOUT_S:.0f} s",
            why="`paybill up` applies a new subscriber to the NATS that it runs",
            next="read the messages of `paybill up`; a restart of it applies the subscriber too",
            exit_code=ExitCode.TIMEOUT,
        ) from error


def _show_configuration(out: Output, stack: Stack, subscriber: "Subscriber") -> None:
    """Prints the lines for a NATS that `paybill up` does not run, with the hash of the password."""
    from paybill_embedded.credentials import password
    from paybill_embedded.users import account_lines

    out.info(
        "add this account to `accounts` in nats-server.conf of every node, and reload each server twice "
        "(nats-server --signal reload), or restart it; until then the login is refused:"
    )
    for line in account_lines(subscriber.name, password(stack.data_dir, f"nats-{subscriber.name}"), subscriber):
        out.info(line)
