"""Tests of `paybill doctor`: all checks pass on a healthy stack, and each failure has a fix."""

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from paybill_cli.client.stack import Stack
from paybill_cli.commands.checks import Check, State, incidents, refused, unsettled, violations
from paybill_cli.commands.doctor import _clock, _counts, _machine, _ready, _sync_always
from paybill_cli.exit_codes import ExitCode
from paybill_runtime.messaging.streams import EVENTS, INTAKE
from paybill_runtime.testing import stop_processes

STACK = Stack(data_dir=Path("no-stack"))

HEALTHY = {
    "outbox_waiting": 0,
    "outbox_age_s": 0.0,
    "lag": {"reader": 0},
    "parked": 0,
    "dead": 0,
    "quarantined": 0,
    "effects_failed": 0,
    "jobs_failing": 0,
    "security_jobs_failing": 0,
    "unowned": 0,
}


def by_state(checks: Iterator[Check]) -> dict[str, str]:
    return {check.check: str(check.state) for check in checks if check.state is not State.OK}


def test_a_healthy_stack_passes_every_check(on_stack) -> None:
    done = on_stack("doctor", "--json")

    checks = {(row["part"], row["check"]): row for row in done.data}
    # Tests of webhooks may have sent a message of the other mode to this stack before.
    found = [
        row for row in done.data if row["state"] not in {"ok", "noted"} and "a live mode message" not in row["found"]
    ]
    assert found == []
    assert done.code == (ExitCode.FAILED if any(row["state"] == "failed" for row in done.data) else ExitCode.OK)
    assert {("nats", "answers"), ("nats", "sync"), ("nats", EVENTS), ("nats", INTAKE)} <= checks.keys()
    assert {("postgres", "answers"), ("machine", "disk"), ("machine", "writable")} <= checks.keys()
    for service in ("tenant", "billing", "provisioner", "agent-gateway"):
        parts = {check for part, check in checks if part == service}
        assert {
            "answers",
            "ready",
            "clock",
            "database writes",
            "events writes",
            *(["intake_stream writes"] if service == "billing" else []),
            "outbox",
            "lag",
            "parked",
            "dead",
            "quarantined",
            "effects_failed",
            "jobs_failing",
            "security_jobs_failing",
            "leases",
            "incidents",
            "invariants",
        } == parts - {"environments", "webhooks"}  # noted after other tests


def test_a_stopped_stack_is_unreachable_with_a_fix(paybill, tmp_path: Path) -> None:
    done = paybill("doctor", "--data-dir", tmp_path, "--json", PAYBILL_API_KEY="k")

    failed = [row for row in done.data if row["state"] == "failed"]
    assert done.code == ExitCode.UNREACHABLE
    assert {row["part"] for row in failed} == {"nats", "tenant", "billing", "provisioner", "agent-gateway"}
    assert all("paybill up" in row["fix"] for row in failed)


def test_an_unreachable_part_is_named_and_the_others_are_checked(on_stack) -> None:
    done = on_stack("doctor", "--json", "--billing-url", "http://127.0.0.1:9")
    people = on_stack("doctor", "--billing-url", "http://127.0.0.1:9")

    failed = [row for row in done.data if row["state"] == "failed"]
    assert done.code == ExitCode.FAILED
    assert [(row["part"], row["check"]) for row in failed] == [("billing", "answers")]
    assert "logs/billing.log" in failed[0]["fix"]
    assert "fix " not in done.err
    assert (people.out + people.err).count("does not answer") == 1
    assert "fix billing answers: paybill up; if it runs, read " in people.err


def test_a_wrong_key_is_a_failed_check(on_stack) -> None:
    done = on_stack("doctor", "--json", PAYBILL_API_KEY="pbk_op1_" + "x" * 43)

    failed = [(row["part"], row["check"]) for row in done.data if row["state"] == "failed"]
    assert done.code == ExitCode.FAILED
    assert failed == [("tenant", "key"), ("billing", "key"), ("provisioner", "key"), ("agent-gateway", "key")]


def test_a_port_without_postgres_is_found(on_stack, real_stack, tmp_path: Path) -> None:
    written = json.loads((real_stack.data_dir / "stack.json").read_text())
    nats = written["nats"]["url"].rpartition(":")[2]
    for port, word in ((int(nats), "not a PostgreSQL"), (9, "no answer")):
        (tmp_path / "stack.json").write_text(json.dumps(written | {"postgres": {"host": "127.0.0.1", "port": port}}))
        done = on_stack("doctor", "--json", PAYBILL_DATA_DIR=str(tmp_path))
        [row] = [row for row in done.data if (row["part"], row["check"]) == ("postgres", "answers")]
        assert (row["state"], word in row["found"]) == ("failed", True)


def test_a_paused_bus_is_found_by_doctor_and_by_the_services(real_stack, on_stack, customers) -> None:
    """A paused NATS keeps its connections open, so only timeouts find it."""
    slug = customers.sign_up()["slug"]
    lock = (real_stack.data_dir / "nats.lock").read_text().split()
    pid = int(lock[0])
    stop_processes([pid])
    try:
        done = on_stack("doctor", "--json")
        why = on_stack("why", slug, "--json")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert done.code == ExitCode.FAILED
    assert ("nats", "answers") in {(row["part"], row["check"]) for row in done.data if row["state"] == "failed"}
    assert why.data["causes"][0]["kind"] == "bus"
    assert "NATS does not answer" in why.data["headline"]


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({}, {}),
        ({"outbox_waiting": 5, "outbox_age_s": 1.0}, {}),
        ({"outbox_waiting": 5, "outbox_age_s": 31.0}, {"outbox": "failed"}),
        ({"lag": {"reader": None, "intake": 5}}, {}),
        ({"lag": {"reader": 5000}}, {"lag": "failed"}),
        ({"parked": 1}, {"parked": "failed"}),
        ({"parked": 2, "dead": 1}, {"parked": "failed", "dead": "failed"}),
        ({"quarantined": 1, "effects_failed": 1}, {"quarantined": "noted", "effects_failed": "noted"}),
        ({"jobs_unknown": {"move_database": 2}}, {"jobs_unknown": "failed"}),
        ({"jobs_failing": 2, "security_jobs_failing": 1}, {"jobs_failing": "noted", "security_jobs_failing": "failed"}),
        ({"unowned": 3}, {"leases": "failed"}),
    ],
    ids=str,
)
def test_pending_work_above_its_limit_fails(counts: dict[str, object], found: dict[str, str]) -> None:
    checks = list(_counts("tenant", HEALTHY | counts, "tail"))

    assert by_state(iter(checks)) == found
    assert all(check.fix for check in checks if check.state is not State.OK)


def test_each_open_incident_fails_with_its_command() -> None:
    paid = {"id": "inc_1", "kind": "paid_without_tenant", "summary": "sub_1 is paid, and acme is retained"}
    page = {"incidents": [paid], "next": None}

    [failed] = incidents("billing", page)
    [none] = incidents("billing", {"incidents": [], "next": None})

    assert (failed.state, failed.found, failed.fix) == (
        State.FAILED,
        "paid_without_tenant: sub_1 is paid, and acme is retained",
        "paybill incident show inc_1",
    )
    assert none.state is State.OK


def test_each_violated_invariant_fails_with_both_sides() -> None:
    page = {
        "violations": [
            {"number": 6, "tenant_id": "ten_1", "left": "starter is built", "right": "team is entitled", "since": "now"}
        ],
        "next": None,
    }

    [failed] = violations("provisioner", page)

    assert failed.state is State.FAILED
    assert failed.found == "invariant 6 of ten_1: starter is built, and team is entitled, since now"
    assert failed.fix == "paybill why ten_1"


@pytest.mark.parametrize(
    "of_strangers",
    [False, True],
)
@pytest.mark.parametrize(
    ("age_s", "accepted_age_s", "state"),
    [(5, None, State.FAILED), (5, 60, State.FAILED), (60, 5, State.NOTED), (90_000, None, None)],
)
def test_refused_webhooks_of_the_provider_fail_until_one_is_accepted_and_those_of_strangers_never(
    age_s: int,
    accepted_age_s: int | None,
    state: State | None,
    of_strangers: bool,
) -> None:
    def ago(seconds: int | None) -> str | None:
        return None if seconds is None else (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()

    row = {"provider": "stripe", "reason": "bad_signature", "count": 3, "detail": "no active secret matches"}
    row |= {"last_at": ago(age_s), "accepted_at": ago(accepted_age_s), "may_be_of_strangers": of_strangers}
    checks = list(refused("billing", [row]))

    expected = State.NOTED if state is State.FAILED and of_strangers else state
    assert [check.state for check in checks] == ([] if expected is None else [expected])


def row(slug: str, *, is_problem: bool, since: str | None = None) -> dict[str, object]:
    why = {"text": "it waits", "command": f"paybill why {slug}", "since": since, "is_problem": is_problem}
    return {"slug": slug, "unsettled": why}


def test_environments_that_are_not_as_paid_for_are_named_with_their_next_command() -> None:
    late, held = row("acme", is_problem=True), row("beta", is_problem=False, since="2026-11-29T12:00:00Z")

    failed, noted = unsettled("provisioner", {"environments": [held, late], "next": None})
    [fine] = unsettled("provisioner", {"environments": [], "next": None})

    assert (failed.state, failed.found, failed.fix) == (State.FAILED, "acme: it waits", "paybill why acme")
    assert (noted.state, noted.found) == (State.NOTED, "beta: it waits, since 2026-11-29 12:00:00 UTC")
    assert fine.state is State.OK


def test_more_environments_than_doctor_prints_are_counted_as_more() -> None:
    page = {"environments": [row(f"t{number}", is_problem=False) for number in range(21)], "next": None}

    *printed, more = unsettled("provisioner", page)

    assert (len(printed), more.fix) == (20, "paybill environment list --unsettled")


def test_more_incidents_than_doctor_prints_are_counted_as_more() -> None:
    page = {"incidents": [{"id": "inc_1", "kind": "kind", "summary": "one"}], "next": "1"}

    assert [check.fix for check in incidents("billing", page)] == [
        "paybill incident show inc_1",
        "paybill incident list",
    ]


@pytest.mark.parametrize(
    ("health", "state", "fix"),
    [
        ({"status": "ok", "checks": {"bus": "ok", "database": "ok"}}, State.OK, ""),
        ({"status": "degraded", "checks": {"bus": "away", "database": "ok"}}, State.FAILED, "start NATS again"),
        (
            {"status": "failed", "checks": {"relay": "NATS does not accept facts (TimeoutError:)", "database": "ok"}},
            State.FAILED,
            "start NATS again; if it runs, free space on its disk and restart NATS: the service continues by itself",
        ),
        ({"status": "failed", "checks": {"bus": "ok", "database": "away"}}, State.FAILED, "start PostgreSQL again"),
        ({"status": "failed", "checks": {"relay": "stopped"}}, State.FAILED, "tail -n 50 logs/tenant.log"),
        ({}, State.FAILED, "tail -n 50 logs/tenant.log"),
    ],
    ids=["healthy", "no bus", "stopped bus", "no database", "loop", "empty"],
)
def test_a_service_that_is_not_ready_has_a_fix(health: dict[str, object], state: State, fix: str) -> None:
    check = _ready("tenant", health, "tail -n 50 logs/tenant.log")

    assert check.state is state
    assert fix in check.fix


@pytest.mark.parametrize(
    ("date", "state"), [("Thu, 01 Jan 1970 00:00:00 GMT", State.FAILED), ("", State.SKIPPED), ("soon", State.SKIPPED)]
)
def test_a_wrong_clock_is_found(date: str, state: State) -> None:
    assert _clock("tenant", date).state is state


def test_a_server_that_acknowledges_before_it_syncs_is_found(tmp_path: Path) -> None:
    file = tmp_path / "nats" / "nats-server.conf"
    stack = Stack(data_dir=tmp_path)
    hidden = _sync_always(stack)
    file.parent.mkdir()
    file.write_text("jetstream { sync_interval: always }")
    right = _sync_always(stack)
    file.write_text("jetstream { }")
    wrong = _sync_always(stack)

    assert (hidden.state, right.state, wrong.state) == (State.SKIPPED, State.OK, State.FAILED)


def test_a_missing_data_directory_is_not_checked(tmp_path: Path) -> None:
    assert [check.state for check in _machine(Stack(data_dir=tmp_path / "none"))] == [State.SKIPPED]
