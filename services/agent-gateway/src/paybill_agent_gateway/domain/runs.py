"""Runs: the state that the facts of a run fold to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.agent_bundles import Amounts, Scalar, Verb, Workflow
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionFailed,
    ActionIntended,
    ActionRefused,
    ActionVoided,
    CallApprovalDenied,
    CallApprovalExpired,
    CallApprovalGranted,
    CallApprovalRequested,
    Fields,
    RowImage,
    RunEnd,
    RunEnded,
    RunStarted,
)
from paybill_contracts.approval import Approval
from paybill_contracts.event import digest
from paybill_contracts.values import Digest, Key, TenantId, Timestamp

from paybill_agent_gateway.domain.amounts import NOTHING, plus
from paybill_agent_gateway.domain.refusals import BudgetExceededError, RunNotFoundError

RunEvent = (
    RunStarted
    | ActionIntended
    | ActionDone
    | ActionFailed
    | ActionVoided
    | ActionRefused
    | CallApprovalRequested
    | CallApprovalGranted
    | CallApprovalDenied
    | CallApprovalExpired
    | RunEnded
)

_HEX = frozenset("0123456789abcdef")
APPROVAL_USE = timedelta(minutes=5)
"""A run that waits for an approval ends no earlier than this time after the approval's own end."""
CLAIM_AFTER = timedelta(seconds=15)
"""Time after the intent from which an unknown outcome is claimed; statements end earlier by their timeout."""
ENDED_CODES = frozenset({"approval_denied", "approval_expired", "rows_changed"})
"""Refusals that report the end of an approval: the next call may request a new one."""
REPEATABLE = frozenset({"database_unavailable"})
"""Failures that leave nothing under the number of their call: the same call is executed when it is repeated."""
MAX_ATTEMPTS = 10
"""Runs of one business key that begin on a day (UTC), each after one that wrote nothing."""
MAX_DENIALS = 2
"""A run ends when its calls are denied so often."""
ONE_CALL = Amounts(calls=1)


class ApprovalStatus(StrEnum):
    """Status of the approval of a call."""

    REQUESTED = "requested"
    GRANTED = "granted"
    USED = "used"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class CallApproval:
    """An approval of one call. digest: of the call; rows: as they were shown; decided_by: who granted or denied it.

    other_rows: numbers of rows that the call changes beside them, by table.
    subject_hash: over tenant, run, seq, bundle, every argument and the rows.
    """

    id: str
    seq: int
    step: Key
    verb: Verb
    resource: Key
    digest: Digest
    subject_hash: Digest
    arguments: Fields
    rows: tuple[RowImage, ...]
    reason: str
    requester: str
    requested_at: Timestamp
    expires_at: Timestamp
    status: ApprovalStatus = ApprovalStatus.REQUESTED
    granted: Approval | None = None
    decided_by: str | None = None
    end_reason: str | None = None
    other_rows: dict[Key, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """True while it can be decided or used."""
        return self.status in {ApprovalStatus.REQUESTED, ApprovalStatus.GRANTED}


@dataclass(frozen=True, slots=True)
class Done:
    """An action that is done. digest: of its call, which may have led to several actions.

    verb: None for a step that needs no database.
    """

    seq: int
    step: Key
    digest: Digest
    verb: Verb | None
    rows: tuple[Fields, ...]
    chosen: Key | None


@dataclass(frozen=True, slots=True)
class Intent:
    """A write whose outcome is not recorded yet. grants_hash: the bundle of its grants."""

    seq: int
    step: Key
    verb: Verb
    resource: Key
    digest: Digest
    arguments: Fields
    grants: tuple[str, ...]
    reserved: Amounts
    intended_at: Timestamp
    grants_hash: Digest | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A write that changed nothing. code: of the refusal that its call gets, also when it is repeated."""

    seq: int
    step: Key
    digest: Digest
    code: Key


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a workflow. seq: number of the next action; used: of its budgets, without what the intent reserves.

    first_seq: of its first action; it grows with each attempt, and is above 1 when an earlier one wrote nothing.
    expires_at: its own end, without the time for which it waits for an approval. actions: reads and writes done.
    """

    id: str
    tenant_id: TenantId
    agent_id: str | None
    role: Key
    workflow: Key
    blueprint: Key
    bundle_hash: Digest
    inputs: Fields
    has_trusted_inputs: bool
    first_seq: int
    digest: Digest
    limit: Amounts
    started_by: str
    started_at: Timestamp
    expires_at: Timestamp
    seq: int
    used: Amounts = NOTHING
    done: tuple[Done, ...] = ()
    failed: tuple[Failed, ...] = ()
    intent: Intent | None = None
    approval: CallApproval | None = None
    earlier_approvals: tuple[CallApproval, ...] = ()
    denials: int = 0
    actions: int = 0
    attempts: int = 1
    """Starts of this business key on the day (UTC) of the last one."""
    ended: RunEnd | None = None
    ended_at: Timestamp | None = None
    due: Timestamp | None = None
    """Next change by time alone."""
    claim_due: Timestamp | None = None
    """Time from which the outcome of the intent is claimed, also after the end of a run that was stopped."""

    @property
    def end(self) -> datetime:
        """The time at which the run ends, also counting an approval that can still be granted or used."""
        if self.approval is not None and self.approval.is_open:
            return max(self.expires_at, self.approval.expires_at + APPROVAL_USE)
        return self.expires_at

    @property
    def has_written(self) -> bool:
        """True when a write is done, or its outcome is unknown."""
        return self.intent is not None or any(each.verb not in {None, Verb.READ} for each in self.done)


def existing(run: Run | None, run_id: str) -> Run:
    """Returns the run. Raises RunNotFoundError for None."""
    if run is None:
        raise RunNotFoundError(f"there is no run {run_id[:40]!a} here; start the workflow again")
    return run


def require_intent(run: Run) -> Intent:
    """Returns the write whose outcome is not recorded yet. Raises ValueError when there is none."""
    if run.intent is None:
        raise ValueError(f"{run.id} has no intent")
    return run.intent


def require_approval(run: Run) -> CallApproval:
    """Returns the approval of a run. Raises ValueError when there is none."""
    if run.approval is None:
        raise ValueError(f"{run.id} has no approval")
    return run.approval


def run_id(tenant_id: str, workflow: Workflow, inputs: Mapping[str, Scalar | None], request: list[str]) -> str:
    """Returns the id of a run: of its business key, or of the request where the workflow has none."""
    key = [inputs[each.name] for each in workflow.once] if workflow.once else ["", *request]
    return f"run_{digest([tenant_id, workflow.name, key])[:32]}"


def is_run_id(text: str) -> bool:
    """Returns whether a text has the form of a run's id."""
    return len(text) == len("run_") + 32 and text.startswith("run_") and all(each in _HEX for each in text[4:])


def can_start_again(run: Run) -> bool:
    """Returns whether a run with this business key may begin anew: it has ended, and surely wrote nothing."""
    return run.ended is not None and not run.has_written


def first_seq(run: Run | None) -> int:
    """Returns the number of the first call of the next attempt, which no other attempt has, also one without actions.

    It names what the attempt reserves of the day's budgets.
    """
    return 1 if run is None else max(run.seq, run.first_seq + 1)


def require_attempt(run: Run | None, now: datetime) -> None:
    """Raises BudgetExceededError when a business key has begun too often today."""
    if run is not None and run.attempts >= MAX_ATTEMPTS and run.started_at.date() == now.date():
        raise BudgetExceededError(f"{MAX_ATTEMPTS} runs with this business key began today; start again tomorrow (UTC)")


def evolve(run: Run | None, event: RunEvent) -> Run:
    """Returns the run after `event`; only its start may come first."""
    after = _started(run, event) if isinstance(event, RunStarted) else _changed(existing(run, event.run_id), event)
    due = None
    if after.ended is None and after.intent is None:
        due = after.end
        if after.approval is not None and after.approval.is_open:
            due = min(due, after.approval.expires_at)
    claim_due = after.intent.intended_at + CLAIM_AFTER if after.intent is not None else None
    return replace(after, due=due, claim_due=claim_due)


def _started(run: Run | None, event: RunStarted) -> Run:
    return Run(
        id=event.run_id,
        tenant_id=event.tenant_id,
        agent_id=event.agent_id,
        role=event.role,
        workflow=event.workflow,
        blueprint=event.blueprint,
        bundle_hash=event.bundle_hash,
        inputs=event.inputs,
        has_trusted_inputs=event.has_trusted_inputs,
        first_seq=event.first_seq,
        digest=event.digest,
        limit=event.reserved,
        started_by=event.started_by,
        started_at=event.started_at,
        expires_at=event.expires_at,
        seq=event.first_seq,
        attempts=1 if run is None or run.started_at.date() != event.started_at.date() else run.attempts + 1,
        earlier_approvals=_without_approval(run).earlier_approvals if run is not None else (),
    )


def _changed(run: Run, event: RunEvent) -> Run:
    match event:
        case RunStarted():
            raise TypeError("a start is folded by `evolve`")
        case ActionIntended():
            return _intended(run, event)
        case ActionDone():
            done = Done(event.seq, event.step, event.digest, event.verb, event.rows, event.chosen)
            return replace(
                run,
                seq=event.seq + 1,
                used=plus(run.used, event.used),
                done=(*run.done, done),
                intent=None,
                actions=run.actions + (event.verb is not None),
            )
        case ActionFailed():
            return _failed(run, event.code)
        case ActionVoided():
            return _failed(run, "action_voided")
        case ActionRefused():
            used = plus(run.used, ONE_CALL)
            if event.code in ENDED_CODES and run.approval is not None and not run.approval.is_open:
                return replace(_without_approval(run), used=used)
            return replace(run, used=used)
        case CallApprovalRequested():
            return replace(_without_approval(run), used=plus(run.used, ONE_CALL), approval=_requested(event))
        case CallApprovalGranted():
            granted = event.approval
            return _approval_changed(
                run,
                event.approval_id,
                ApprovalStatus.GRANTED,
                granted=granted,
                decided_by=granted.approver,
                expires_at=granted.expires_at,
            )
        case CallApprovalDenied():
            run = replace(run, denials=run.denials + 1)
            by, reason = event.denied_by, event.reason
            return _approval_changed(run, event.approval_id, ApprovalStatus.DENIED, decided_by=by, end_reason=reason)
        case CallApprovalExpired():
            return _approval_changed(run, event.approval_id, ApprovalStatus.EXPIRED, end_reason=event.reason)
        case RunEnded():
            return replace(run, ended=event.reason, ended_at=event.ended_at)
        case _:
            assert_never(event)


def _intended(run: Run, event: ActionIntended) -> Run:
    intent = Intent(
        seq=event.seq,
        step=event.step,
        verb=event.verb,
        resource=event.resource,
        digest=event.digest,
        arguments=event.arguments,
        grants=event.grants,
        reserved=event.reserved,
        intended_at=event.intended_at,
        grants_hash=event.grants_hash,
    )
    if event.approval_id is not None:
        run = _without_approval(_approval_changed(run, event.approval_id, ApprovalStatus.USED))
    return replace(run, intent=intent)


def _failed(run: Run, code: str) -> Run:
    """Returns the run after its intent changed nothing: the call has cost a call, and mostly its number is used."""
    intent = require_intent(run)
    run = replace(run, used=plus(run.used, ONE_CALL), intent=None)
    if code in REPEATABLE:
        return run
    failed = Failed(intent.seq, intent.step, intent.digest, code)
    return replace(run, seq=intent.seq + 1, failed=(*run.failed, failed))


def _requested(event: CallApprovalRequested) -> CallApproval:
    return CallApproval(
        id=event.approval_id,
        seq=event.seq,
        step=event.step,
        verb=event.verb,
        resource=event.resource,
        digest=event.digest,
        subject_hash=event.subject_hash,
        arguments=event.arguments,
        rows=event.rows,
        reason=event.reason,
        requester=event.requester,
        requested_at=event.requested_at,
        expires_at=event.expires_at,
        other_rows=event.other_rows,
    )


def _approval_changed(run: Run, approval_id: str, status: ApprovalStatus, **changes: object) -> Run:
    if run.approval is None or run.approval.id != approval_id:
        raise ValueError(f"{approval_id} is not the current approval of {run.id}")
    return replace(run, approval=replace(run.approval, status=status, **changes))  # type: ignore[arg-type]  # fields


def _without_approval(run: Run) -> Run:
    """Returns the run with its approval among the earlier ones."""
    if run.approval is None:
        return run
    return replace(run, approval=None, earlier_approvals=(*run.earlier_approvals, run.approval))
