"""`paybill doctor`: checks that every part runs and that no work is stuck, and prints the repair of each failure."""

import asyncio
import os
import shlex
import struct
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import typer
from paybill_stack.health import NATS_UNREACHABLE, POSTGRES_UNREACHABLE, not_ready

from paybill_cli import formatting
from paybill_cli.client.disks import fullest_disk
from paybill_cli.client.http import uses_tls
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import for_reading
from paybill_cli.commands.checks import (
    MAX_LISTED,
    Check,
    State,
    failed,
    incidents,
    ok,
    refused,
    unsettled,
    violations,
)
from paybill_cli.commands.log_checks import log_checks
from paybill_cli.commands.stream_checks import stream_checks
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("part", "check", "state", "found")

TIMEOUT_S = 5.0
SERVICE_TIMEOUT_S = 10.0
"""A service tests its writes for up to 4 s, also when PostgreSQL or NATS answers nothing."""
MAX_OUTBOX_AGE_S = 30.0
"""Largest age of an event in the outbox; publishing usually takes milliseconds."""
MAX_LAG = 1000
"""Largest number of messages that a consumer may be behind."""
MAX_CLOCK_SKEW_S = 5.0
"""Webhooks are refused at 300 s; ids and leases suffer earlier."""
_LISTS = (f"/v1/incidents?limit={MAX_LISTED}", f"/v1/violations?limit={MAX_LISTED}")
_OWN_LISTS = {
    "billing": ("/v1/webhooks/refused",),
    "provisioner": ("/v1/environments?unsettled=true&limit=200",),
}
"""Further lists that are read of a service."""
MIN_FREE_BYTES = 1024**3
"""Below this PostgreSQL and NATS are near to refusing writes."""

_WRITE_FIXES = {
    "database": "free space on the disk of PostgreSQL and read its log; it takes writes again by itself",
    "events": "free space on the disk of NATS and read its log; paybill up then restarts NATS, elsewhere restart it",
    "intake_stream": "free space on the disk of NATS; paybill up then restarts NATS, elsewhere restart it",
}
"""The steps after a part has refused a write: only a restart lets NATS write again after a failed one."""
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""First message of a connection; every PostgreSQL answers it (Frontend/Backend Protocol, 54.2.10)."""


async def doctor(
    out: Output,
    stack: Stack,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare each database with the log.")] = False,
) -> int:
    """Check every part, and print how to repair each failure.

    Exit code 0 only when all checks pass, 10 when no server answers. With --deep the whole log is read.

    Example: paybill doctor
    """
    with out.progress("checking") as progress:
        groups = await asyncio.gather(_nats(stack), _database(stack), *(_service(stack, name) for name in SERVICES))
        checks = [check for group in groups for check in group] + list(_machine(stack))
        if deep:
            checks += await asyncio.to_thread(log_checks, stack, progress.update)
    rows = [{key: value for key, value in asdict(check).items() if key != "unreachable"} for check in checks]
    rows = await asyncio.to_thread(for_reading, out, stack, rows)
    out.rows("doctor", rows, COLUMNS)
    for row in rows:
        if row["fix"] and not out.json:
            out.info(f"fix {row['part']} {row['check']}: {row['fix']}")
    connections = [check for check in checks if check.check == "answers" and check.state is not State.SKIPPED]
    if all(check.unreachable for check in connections):
        return int(ExitCode.UNREACHABLE)
    has_failed = any(check.state is State.FAILED for check in checks)
    return int(ExitCode.FAILED if has_failed else ExitCode.OK)


async def _nats(stack: Stack) -> list[Check]:
    """Checks NATS: reachable, every write synced before its acknowledgement, streams configured as created."""
    from paybill_runtime.messaging.streams import EVENTS, INTAKE, KEYS

    from paybill_cli.client.event_log import connected

    try:
        access = stack.nats()
        async with connected(access) as client:
            streams = [check for name in (EVENTS, INTAKE, KEYS) for check in await stream_checks(client, name, stack)]
    except CliError as error:
        down = error.exit_code is ExitCode.UNREACHABLE
        return [failed("nats", "answers", error.message, error.next, unreachable=down)]
    return [ok("nats", "answers", access.url), _sync_always(stack), *streams]


def _sync_always(stack: Stack) -> Check:
    """Checks the setting in the server's file; an external server does not report it."""
    path = stack.data_dir / "nats" / "nats-server.conf"
    if stack.nats_url or not path.exists():
        return Check("nats", "sync", State.SKIPPED, "not visible here: check sync_interval in the server's file")
    if "sync_interval: always" in path.read_text(encoding="utf-8"):
        return ok("nats", "sync", "writes are synced before they are acknowledged")
    return failed("nats", "sync", "writes are acknowledged before they are synced", "set sync_interval: always")


async def _database(stack: Stack) -> list[Check]:
    """Checks that PostgreSQL answers; the services check their own access to it."""
    try:
        server = stack.running()["postgres"]
        host, port = str(server["host"]), int(server["port"])
    except (CliError, KeyError, TypeError, ValueError):
        return [Check("postgres", "answers", State.SKIPPED, "address not known here: the services report it")]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_SSL_REQUEST)
            answer = await reader.readexactly(1)
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        found = f"no answer at {host}:{port} ({_reason(error)})"
        return [failed("postgres", "answers", found, f"read {stack.data_dir}/logs/postgres.log", unreachable=True)]
    if answer not in {b"S", b"N"}:
        return [
            failed("postgres", "answers", f"{host}:{port} is not a PostgreSQL", "check which program uses the port")
        ]
    return [ok("postgres", "answers", f"{host}:{port}")]


async def _service(stack: Stack, name: str) -> list[Check]:
    """Checks that a service is ready and has no stuck work."""
    import httpx

    try:
        url, key = stack.url(name), stack.api_key()
    except CliError as error:
        down = error.exit_code is ExitCode.UNREACHABLE
        return [failed(name, "answers", error.message, error.next, unreachable=down)]
    async with httpx.AsyncClient(
        base_url=url, timeout=SERVICE_TIMEOUT_S, trust_env=False, verify=uses_tls(url)
    ) as http:
        try:
            ready = await http.get("/readyz")
            headers = {"Authorization": f"Bearer {key}"}
            paths = ("/v1/operations?deep=true", *_LISTS, *_OWN_LISTS.get(name, ()))
            responses = [await http.get(path, headers=headers) for path in paths]
            health, documents = ready.json(), [response.json() for response in responses]
        except (httpx.HTTPError, ValueError) as error:
            found = f"{url} does not answer ({_reason(error)})"
            fix = f"paybill up; if it runs, read {stack.data_dir}/logs/{name}.log"
            return [failed(name, "answers", found, fix, unreachable=True)]
    checks = [
        ok(name, "answers", url),
        _ready(name, health, _log(stack, name)),
        _clock(name, ready.headers.get("date", "")),
    ]
    for response, document in zip(responses, documents, strict=True):
        if response.status_code in {401, 403}:
            return [*checks, failed(name, "key", str(document.get("detail")), "check PAYBILL_API_KEY")]
        if not response.is_success:
            return [*checks, failed(name, "counts", str(document.get("detail")), _log(stack, name))]
    counts, found, violated, *own = documents
    checks += [
        *_writes(name, counts),
        *_counts(name, counts, _log(stack, name)),
        *incidents(name, found),
        *violations(name, violated),
    ]
    if name == "billing":
        checks += refused(name, own[0])
    elif name == "provisioner":
        checks += unsettled(name, own[0])
    return checks


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _log(stack: Stack, name: str) -> str:
    """Returns the command that prints the end of a service's log; words where it is on another machine."""
    file = stack.data_dir / "logs" / f"{name}.log"
    return shlex.join(["tail", "-n", "50", str(file)]) if file.exists() else f"read {name}'s log"


def _ready(name: str, health: dict[str, Any], log: str) -> Check:
    failing = not_ready(health)
    if not failing and health.get("status") == "ok":
        return ok(name, "ready", "every loop runs")
    if failing == [NATS_UNREACHABLE]:
        return failed(name, "ready", f"{NATS_UNREACHABLE}; events wait in the outbox", "start NATS again")
    problems = [state for state in health.get("checks", {}).values() if state != "ok"]
    if problems and all(state.startswith(("NATS ", "INTAKE ")) for state in problems):
        fix = "start NATS again; if it runs, free space on its disk and restart NATS: the service continues by itself"
        return failed(name, "ready", ", ".join(failing), fix)
    if any("the stream was restored from an older copy" in state for state in problems):
        fix = (
            "restore the newer copy of NATS; without one stop the stack, then: paybill restore stream "
            "--from-outboxes --dry-run, which shows what the log lacks and what the outboxes hold"
        )
        return failed(name, "ready", ", ".join(failing), fix)
    fix = "start PostgreSQL again" if POSTGRES_UNREACHABLE in failing else f"{log}; then restart it"
    return failed(name, "ready", ", ".join(failing) or str(health.get("status")), fix)


def _writes(name: str, counts: dict[str, Any]) -> Iterator[Check]:
    """Checks the parts to which a service writes: one that answers may still take no write."""
    for part, result in counts["writes"].items():
        if result == "ok":
            yield ok(name, f"{part} writes", "takes writes")
        else:
            yield failed(name, f"{part} writes", result, _WRITE_FIXES[part])


def _clock(name: str, date: str) -> Check:
    try:
        skew_s = abs((parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return Check(name, "clock", State.SKIPPED, "the response contains no time")
    if skew_s > MAX_CLOCK_SKEW_S:
        found = f"its clock differs from this machine's by {formatting.duration(round(skew_s))}"
        return failed(name, "clock", found, "synchronise both clocks by NTP")
    return ok(name, "clock", "agrees with this machine's")


def _counts(name: str, counts: dict[str, Any], log: str) -> Iterator[Check]:
    """Checks the amounts of pending work; each failure names the command that resolves it."""
    waiting, age_s = counts["outbox_waiting"], counts["outbox_age_s"]
    if waiting and age_s > MAX_OUTBOX_AGE_S:
        found = f"{waiting} events wait to be published, the oldest for {formatting.duration(round(age_s))}"
        yield failed(name, "outbox", found, f"check that NATS runs; then: {log}")
    else:
        yield ok(name, "outbox", f"{waiting} events wait to be published")
    behind = [f"{loop} {lag}" for loop, lag in counts["lag"].items() if lag is not None]
    if any(lag is not None and lag > MAX_LAG for lag in counts["lag"].values()):
        yield failed(name, "lag", f"unprocessed messages: {', '.join(behind)}", log)
    else:
        yield ok(name, "lag", f"unprocessed messages: {', '.join(behind) or 'unknown'}")
    unowned = counts["unowned"]
    if unowned:
        found = f"{unowned} partitions have no live owner, so facts of their tenants wait"
        fix = f"end sessions that lock tables of {name} (pg_stat_activity), then restart it"
        yield failed(name, "leases", found, fix)
    else:
        yield ok(name, "leases", "every partition has an owner")
    show = "paybill events quarantine"
    resolve = f"{show}, which prints the commands that redrive or skip the first of each tenant"
    for key, state, found, fix in (
        ("parked", State.FAILED, "events are parked in the retry queue (retried automatically)", show),
        ("dead", State.FAILED, "events are dead letters and block their tenants", resolve),
        (
            "quarantined",
            State.NOTED,
            "published messages were refused",
            f"{show}; ask the publisher to send corrected events",
        ),
        ("jobs_failing", State.NOTED, "background jobs fail and are retried", "paybill jobs list"),
        (
            "security_jobs_failing",
            State.FAILED,
            "changes of access fail and are retried: access is not as decided",
            "paybill jobs list; the jobs are retried once their cause is corrected",
        ),
        ("effects_failed", State.NOTED, "external calls failed permanently", "paybill jobs list --state failed"),
    ):
        yield Check(name, key, state, f"{counts[key]} {found}", fix) if counts[key] else ok(name, key, "none")
    for kind, jobs in counts.get("jobs_unknown", {}).items():
        found = f"{jobs} background jobs are of the kind {kind}, which this version of {name} does not have"
        yield failed(name, "jobs_unknown", found, f"start the version that has it, or: paybill jobs list --kind {kind}")


def _machine(stack: Stack) -> Iterator[Check]:
    """Checks disk space and permissions of the data directory."""
    disk = fullest_disk(stack.data_dir)
    if disk is None:
        yield Check("machine", "disk", State.SKIPPED, f"{stack.data_dir} does not exist here")
        return
    found = f"{disk.free_bytes // 1024**2} MiB free for {disk.folder}"
    enough = disk.free_bytes >= MIN_FREE_BYTES
    yield ok("machine", "disk", found) if enough else failed("machine", "disk", found, "free at least 1 GiB")
    if os.access(stack.data_dir, os.W_OK):
        yield ok("machine", "writable", str(stack.data_dir))
    else:
        fix = "make the user of paybill up its owner"
        yield failed("machine", "writable", f"{stack.data_dir} cannot be written", fix)
