"""Runs by plain values: their ends by time, approvals, and what is an illegal transition."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from paybill_agent_gateway.domain import approvals, run_ends, runs
from paybill_agent_gateway.domain.outcomes import claimed
from paybill_agent_gateway.domain.refusals import (
    ApprovalEndedError,
    ApprovalNotFoundError,
    BudgetExceededError,
    RunNotFoundError,
)
from paybill_agent_gateway.domain.runs import ApprovalStatus, CallApproval, Run, RunEvent
from paybill_contracts.agent_bundles import Amounts, ResourceColumn, Verb
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionFailed,
    ActionIntended,
    ActionVoided,
    CallApprovalRequested,
    RunEnd,
    RunEnded,
    RunStarted,
)
from paybill_contracts.approval import ApprovalMismatchError

TENANT, RUN = f"ten_{'a' * 32}", f"run_{'1' * 32}"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
OF = {"tenant_id": TENANT, "run_id": RUN, "bundle_hash": "0" * 64}
SUBJECT = "3" * 64
APPROVAL = f"apr_{'2' * 32}"


def minutes(count: int) -> datetime:
    return NOW + timedelta(minutes=count)


def started(first_seq: int = 1) -> RunStarted:
    return RunStarted(
        **OF, agent_id=None, role="support", workflow="refund", blueprint="shop", inputs={}, has_trusted_inputs=True,
        first_seq=first_seq, digest="1" * 64, reserved=Amounts(calls=9), started_by="user:ann", started_at=NOW,
        expires_at=minutes(15),
    )  # fmt: skip


def intended(seq: int, approval_id: str | None = None) -> ActionIntended:
    return ActionIntended(
        **OF, seq=seq, step="pay", verb=Verb.CREATE, resource="refunds", digest="2" * 64, arguments={"id": "x"},
        grants=("all",), reserved=Amounts(calls=1, rows=1), approval_id=approval_id, intended_at=NOW,
    )  # fmt: skip


def requested(expires: datetime) -> CallApprovalRequested:
    return CallApprovalRequested(
        **OF, seq=1, step="pay", approval_id=APPROVAL, subject_hash=SUBJECT, digest="2" * 64, verb=Verb.CREATE,
        resource="refunds", arguments={}, rows=(), reason="large", requester="user:ann", requested_at=NOW,
        expires_at=expires,
    )  # fmt: skip


def folded(*events: RunEvent) -> Run:
    run: Run | None = None
    for event in events:
        run = runs.evolve(run, event)
    assert run is not None
    return run


def test_a_run_ends_after_its_minutes() -> None:
    run = folded(started())

    assert run_ends.on_time(run, minutes(14)) == []
    assert [event.reason for event in run_ends.on_time(run, minutes(15))] == [RunEnd.EXPIRED]
    assert run.due == minutes(15)


def test_a_run_that_waits_for_an_approval_ends_after_the_approval() -> None:
    run = folded(started(), requested(minutes(60)))

    assert run.end == minutes(65)
    assert run_ends.on_time(run, minutes(59)) == []
    events = run_ends.on_time(run, minutes(60))
    assert [type(each).__name__ for each in events] == ["CallApprovalExpired", "RunEnded"]


def test_an_approval_that_is_denied_or_over_extends_nothing() -> None:
    run = folded(started(), requested(minutes(60)))
    denied = folded(started(), requested(minutes(60)), *approvals.deny(run, APPROVAL, "user:bob", "no", NOW))

    assert (denied.end, denied.due) == (minutes(15), minutes(15))


def test_an_approval_granted_at_the_last_second_can_still_be_used() -> None:
    run = folded(started(), requested(minutes(60)))
    at = minutes(60) - timedelta(seconds=1)

    after = folded(started(), requested(minutes(60)), *approvals.grant(run, APPROVAL, SUBJECT, "user:bob", at))

    assert after.approval is not None
    assert after.approval.expires_at == at + runs.APPROVAL_USE


@pytest.mark.parametrize("approver", ["user:ann", "service:bot"])
def test_the_requester_and_programs_approve_nothing(approver: str) -> None:
    with pytest.raises(ApprovalMismatchError):
        approvals.grant(folded(started(), requested(minutes(60))), APPROVAL, SUBJECT, approver, NOW)


def test_an_approval_is_decided_once_and_in_time() -> None:
    run = folded(started(), requested(minutes(60)))
    granted = folded(started(), requested(minutes(60)), *approvals.grant(run, APPROVAL, SUBJECT, "user:bob", NOW))

    with pytest.raises(ApprovalEndedError):
        approvals.deny(granted, APPROVAL, "user:bob", "no", NOW)
    with pytest.raises(ApprovalEndedError):
        approvals.grant(run, APPROVAL, SUBJECT, "user:bob", minutes(60))
    with pytest.raises(ApprovalMismatchError):
        approvals.grant(run, APPROVAL, "1" * 64, "user:bob", NOW)
    assert approvals.grant(granted, APPROVAL, SUBJECT, "user:bob", NOW) == []
    with pytest.raises(ApprovalNotFoundError):
        approvals.grant(run, "apr_other", SUBJECT, "user:bob", NOW)


def test_a_run_with_an_unknown_outcome_ends_by_no_time_and_is_claimed_after_its_stop() -> None:
    run = folded(started(), intended(1))

    assert run_ends.on_time(run, minutes(99)) == []
    (end,) = run_ends.stop(run, NOW)
    assert isinstance(end, RunEnded)
    assert (end.used, end.actions) == (Amounts(calls=1, rows=1), 0)
    stopped = runs.evolve(run, end)
    assert (stopped.due, stopped.claim_due) == (None, NOW + runs.CLAIM_AFTER)
    assert not runs.can_start_again(stopped)
    (voided,) = claimed(stopped, NOW, is_done=False)
    settled = runs.evolve(stopped, voided)
    assert (settled.claim_due, settled.ended) == (None, RunEnd.STOPPED)


def test_an_open_approval_ends_with_its_run() -> None:
    run = folded(started(), requested(minutes(60)))

    events = run_ends.stop_waiting(run, NOW)

    assert [type(each).__name__ for each in events] == ["CallApprovalExpired", "RunEnded"]
    ended = folded(started(), requested(minutes(60)), *events)
    assert ended.approval is not None
    assert ended.approval.status is ApprovalStatus.EXPIRED
    again = folded(started(), requested(minutes(60)), *events, started(first_seq=1))
    assert again.earlier_approvals == (ended.approval,)
    assert approvals.approval_id(again, "2" * 64) != approvals.approval_id(folded(started()), "2" * 64)
    assert run_ends.stop_waiting(folded(started()), NOW) == []


def test_a_write_that_failed_or_is_void_uses_its_number_and_a_call() -> None:
    failed = folded(started(), intended(1), ActionFailed(**OF, seq=1, step="pay", code="row_exists", failed_at=NOW))
    voided = folded(started(), intended(1), ActionVoided(**OF, seq=1, step="pay", voided_at=NOW))

    assert (failed.seq, failed.used.calls, failed.failed[0].code) == (2, 1, "row_exists")
    assert (voided.seq, voided.used.calls, voided.failed[0].code) == (2, 1, "action_voided")
    assert not voided.has_written


def test_a_write_whose_database_was_away_uses_a_call_and_keeps_its_number() -> None:
    away = ActionFailed(**OF, seq=1, step="pay", code="database_unavailable", failed_at=NOW)
    failed = folded(started(), intended(1), away)
    again = folded(started(), intended(1), away, intended(1))

    assert (failed.seq, failed.used.calls, failed.failed, failed.intent) == (1, 1, (), None)
    assert again.intent is not None
    assert again.intent.seq == 1
    assert runs.can_start_again(folded(started(), intended(1), away, *run_ends.ended(failed, RunEnd.EXPIRED, NOW)))


def test_only_a_run_that_surely_wrote_nothing_can_start_again() -> None:
    (end,) = run_ends.ended(folded(started()), RunEnd.EXPIRED, NOW)
    done = ActionDone(
        **OF, seq=1, step="pay", verb=Verb.CREATE, resource="refunds", digest="2" * 64, arguments={}, grants=(),
        rows=({"id": "x"},), used=Amounts(calls=1, rows=1), chosen=None, done_at=NOW,
    )  # fmt: skip

    assert runs.can_start_again(folded(started(), end))
    assert not runs.can_start_again(folded(started()))
    assert not runs.can_start_again(folded(started(), intended(1), done, end))
    again = folded(started(), end, started(first_seq=4))
    assert (again.seq, again.ended, again.used) == (4, None, Amounts())


def test_facts_without_their_beginning_are_refused() -> None:
    with pytest.raises(RunNotFoundError):
        folded(intended(1))
    with pytest.raises(ValueError, match="no intent"):
        folded(started(), ActionVoided(**OF, seq=1, step="pay", voided_at=NOW))
    with pytest.raises(ValueError, match="not the current approval"):
        folded(started(), intended(1, approval_id=APPROVAL))


def test_a_text_of_other_people_is_shown_cut_and_without_control_characters() -> None:
    column = ResourceColumn(name="body", type="text", nullable=True, untrusted=True)

    shown = approvals.shown(column, "\x1b[31m" + "x" * 300)
    trusted = approvals.shown(column.model_copy(update={"untrusted": False}), "a\nb")

    assert isinstance(shown, str)
    assert (len(shown), shown[:5], trusted) == (201, " [31m", "a b")


def test_the_hash_of_an_approval_covers_every_part() -> None:
    run = folded(started(), requested(minutes(60)))
    image = approvals.Image(None, {"id": "x", "amount": 5})

    def hashed(
        of: Run = run,
        step: str = "pay",
        amount: int = 5,
        bundle: str = "0",
        row: approvals.Image = image,
        **others: int,
    ) -> str:
        return approvals.subject_hash(of, step, {"amount": amount}, approvals.Preview((row,), "", others), bundle)

    changed = [
        hashed(replace(run, seq=2)), hashed(replace(run, tenant_id="other")), hashed(replace(run, id="other")),
        hashed(replace(run, bundle_hash="9")), hashed(step="x"), hashed(amount=6), hashed(bundle="1"),
        hashed(row=approvals.Image({"id": "x", "amount": 5}, None)),
        hashed(row=approvals.Image(None, {"id": "x", "amount": 6})),
        hashed(audits=990), hashed(audits=991), hashed(ledger=990),
    ]  # fmt: skip
    assert len({hashed(), *changed}) == len(changed) + 1


def test_approvals_of_one_run_have_different_ids() -> None:
    run = folded(started())
    waiting = folded(started(), requested(minutes(60)))
    cleared = replace(waiting, approval=None, earlier_approvals=(waiting.approval,))
    assert isinstance(waiting.approval, CallApproval)

    later = replace(run, first_seq=2)
    ids = [approvals.approval_id(each, digest) for each in (run, cleared, later) for digest in ("1" * 64, "2" * 64)]
    assert len(set(ids)) == 6
    assert waiting.approval.status is ApprovalStatus.REQUESTED


def test_a_business_key_begins_ten_runs_a_day() -> None:
    run = None
    for _ in range(runs.MAX_ATTEMPTS):
        runs.require_attempt(run, NOW)
        run = runs.evolve(run, started())

    with pytest.raises(BudgetExceededError, match="start again tomorrow"):
        runs.require_attempt(run, NOW)
    tomorrow = NOW + timedelta(days=1)
    runs.require_attempt(run, tomorrow)
    again = runs.evolve(run, started().model_copy(update={"started_at": tomorrow}))
    assert again.attempts == 1
