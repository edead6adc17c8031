"""`paybill jobs`: background jobs of the services, their retry and their end."""

import sys
from collections import Counter
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import preview
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, OnlyTenant, Reason, Yes
from paybill_cli.output import Output

COLUMNS = ("id", "service", "kind", "key", "priority", "state", "due", "attempts", "error")
_JOBS = "/v1/operations/jobs"
_PAGE = 500
"""Largest page of jobs."""

Id = Annotated[str, typer.Argument(help="Id of the job, as `paybill jobs list` lists it.", metavar="JOB")]


def list_all(
    out: Output,
    stack: Stack,
    state: Annotated[
        Literal["pending", "failed", "ended"],
        typer.Option("--state", help="Jobs to list; ended: done, failed or cancelled, the newest first."),
    ] = "pending",
    kind: Annotated[str, typer.Option("--kind", help="Only jobs of this kind.")] = "",
    tenant: OnlyTenant = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows per service.")] = 100,
) -> None:
    """List background jobs, in the order of their class and time.

    Pending jobs that recur, such as the redelivery poll, always exist. Ended jobs are deleted after a week by default.
    --tenant lists the jobs that facts of the tenant require; `paybill why` also names those of its objects.

    Example: paybill jobs list --state failed
    """
    rows: list[dict[str, Any]] = []
    id_, cut = tenant and tenant_id(stack, tenant), False
    for name in SERVICES:
        with Service(stack, name) as service:
            found, more = _pages(service, {"state": state, "kind": kind or None, "tenant": id_}, limit)
            rows += [row | {"service": name} for row in found]
            cut |= more
    out.rows("jobs.list", for_reading(out, stack, rows), COLUMNS)
    if cut:
        out.more(limit)
    failed = next((row for row in rows if row["state"] == "failed"), None)
    if failed is not None:
        out.info("a retry succeeds once the cause is corrected")
        out.info(f"next: paybill jobs retry {failed['id']}")


def show(out: Output, stack: Stack, id: Id) -> None:
    """Show a background job.

    Example: paybill jobs show 0190a5b0-0000-7000-8000-000000000001
    """
    out.record("job", for_reading(out, stack, _find(stack, id)))


def retry(out: Output, stack: Stack, id: Id, dry_run: DryRun = False) -> None:
    """Run a job now, with all attempts again.

    Example: paybill jobs retry 0190a5b0-0000-7000-8000-000000000001
    """
    job = _find(stack, id)
    with Service(stack, job["service"]) as service:
        if dry_run:
            preview(out, service, f"{_JOBS}/{id}/retry", None)
            return
        out.record("job.retried", service.post(f"{_JOBS}/{id}/retry") | {"service": job["service"]})


def cancel(
    out: Output,
    stack: Stack,
    reason: Reason,
    id: Annotated[str | None, typer.Argument(help="Id of the job; none with --kind.", metavar="JOB")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="All pending jobs of this kind, in every service.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """End jobs without another attempt; an attempt that runs now ends by itself.

    `paybill jobs retry` takes a job back until it is deleted.

    Example: paybill jobs cancel --kind cancel_subscription --reason "incident 7: wrong price" --dry-run
    """
    if (id is None) == (kind is None):
        raise usage("name either a job or --kind", next="paybill jobs list")
    if id is None:
        _cancel_kind(out, stack, str(kind), reason, yes=yes, dry_run=dry_run)
        return
    job = _find(stack, id)
    with Service(stack, job["service"]) as service:
        if dry_run:
            preview(out, service, f"{_JOBS}/{id}/cancel", {"reason": reason})
            return
        out.confirm(f"Cancel {job['kind']} of {job['key']} in {job['service']}?", yes=yes)
        done = service.post(f"{_JOBS}/{id}/cancel", {"reason": reason})
    out.record("job.cancelled", done | {"service": job["service"]})


def _cancel_kind(out: Output, stack: Stack, kind: str, reason: str, *, yes: bool, dry_run: bool) -> None:
    """Cancels all pending jobs of a kind, after a confirmation that has their number."""
    jobs: list[dict[str, Any]] = []
    for name in SERVICES:
        with Service(stack, name) as service:
            found, _ = _pages(service, {"state": "pending", "kind": kind}, sys.maxsize - 1)
        jobs += [job | {"service": name} for job in found]
    if not jobs:
        raise CliError(
            "job_not_found",
            f"no job of the kind {kind} is pending",
            next="paybill jobs list",
            exit_code=ExitCode.NOT_FOUND,
        )
    counts = Counter(job["service"] for job in jobs)
    number = f"{len(jobs)} jobs of the kind {kind} ({', '.join(f'{name} {count}' for name, count in counts.items())})"
    if dry_run:
        with Service(stack, jobs[0]["service"]) as service:
            _cancelled(service, jobs[0], reason, dry_run=True)  # refused for a kind that cannot be cancelled
        out.rows("jobs.found", for_reading(out, stack, jobs), COLUMNS)
        out.info(f"would cancel {number}; nothing was changed")
        return
    out.confirm(f"Cancel {number}?", yes=yes)
    cancelled = []
    with out.progress(f"cancelling {number}"):
        for name in counts:
            with Service(stack, name) as service:
                cancelled += [
                    done for job in jobs if job["service"] == name if (done := _cancelled(service, job, reason))
                ]
    out.rows("jobs.cancelled", for_reading(out, stack, cancelled), COLUMNS)
    out.info(f"{len(cancelled)} jobs were cancelled, and {len(jobs) - len(cancelled)} had ended or changed")


def _cancelled(service: Service, job: dict[str, Any], reason: str, *, dry_run: bool = False) -> dict[str, Any] | None:
    """Cancels a job; None when it has ended or changed meanwhile."""
    try:
        done: dict[str, Any] = service.post(f"{_JOBS}/{job['id']}/cancel", {"reason": reason}, dry_run=dry_run)
    except CliError as error:
        if error.code in {"job_changed", "job_ended", "job_not_found"}:
            return None
        raise
    return done | {"service": job["service"]}


def _pages(service: Service, query: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Returns the jobs of a service, at most `limit`, and whether there are more."""
    found: list[dict[str, Any]] = []
    after = None
    while len(found) <= limit:
        size = min(limit + 1 - len(found), _PAGE)
        page = service.get(_JOBS, query | {"after": after, "limit": size})
        found += page
        if len(page) < size:
            break
        after = page[-1]["cursor"]
    return found[:limit], len(found) > limit


def _find(stack: Stack, id_: str) -> dict[str, Any]:
    """Returns the job, with its service."""
    try:
        UUID(id_)
    except ValueError as error:
        raise usage(f"{id_!r} is not an id", next="paybill jobs list") from error
    for name in SERVICES:
        with Service(stack, name) as service:
            try:
                job: dict[str, Any] = service.get(f"{_JOBS}/{id_}")
            except CliError as error:
                if error.code != "job_not_found":
                    raise
            else:
                return job | {"service": name}
    raise CliError(
        "job_not_found",
        f"no service has a job {id_}",
        why="ended jobs are deleted after a time",
        next="paybill jobs list",
        exit_code=ExitCode.NOT_FOUND,
    )
