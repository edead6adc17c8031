"""`paybill events tail`: the log as it grows, from any place on, without loss or doubles over reconnects."""

import asyncio
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from nats.aio.msg import Msg
from paybill_contracts.event import partition_of
from paybill_runtime.messaging.ordered_consumer import stream_sequence

from paybill_cli.bus import connected, messages, seen, stream_info
from paybill_cli.context import NatsAccess, Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output, shown
from paybill_cli.tenants import id_of

COLUMNS = ("sequence", "time", "type", "aggregate", "revision", "actor", "cause", "trace_id")

_TYPE = re.compile(r"([a-z-]+)(\.[a-z_]*)?")
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which facts to show; None stands for all."""

    tenant: str | None
    type: str | None

    def filters(self) -> list[str]:
        """What the server can sort out by itself."""
        partition = "*" if self.tenant is None else str(partition_of(self.tenant))
        context, dot, _ = (self.type or "").partition(".")
        return [f"paybill.events.{partition}.{context if dot else '*'}.>"]

    def everything(self) -> bool:
        """Whether nothing is sorted out."""
        return self.tenant is None and self.type is None

    def holds(self, fact: dict[str, Any]) -> bool:
        """Whether to show it."""
        return (self.tenant is None or fact["tenant"] == self.tenant) and str(fact["type"]).startswith(self.type or "")


async def tail(
    out: Output,
    stack: Stack,
    start: Annotated[
        int | None,
        typer.Option("--from", min=1, help="Begin at this sequence; else with what is new (all with --no-follow)."),
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's facts: its id or slug.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--type", help="Only types that begin so, such as billing. or tenant.tenant_")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C, or end with the log.")
    ] = True,
) -> None:
    """Follow the log, from any sequence on.

    Example: paybill events tail --from 1 --type billing. --no-follow
    """
    if prefix is not None and not _TYPE.fullmatch(prefix):
        raise usage(f"no type begins with {prefix!r}", next="paybill events schema")
    wanted = Wanted(tenant and id_of(stack, tenant), prefix)
    reading = Reading(out, wanted, follow)
    first = None if start is None else start - 1
    if follow:
        await reading.follow(stack.nats(), first)
    else:
        await reading.once(stack.nats(), first or 0)


class Reading:
    """A place in the log that only moves forward, whatever happens to connections."""

    def __init__(self, out: Output, wanted: Wanted, follow: bool) -> None:
        self._out = out
        self._wanted = wanted
        self._follow = follow
        self._headed = False
        self._place: int | None = None
        self._lost = False

    async def follow(self, access: NatsAccess, place: int | None) -> None:
        """Read for ever; a lost connection is made again."""
        self._place = place
        try:
            while True:
                try:
                    await self.once(access, self._place)
                except CliError as error:
                    if self._place is None or error.exit_code is not ExitCode.UNREACHABLE:
                        raise
                    if not self._lost:
                        self._out.say(f"{error.what} after seq {self._place}; trying again")
                    self._lost = True
                await asyncio.sleep(_PAUSE_S)
        finally:
            if self._place is not None:
                self._out.say(f"to go on from here: paybill events tail --from {self._place + 1}")

    async def once(self, access: NatsAccess, place: int | None) -> None:
        """Read on one connection, behind `place`: until it breaks, or to the end of the log."""
        async with connected(access) as client:
            state = (await stream_info(client)).state
            if place is not None and self._headed and state.last_seq < place:
                raise CliError(
                    "another_log",
                    f"the log ends at seq {state.last_seq}, but seq {place} was read before",
                    why="this is not the log that was read, or it lost its end",
                    next="paybill doctor",
                    exit_code=ExitCode.VERIFICATION_FAILED,
                )
            self._lost = False
            self._say_where(place, state.first_seq, state.last_seq)
            self._place = state.last_seq if place is None else place
            until = None if self._follow else state.last_seq
            async for message in messages(client, self._wanted.filters(), self._place + 1, until):
                self._show(message)

    def _say_where(self, place: int | None, first: int, last: int) -> None:
        if self._headed:
            gap = max(first - (place or 0) - 1, 0)
            self._out.say(f"resumed after seq {place}, gap {gap}")
            return
        self._headed = True
        self._out.say(f"connected at seq {last}, reading from seq {last + 1 if place is None else place + 1}")
        if not self._out.json:
            self._out.line("", {}, _joined(COLUMNS))

    def _show(self, message: Msg) -> None:
        sequence = stream_sequence(message)
        place = self._place or 0
        if sequence <= place:
            return
        if self._wanted.everything() and sequence > place + 1:
            self._out.say(f"gap: seq {place + 1} to {sequence - 1} are missing from the log")
        self._place = sequence
        fact = seen(sequence, message.subject, message.headers or {}, message.data)
        if self._wanted.holds(fact):
            self._out.line("event", fact, _joined([fact[column] for column in COLUMNS]))


def _joined(values: Any) -> str:
    """One line: columns for people, tabs for pipes."""
    texts = [shown(value) for value in values]
    if not sys.stdout.isatty():
        return "\t".join(texts)
    widths = (8, 27, 36, 40, 8, 18, 36, 0)
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
