"""`paybill jobs` on a real stack: lists of all services, and what operators change."""

from uuid import uuid4

import pytest
from paybill_cli.exit_codes import ExitCode


def _cleanups(on_stack) -> dict[str, str]:
    """Returns the ids of the jobs that delete ended jobs, by service."""
    rows = on_stack("jobs", "list", "--kind", "delete_ended_jobs", "--json").data
    return {row["service"]: row["id"] for row in rows}


def test_jobs_of_all_services_are_listed_and_shown(on_stack) -> None:
    listed = _cleanups(on_stack)

    shown = on_stack("jobs", "show", listed["billing"], "--json")
    table = on_stack("jobs", "list")

    assert listed.keys() == {"tenant", "billing", "provisioner"}
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
    ended = on_stack("jobs", "list", "--state", "ended", "--kind", "make_key", "--json").data

    preview = on_stack("jobs", *command, ended[0]["id"], "--dry-run", "--json")

    assert (preview.code, preview.error["code"]) == (ExitCode.CONFLICT, "job_ended")


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
