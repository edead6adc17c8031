"""`paybill jobs` on a real stack: lists of all services, and what operators change."""

from random import Random
from uuid import uuid4

import pytest
from fault_injection import Bed
from paybill_cli.client.waiting import Deadline
from paybill_cli.exit_codes import ExitCode


def _cleanups(on_stack) -> dict[str, str]:
    """Returns the ids of the jobs that delete ended jobs, by service."""
    rows = on_stack("jobs", "list", "--kind", "delete_ended_jobs", "--json").data
    return {row["service"]: row["id"] for row in rows}


def test_jobs_of_all_services_are_listed_and_shown(on_stack) -> None:
    listed = _cleanups(on_stack)

    shown = on_stack("jobs", "show", listed["billing"], "--json")
    table = on_stack("jobs", "list")

    assert listed.keys() == {"tenant", "billing", "provisioner", "agent-gateway"}
    assert (shown.data["service"], shown.data["kind"], shown.data["state"]) == (
        "billing",
        "delete_ended_jobs",
        "pending",
    )
    assert shown.data["priority"] == "bulk"
    assert table.out.splitlines()[0].startswith("id\tservice\tkind\tkey")


def test_a_job_is_retried_and_a_recurring_one_cannot_be_cancelled(on_stack) -> None:
    id_ = _cleanups(on_stack)["tenant"]

    preview = on_stack("jobs", "retry", id_, "--dry-run", "--json")
    retried = on_stack("jobs", "retry", id_, "--json")
    cancelled = on_stack("jobs", "cancel", id_, "--reason", "no longer needed", "--yes", "--json")

    (fact,) = preview.data["would_record"]
    assert (fact["type"], fact["payload"]["job_id"]) == ("tenant.job_retried", id_)
    assert retried.data["id"] == id_
    assert retried.data["attempts"] == 0
    assert (cancelled.code, cancelled.error["code"]) == (ExitCode.CONFLICT, "job_recurring")


@pytest.mark.parametrize("command", [["retry"], ["cancel", "--reason", "no longer needed"]], ids=str)
def test_a_preview_is_refused_as_the_command_would_be(on_stack, command: list[str]) -> None:
    deadline = Deadline(60)
    while not (ended := on_stack("jobs", "list", "--state", "ended", "--kind", "make_key", "--json").data):
        deadline.pause("the first licence key is being made")

    preview = on_stack("jobs", *command, ended[0]["id"], "--dry-run", "--json")

    assert (preview.code, preview.error["code"]) == (ExitCode.CONFLICT, "job_ended")


def test_all_jobs_of_a_kind_are_cancelled_after_their_number_is_confirmed(on_stack, real_stack, customers) -> None:
    kind = f"sync/{uuid4().hex}"
    insert = (
        "INSERT INTO chassis.job (kind, key, queue, locks, lease, priority, due, state) "
        f"SELECT '{kind}', 'k' || n, 'q', '{{}}', 'relay', 2, '2100-01-01Z', 'pending' FROM generate_series(1, $) AS n"
    )
    with customers.fake() as fake:
        bed = Bed(real_stack, on_stack, customers, fake, Random())
        bed.sql("tenant", insert.replace("$", "2"))
        bed.sql("billing", insert.replace("$", "501"))
    cancel = ("jobs", "cancel", "--kind", kind, "--reason", "incident 7")

    asked = on_stack(*cancel, "--json")
    preview = on_stack(*cancel, "--dry-run")
    before = on_stack("jobs", "list", "--kind", kind, "--limit", "1000", "--json").data
    done = on_stack(*cancel, "--yes")
    after = on_stack("jobs", "list", "--kind", kind, "--json").data
    ended = on_stack("jobs", "list", "--kind", kind, "--state", "ended", "--limit", "1000", "--json").data
    again = on_stack(*cancel, "--yes", "--json")

    number = f"503 jobs of the kind {kind} (tenant 2, billing 501)"
    assert (asked.code, asked.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert asked.error["what"] == f"Cancel {number}? This needs a confirmation, and there is no terminal: add --yes"
    assert f"would cancel {number}; nothing was changed" in preview.err
    assert len(preview.rows) == len(before) == 503
    assert (done.code, len(done.rows), after) == (ExitCode.OK, 503, [])
    assert "503 jobs were cancelled, and 0 had ended or changed" in done.err
    assert {row["state"] for row in ended} == {"cancelled"}
    assert (again.code, again.error["code"]) == (ExitCode.NOT_FOUND, "job_not_found")


@pytest.mark.parametrize("more", [("--dry-run",), ("--yes",)], ids=str)
def test_a_kind_that_recurs_cannot_be_cancelled(on_stack, more: tuple[str, ...]) -> None:
    done = on_stack("jobs", "cancel", "--kind", "delete_ended_jobs", "--reason", "x", *more, "--json")

    assert (done.code, done.error["code"]) == (ExitCode.CONFLICT, "job_recurring")


@pytest.mark.parametrize("named", [(), (str(uuid4()), "--kind", "sync/stripe")], ids=["nothing", "both"])
def test_either_a_job_or_a_kind_is_cancelled(paybill, named: tuple[str, ...]) -> None:
    done = paybill("jobs", "cancel", *named, "--reason", "x", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "usage")


def test_an_unknown_job_is_not_found_and_an_invalid_id_is_wrong_use(on_stack) -> None:
    unknown = on_stack("jobs", "show", str(uuid4()), "--json")
    invalid = on_stack("jobs", "show", "one", "--json")

    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "job_not_found")
    assert invalid.code == ExitCode.USAGE


def test_ended_and_failed_jobs_are_lists_of_their_own(on_stack) -> None:
    ended = on_stack("jobs", "list", "--state", "ended", "--limit", "500", "--json").data
    failed = on_stack("jobs", "list", "--state", "failed", "--json").data

    assert {row["state"] for row in ended} <= {"done", "failed", "cancelled"}
    assert {row["state"] for row in failed} <= {"failed"}
