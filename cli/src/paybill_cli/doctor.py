"""`paybill doctor`: is every part there and well, does anything wait or stand still, and what mends it."""

import asyncio
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import httpx
from nats.aio.client import Client
from nats.errors import Error as NatsError
from paybill_runtime.messaging.streams import configurations

from paybill_cli.bus import connected
from paybill_cli.context import SERVICES, Stack
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("part", "check", "state", "found", "fix")

TIMEOUT_S = 5.0
OUTBOX_AGE_S = 30.0
"""A fact that waits longer for the bus is stuck; usually it takes milliseconds."""
LAG = 1000
"""So many messages behind is more than a moment's work."""
SKEW_S = 5.0
"""Webhooks are refused at 300 s; ids and leases suffer earlier."""
FREE_BYTES = 1024**3
"""Below this PostgreSQL and NATS are near to refusing writes."""

_PROMISES = {
    "subjects": None,
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msg_size": -1,
    "max_msgs_per_subject": -1,
    "duplicate_window": 120,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "allow_direct": False,
    "allow_atomic": False,
}
"""What a stream promises, and what the server assumes where nothing is said."""
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""The first message that any PostgreSQL understands (Frontend/Backend Protocol, 54.2.10)."""


class State(StrEnum):
    """What a check found. `failed` needs somebody now; `noted` happened, and no repair here undoes it."""

    OK = "ok"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fix` says what to do when it failed."""

    part: str
    check: str
    state: State
    found: str
    fix: str = ""
    unreachable: bool = False


async def doctor(out: Output, stack: Stack) -> int:
    """Check every part, and say how to mend what is not well.

    Exit code 0 only when all is well, 10 when nothing answers at all.

    Example: paybill doctor
    """
    with out.progress("checking"):
        groups = await asyncio.gather(_bus(stack), _database(stack), *(_service(stack, name) for name in SERVICES))
        checks = [check for group in groups for check in group] + list(_machine(stack))
    rows = [{key: value for key, value in asdict(check).items() if key != "unreachable"} for check in checks]
    out.rows("doctor", rows, COLUMNS)
    failed = [check for check in checks if check.state is State.FAILED]
    for check in checks:
        if check.fix:
            out.say(f"{check.state} {check.part}: {check.found}. Fix: {check.fix}")
    asked = [check for check in checks if check.check == "answers" and check.state is not State.SKIPPED]
    if all(check.unreachable for check in asked):
        return int(ExitCode.UNREACHABLE)
    return int(ExitCode.FAILED if failed else ExitCode.OK)


def _ok(part: str, check: str, found: str) -> Check:
    return Check(part, check, State.OK, found)


def _failed(part: str, check: str, found: str, fix: str, *, unreachable: bool = False) -> Check:
    return Check(part, check, State.FAILED, found, fix, unreachable)


async def _bus(stack: Stack) -> list[Check]:
    """NATS: reachable, every write on disk before it is acknowledged, streams as they were made."""
    try:
        access = stack.nats()
        async with connected(access) as client:
            streams = [await _stream(client, wanted.name or "") for wanted in configurations(1)]
    except CliError as error:
        down = error.exit_code is ExitCode.UNREACHABLE
        return [_failed("nats", "answers", error.what, error.next, unreachable=down)]
    return [_ok("nats", "answers", access.url), _sync_always(stack), *streams]


async def _stream(client: Client, name: str) -> Check:
    """Whether a stream still promises what it did when it was made."""
    try:
        info = await client.jetstream().stream_info(name)
    except NatsError as error:
        fix = "stop the services and run paybill up: it makes the streams"
        return _failed("nats", name, f"there is no such stream ({error})", fix)
    [wanted] = [each for each in configurations(info.config.num_replicas or 1) if each.name == name]
    pairs = [(key, _value(info.config, key), _value(wanted, key)) for key in _PROMISES]
    different = [f"{key} is {found} instead of {right}" for key, found, right in pairs if found != right]
    if different:
        return _failed(
            "nats", name, ", ".join(different), "run python -m paybill_runtime.messaging.streams as the steward"
        )
    state = info.state
    return _ok("nats", name, f"{state.messages} messages, {state.bytes} bytes, last seq {state.last_seq}")


def _value(configuration: Any, key: str) -> Any:
    value = getattr(configuration, key)
    return getattr(value, "value", value) or _PROMISES[key]


def _sync_always(stack: Stack) -> Check:
    """Only the server's own file says it; a server elsewhere keeps it to itself."""
    path = stack.data_dir / "nats" / "nats-server.conf"
    if stack.nats_url or not path.exists():
        return Check("nats", "sync", State.SKIPPED, "not visible from here: see sync_interval in the server's file")
    if "sync_interval: always" in path.read_text(encoding="utf-8"):
        return _ok("nats", "sync", "a write is on disk before it is acknowledged")
    return _failed("nats", "sync", "writes are acknowledged before they are on disk", "set sync_interval: always")


async def _database(stack: Stack) -> list[Check]:
    """Whether a PostgreSQL answers; whether the services may use it they say themselves."""
    try:
        server = stack.running()["postgres"]
        host, port = str(server["host"]), int(server["port"])
    except (CliError, KeyError, TypeError, ValueError):
        return [Check("postgres", "answers", State.SKIPPED, "its address is not known here: the services tell")]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_SSL_REQUEST)
            answer = await reader.readexactly(1)
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        found = f"nothing answers at {host}:{port} ({_why(error)})"
        return [_failed("postgres", "answers", found, f"look at {stack.data_dir}/logs/postgres.log", unreachable=True)]
    if answer not in {b"S", b"N"}:
        return [_failed("postgres", "answers", f"{host}:{port} is no PostgreSQL", "check which program listens there")]
    return [_ok("postgres", "answers", f"{host}:{port}")]


async def _service(stack: Stack, name: str) -> list[Check]:
    """A service: ready, and nothing in it waits for long or stands still."""
    try:
        url, key = stack.url(name), stack.api_key()
    except CliError as error:
        down = error.exit_code is ExitCode.UNREACHABLE
        return [_failed(name, "answers", error.what, error.next, unreachable=down)]
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
        try:
            ready = await http.get("/readyz")
            counted = await http.get("/v1/operations", headers={"Authorization": f"Bearer {key}"})
            said, counts = ready.json(), counted.json()
        except (httpx.HTTPError, ValueError) as error:
            found = f"{url} does not answer ({_why(error)})"
            fix = f"paybill up; if it runs, look at {stack.data_dir}/logs/{name}.log"
            return [_failed(name, "answers", found, fix, unreachable=True)]
    checks = [_ok(name, "answers", url), _ready(name, said), _clock(name, ready.headers.get("date", ""))]
    if counted.status_code in {401, 403}:
        return [*checks, _failed(name, "key", str(counts.get("detail")), "check PAYBILL_API_KEY")]
    if not counted.is_success:
        return [*checks, _failed(name, "counts", str(counts.get("detail")), f"look at {name}'s log")]
    return [*checks, *_counts(name, counts)]


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _ready(name: str, said: dict[str, Any]) -> Check:
    wrong = [f"{part} is {state}" for part, state in said.get("checks", {}).items() if state != "ok"]
    if not wrong and said.get("status") == "ok":
        return _ok(name, "ready", "every loop runs")
    if wrong == ["bus is away"]:
        return _failed(name, "ready", "the bus is away: what is decided waits in the outbox", "start NATS again")
    fix = "start PostgreSQL again" if "database is away" in wrong else f"look at {name}'s log, and start it again"
    return _failed(name, "ready", ", ".join(wrong) or str(said.get("status")), fix)


def _clock(name: str, date: str) -> Check:
    try:
        skew_s = abs((parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return Check(name, "clock", State.SKIPPED, "it did not say what time it is")
    if skew_s > SKEW_S:
        return _failed(name, "clock", f"its clock is {skew_s:.0f} s away from ours", "set both clocks by NTP")
    return _ok(name, "clock", "agrees with ours")


def _counts(name: str, counts: dict[str, Any]) -> Iterator[Check]:
    """What waits, each with the command that moves it on."""
    waiting, age_s = counts["outbox_waiting"], counts["outbox_age_s"]
    if waiting and age_s > OUTBOX_AGE_S:
        found = f"{waiting} facts wait for the bus, the first for {age_s:.0f} s"
        yield _failed(name, "outbox", found, f"check that NATS runs; then look at {name}'s log for the relay")
    else:
        yield _ok(name, "outbox", f"{waiting} facts wait")
    behind = [f"{loop} {lag}" for loop, lag in counts["lag"].items() if lag is not None]
    if any(lag is not None and lag > LAG for lag in counts["lag"].values()):
        yield _failed(name, "lag", f"messages still to be heard: {', '.join(behind)}", f"look at {name}'s log")
    else:
        yield _ok(name, "lag", f"messages still to be heard: {', '.join(behind) or 'unknown'}")
    look, decide = "paybill events quarantine", "paybill events redrive ID, or paybill events skip ID --reason WHY"
    for key, state, found, fix in (
        ("parked", State.FAILED, "facts are parked, and tried again by themselves", look),
        ("dead", State.FAILED, "facts were given up, and hold their tenants up", decide),
        ("quarantined", State.NOTED, "published messages were refused", f"{look}; have them sent corrected"),
        ("effects_failed", State.NOTED, "calls to the outside failed for good", f"GET {name} /v1/operations/effects"),
    ):
        yield Check(name, key, state, f"{counts[key]} {found}", fix) if counts[key] else _ok(name, key, "none")


def _machine(stack: Stack) -> Iterator[Check]:
    """What all parts need of this machine."""
    if not stack.data_dir.exists():
        yield Check("machine", "disk", State.SKIPPED, f"there is no {stack.data_dir} here")
        return
    free = shutil.disk_usage(stack.data_dir).free
    found = f"{free // 1024**2} MiB free for {stack.data_dir}"
    enough = free >= FREE_BYTES
    yield _ok("machine", "disk", found) if enough else _failed("machine", "disk", found, "free at least 1 GiB")
    if os.access(stack.data_dir, os.W_OK):
        yield _ok("machine", "writable", str(stack.data_dir))
    else:
        yield _failed("machine", "writable", f"{stack.data_dir} cannot be written", "give it to who runs paybill up")
