"""`paybill events tail`: follows the event log from any sequence; reconnects lose and repeat no event."""

import asyncio
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli.client.stack import NatsAccess, Stack
from paybill_cli.client.tenants import Slugs, tenant_id
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.formatting import readable
from paybill_cli.options import OnlyTenant
from paybill_cli.output import Output, printable

if TYPE_CHECKING:
    from nats.aio.msg import Msg

COLUMNS = ("sequence", "time", "tenant", "event")
DETAILS = ("type", "version", "id", "aggregate", "revision", "actor", "cause", "correlation", "trace_id", "payload")

_TYPE = re.compile(r"([a-z-]+)(\.[a-z_]*)?")
_AGO = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects events to show; None selects all."""

    tenant: str | None
    type: str | None

    def subjects(self) -> list[str]:
        """Returns the subjects by which the server filters."""
        from paybill_contracts.event import partition_of

        partition = "*" if self.tenant is None else str(partition_of(self.tenant))
        context, dot, _ = (self.type or "").partition(".")
        return [f"paybill.events.{partition}.{context if dot else '*'}.>"]

    def is_empty(self) -> bool:
        """Returns whether it selects all events."""
        return self.tenant is None and self.type is None

    def matches(self, event: dict[str, Any]) -> bool:
        """Returns whether it selects the event."""
        type_, tenant = str(event["type"]), event["tenant"]
        return (self.tenant is None or tenant == self.tenant) and type_.startswith(self.type or "")


async def tail(
    out: Output,
    stack: Stack,
    start: Annotated[
        int | None,
        typer.Option("--from", min=1, help="First sequence; by default new events (with --no-follow: all)."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only events of this last time, such as 90s, 10m, 2h or 3d.")
    ] = None,
    tenant: OnlyTenant = None,
    prefix: Annotated[
        str | None, typer.Option("--type", help="Only types with this prefix, such as billing. or tenant.tenant_")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Continue until Ctrl-C, or stop at the end of the log.")
    ] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print headers and payload.")] = False,
) -> None:
    """Follow the log: one sentence for each event.

    Example: paybill events tail --since 10m --tenant acme
    """
    if prefix is not None and not (_TYPE.fullmatch(prefix) and _is_known(prefix)):
        raise usage(f"no type starts with {prefix!r}", next="paybill events schema")
    if start is not None and since is not None:
        raise usage("--from and --since exclude each other", next="paybill events tail --since 10m")
    tail_ = Tail(out, Filter(tenant and tenant_id(stack, tenant), prefix), follow, Slugs(stack), verbose=verbose)
    position = None if start is None else start - 1
    if since is not None:
        position = await _position_before(stack.nats(), since)
    if follow:
        await tail_.follow(stack.nats(), position)
    else:
        await tail_.read(stack.nats(), position or 0)


def _is_known(prefix: str) -> bool:
    from paybill_contracts.schemas import published_events

    return any(event.TYPE.startswith(prefix) for event in published_events())


async def _position_before(access: NatsAccess, since: str) -> int:
    """Returns the sequence before the first event of the last time `since`."""
    from paybill_cli.client.event_log import connected, first_since

    parts = _AGO.fullmatch(since)
    if parts is None:
        raise usage(f"{since!r} is no time such as 90s, 10m, 2h or 3d", next="paybill events tail --since 10m")
    moment = datetime.now(UTC) - timedelta(seconds=int(parts[1]) * _SECONDS[parts[2]])
    async with connected(access) as client:
        return await first_since(client, moment) - 1


class Tail:
    """Prints the log from a position that only increases, over all reconnects."""

    def __init__(
        self, out: Output, filter_: Filter, follow: bool, slugs: Slugs | None = None, *, verbose: bool = False
    ) -> None:
        self._out = out
        self._filter = filter_
        self._follow = follow
        self._slugs = slugs
        self._verbose = verbose
        self._started = False
        self._position: int | None = None
        self._disconnected = False

    async def follow(self, access: NatsAccess, position: int | None) -> None:
        """Reads until it is cancelled; reconnects when the connection is lost."""
        self._position = position
        try:
            while True:
                try:
                    await self.read(access, self._position)
                except CliError as error:
                    if self._position is None or error.exit_code is not ExitCode.UNREACHABLE:
                        raise
                    if not self._disconnected:
                        self._out.info(f"{error.message} after seq {self._position}; reconnecting")
                    self._disconnected = True
                await asyncio.sleep(_PAUSE_S)
        finally:
            if self._position is not None:
                self._out.info(f"to continue: paybill events tail --from {self._position + 1}")

    async def read(self, access: NatsAccess, position: int | None) -> None:
        """Reads on one connection after `position`: until it is lost, or to the end of the log."""
        from paybill_cli.client.event_log import connected, messages, stream_info

        async with connected(access) as client:
            state = (await stream_info(client)).state
            if position is not None and self._started and state.last_seq < position:
                raise CliError(
                    "another_log",
                    f"the log ends at seq {state.last_seq}, but seq {position} was read before",
                    why="this is a different log, or it has lost its last events",
                    next="paybill doctor",
                    exit_code=ExitCode.VERIFICATION_FAILED,
                )
            self._disconnected = False
            self._print_position(position, state.first_seq, state.last_seq)
            self._position = state.last_seq if position is None else position
            until = None if self._follow else state.last_seq
            async for message in messages(client, self._filter.subjects(), self._position + 1, until):
                self._print_event(message)

    def _print_position(self, position: int | None, first: int, last: int) -> None:
        if self._started:
            gap = max(first - (position or 0) - 1, 0)
            self._out.info(f"resumed after seq {position}, gap {gap}")
            return
        self._started = True
        self._out.info(f"connected at seq {last}, reading from seq {last + 1 if position is None else position + 1}")
        if not self._out.json:
            self._out.line("", {}, _joined(COLUMNS))

    def _print_event(self, message: "Msg") -> None:
        from paybill_runtime.messaging.ordered_consumer import stream_sequence

        from paybill_cli.client.event_log import event_fields

        sequence = stream_sequence(message)
        position = self._position or 0
        if sequence <= position:
            return
        if self._filter.is_empty() and sequence > position + 1:
            self._out.info(f"gap: seq {position + 1} to {sequence - 1} are missing in the log")
        self._position = sequence
        fields = event_fields(sequence, message.subject, message.headers or {}, message.data)
        tenant, text = self._described(message, fields)
        if self._filter.matches(fields):
            details = [f"    {name:<11}  {printable(fields[name])}" for name in DETAILS] if self._verbose else []
            line = _joined((sequence, readable(fields["time"]), tenant, text))
            self._out.line("event", fields | {"sentence": text}, line, *details)

    def _described(self, message: "Msg", fields: dict[str, Any]) -> tuple[str, str]:
        """Returns the slug of the event's tenant, and the event as a sentence; the reason if no service can read it."""
        from paybill_contracts.tenant import TenantRequested

        from paybill_cli.client.event_log import read_event

        event, text = read_event(message.subject, message.headers or {}, message.data)
        if self._slugs is not None and isinstance(event, TenantRequested):
            self._slugs.learn(event.tenant_id, event.slug)
        tenant = fields["tenant"] if event is None else event.tenant
        if tenant is None or self._slugs is None or event is None:
            return str(tenant or "-"), text
        return self._slugs.of(tenant), text


def _joined(values: Any) -> str:
    """Returns one line: aligned columns on a terminal, tabs in a pipe."""
    texts = [printable(value) for value in values]
    if not sys.stdout.isatty():
        return "\t".join(texts)
    widths = (8, 23, 20, 0)
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
