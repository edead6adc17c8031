"""Facts of one call: each is folded into the run at once, so that the next step is decided on it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from paybill_contracts.agent_bundles import Amounts, Verb, WriteStep
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionFailed,
    ActionIntended,
    ActionRefused,
    ActionVoided,
    CallApprovalRequested,
    Fields,
    RunEnd,
    RunStarted,
)
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical

from paybill_agent_gateway.domain import approvals, run_ends, runs, sizes
from paybill_agent_gateway.domain.amounts import exceeded, plus
from paybill_agent_gateway.domain.answers import Answer, PlainFields
from paybill_agent_gateway.domain.attempts import Attempt
from paybill_agent_gateway.domain.disclosure import Disclosure
from paybill_agent_gateway.domain.refusals import BudgetExceededError, OutOfBudgetError
from paybill_agent_gateway.domain.runs import MAX_DENIALS, ONE_CALL, Run, RunEvent
from paybill_agent_gateway.domain.scenes import Found
from paybill_agent_gateway.domain.turns import CHOICE, Progress, allowed_next, is_single, next_step, progress
from paybill_agent_gateway.domain.workflows import CompiledBundle, CompiledWorkflow, RowStep

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MAX_REFUSED_BYTES = 16_384
"""Largest canonical form of the arguments of a refused call in its fact."""


@dataclass(slots=True)
class Records:
    """The run of a call, and the facts that the call adds to it. digest: of the call.

    grants_hash: the bundle whose grants decide; None before it is known.

    agent_id: of the caller; called: the step that the call names. Both are for its refusal, and so is `attempt`, which
    is known once the arguments fit the step.
    """

    now: datetime
    run: Run
    bundle: CompiledBundle
    found: Found
    digest: str
    grants_hash: str | None
    events: list[RunEvent] = field(default_factory=list)
    agent_id: str | None = None
    called: str = ""
    attempt: Attempt | None = None
    _so_far: Progress | None = None

    @property
    def so_far(self) -> Progress:
        """The knowledge of the run now."""
        if self._so_far is None or self._so_far.run is not self.run:
            self._so_far = progress(self.run, self.bundle, self.found.opened)
        return self._so_far

    @property
    def workflow(self) -> CompiledWorkflow:
        """The workflow of the run, as it was when the run started."""
        return self.bundle.workflows[self.run.workflow]

    @property
    def has_calls(self) -> bool:
        """True while the run has a call left, beside the one that a pending write has reserved."""
        held = self.run.intent.reserved.calls if self.run.intent is not None else 0
        return self.run.used.calls + held < self.run.limit.calls

    def reserve(self, rows: int, sums: dict[str, int]) -> Amounts:
        """Returns what the next action uses at most. Raises OutOfBudgetError, BudgetExceededError."""
        amounts = Amounts(calls=1, rows=rows, sums=sums)
        what = exceeded(plus(self.run.used, amounts), self.run.limit)
        if what == "calls":
            raise OutOfBudgetError(f"the run has used its {self.run.limit.calls} calls, and ends")
        if what is not None:
            raise BudgetExceededError(f"the call would exceed the limit of {what} in one run")
        return amounts

    def require_request(self) -> None:
        """Raises OutOfBudgetError when no call would be left for the write after a request for its approval."""
        if self.run.used.calls + 2 > self.run.limit.calls:
            raise OutOfBudgetError("the run has one call left: too few for an approval and the call after it")

    def done(
        self,
        step: str,
        arguments: PlainFields,
        rows: Sequence[PlainFields],
        *,
        of: RowStep | None = None,
        verb: Verb | None = None,
        grants: tuple[str, ...] = (),
        used: Amounts = ONE_CALL,
        chosen: str | None = None,
    ) -> None:
        """Records an action that is done. of: the step, when it is about rows of a table. Raises RowsTooLargeError."""
        sizes.require_read_fits(step, arguments, rows)
        event = ActionDone(
            tenant_id=self.run.tenant_id,
            run_id=self.run.id,
            bundle_hash=self.run.bundle_hash,
            seq=self.run.seq,
            step=step,
            workflow=self.run.workflow,
            verb=verb,
            resource=None if of is None else of.resource,
            digest=self.digest,
            arguments=self._sealed(step, of, arguments),
            grants=grants,
            rows=tuple(self._sealed(step, of, row) for row in rows),
            used=used,
            chosen=chosen,
            done_at=self.now,
            grants_hash=None if verb is None else self.grants_hash,
        )
        sizes.require_read_fits(step, arguments, rows, event)
        self._record(event)

    def intended(
        self,
        step: RowStep,
        verb: Verb,
        arguments: PlainFields,
        grants: tuple[str, ...],
        reserved: Amounts,
        approval_id: str | None,
    ) -> None:
        """Records a write before it is executed. Raises RowsTooLargeError."""
        event = ActionIntended(
            tenant_id=self.run.tenant_id,
            run_id=self.run.id,
            bundle_hash=self.run.bundle_hash,
            seq=self.run.seq,
            step=step.name,
            workflow=self.run.workflow,
            verb=verb,
            resource=step.resource,
            digest=self.digest,
            arguments=self._sealed(step.name, step, arguments),
            grants=grants,
            reserved=reserved,
            approval_id=approval_id,
            intended_at=self.now,
            grants_hash=self.grants_hash,
        )
        sizes.require_outcome_fits(event, arguments)
        self._record(event)

    def refused(self, error: DomainError, rule: str) -> None:
        """Records a refusal, which costs a call; the run ends when it has used them all."""
        run = self.run
        if not self.has_calls:
            self.end(RunEnd.OUT_OF_BUDGET)
            return
        attempt = self.attempt
        event = ActionRefused(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=run.seq,
            step=rule_step(self.workflow, run),
            workflow=run.workflow,
            code=error.code,
            rule=rule,
            refused_at=self.now,
            agent_id=self.agent_id,
            called=self.called if NAME.fullmatch(self.called) else None,
            digest=self.digest or None,
            verb=None if attempt is None else Verb(attempt.step.kind),
            resource=None if attempt is None else attempt.step.resource,
            arguments=None if attempt is None else self._attempted(attempt),
            grants=() if attempt is None else attempt.grants,
            grants_hash=None if attempt is None else attempt.in_force.hash,
        )
        self._record(event)
        if self.run.intent is not None:
            return
        if self.run.denials >= MAX_DENIALS:
            self.end(RunEnd.DENIED)
        elif self.run.used.calls >= self.run.limit.calls:
            self.end(RunEnd.OUT_OF_BUDGET)

    def requested(
        self,
        step: RowStep,
        verb: Verb,
        arguments: PlainFields,
        shown: approvals.Preview,
        subject: str,
        reason: str,
        requester: str,
    ) -> None:
        """Records that the call waits for an approval. requester: who calls. Raises RowsTooLargeError."""
        if not isinstance(step, WriteStep) or step.approval is None:
            raise TypeError(f"the step {step.name} has no rule about approvals")
        run = self.run
        sizes.require_request_fits(step.name, arguments, shown.rows)
        event = CallApprovalRequested(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=run.seq,
            step=step.name,
            workflow=run.workflow,
            approval_id=approvals.approval_id(run, self.digest),
            subject_hash=subject,
            digest=self.digest,
            verb=verb,
            resource=step.resource,
            arguments=self._sealed(step.name, step, arguments),
            rows=approvals.images_of(shown.rows, lambda fields: self._sealed(step.name, step, fields)),
            reason=reason,
            requester=requester,
            requested_at=self.now,
            expires_at=self.now + timedelta(minutes=step.approval.within_minutes),
            other_rows=dict(shown.other_rows),
        )
        sizes.require_request_fits(step.name, arguments, shown.rows, event)
        self._record(event)

    def expire(self, reason: str) -> None:
        """Records the end of the approval, if it is still open."""
        for event in approvals.expire(self.run, reason, self.now):
            self._record(event)

    def end_on_time(self) -> bool:
        """Ends the run when its time is over; returns whether it is."""
        is_over = self.run.ended is None and self.run.intent is None and self.now >= self.run.end
        if is_over:
            self.end(RunEnd.EXPIRED)
        return is_over

    def end(self, reason: RunEnd) -> None:
        """Records the end of the run, unless it has ended already, while its last write was executed."""
        if self.run.ended is None:
            for event in run_ends.ended(self.run, reason, self.now):
                self._record(event)

    def failed(self, code: str) -> None:
        """Records that the statement of the intent changed nothing."""
        run, intent = self.run, runs.require_intent(self.run)
        common = {"tenant_id": run.tenant_id, "run_id": run.id, "bundle_hash": run.bundle_hash}
        key = {"seq": intent.seq, "step": intent.step, "workflow": run.workflow}
        if code == "action_voided":
            self._record(ActionVoided(**common, **key, voided_at=self.now))  # type: ignore[arg-type]  # by name
        else:
            self._record(ActionFailed(**common, **key, code=code, failed_at=self.now))  # type: ignore[arg-type]  # by name

    def answer(self, in_force: CompiledBundle, *, whole_run: bool) -> Answer:
        """Returns the answer to the call; of the whole run for a start. in_force: bundle that decides what it has."""
        fresh = frozenset(each.seq for each in self.events if isinstance(each, ActionDone))
        return answer_of(self.so_far, None if whole_run else self.digest, in_force, fresh)

    def _record(self, event: RunEvent | RunStarted) -> None:
        self.events.append(event)
        self.run = runs.evolve(self.run, event)

    def _attempted(self, attempt: Attempt) -> Fields | None:
        """Returns the arguments of a refused call as in facts; None for more than a fact of a refusal may have."""
        shown = attempt.shown
        if len(canonical(shown)) > MAX_REFUSED_BYTES:
            return None
        labels = attempt.labels(self.bundle.columns[attempt.step.resource])
        return self.found.sealed(self.run.tenant_id, labels, shown)

    def _sealed(self, name: str, step: RowStep | None, fields: PlainFields) -> Fields:
        fields_of, prefix = self.workflow.fields, f"{name}."
        if step is not None:
            columns = self.bundle.columns[step.resource]
        else:
            columns = {each.removeprefix(prefix): fields_of[each] for each in fields_of if each.startswith(prefix)}
        return self.found.sealed(self.run.tenant_id, columns, fields)


def answer_of(
    so_far: Progress, call_digest: str | None, in_force: CompiledBundle, fresh: frozenset[int] = frozenset()
) -> Answer:
    """Returns the answer to a call, as it was after the last action of the call; of the whole run without a call.

    It has what the bundle in force lets the role read now. fresh: numbers of the actions of this very call.
    """
    run = so_far.run
    if call_digest is not None:
        last = max(each.seq for each in run.done if each.digest == call_digest)
        so_far = _after(so_far, last)
    values: dict[str, PlainFields] = {}
    rows: dict[str, list[PlainFields]] = {}
    for done, found in Disclosure(so_far, in_force, fresh).actions():
        if call_digest is not None and done.digest != call_digest:
            continue
        if done.chosen is not None:
            values[done.step] = {CHOICE: done.chosen}
        elif len(found) == 1 and is_single(so_far.workflow.steps[done.step]):
            values[done.step] = found[0]
        else:
            rows[done.step] = found
    ended = so_far.run.ended
    return Answer(run.id, so_far.run.seq, values, rows, allowed_next(so_far), None if ended is None else str(ended))


def _after(so_far: Progress, seq: int) -> Progress:
    """Returns a run as it was after an earlier action."""
    done = tuple(each for each in so_far.run.done if each.seq <= seq)
    is_over = next_step(so_far.workflow, done) is None
    earlier = replace(so_far.run, done=done, seq=seq + 1, ended=RunEnd.FINISHED if is_over else None)
    return progress(earlier, so_far.bundle, so_far.opened)


def rule_step(workflow: CompiledWorkflow, run: Run) -> str:
    """Returns the name of the step that is next in a run; of its first one after the last."""
    return (next_step(workflow, run.done) or workflow.first).name
