"""Outcomes of writes: what a statement or a claim has found becomes a fact of the run."""

from datetime import datetime
from typing import Any

from paybill_contracts.agent_bundles import Amounts, CreateStep, DeleteStep, Verb
from paybill_contracts.agent_runs import ActionDone, ActionVoided, RunEnd

from paybill_agent_gateway.domain import turns
from paybill_agent_gateway.domain.answers import Answer, PlainFields, RefusalError, refusal
from paybill_agent_gateway.domain.approvals import Image, Preview
from paybill_agent_gateway.domain.records import Records
from paybill_agent_gateway.domain.refusals import RowsTooLargeError, by_database
from paybill_agent_gateway.domain.runs import Intent, Run, RunEvent, require_intent
from paybill_agent_gateway.domain.scenes import Found, RowsNeed
from paybill_agent_gateway.domain.steps import fact_arguments


def settle(
    run: Run, need: RowsNeed, result: str | Preview | None, found: Found, now: datetime
) -> tuple[list[RunEvent], Answer | RefusalError | None]:
    """Returns the facts of a statement's outcome, and the answer to its call; None when the run continues by itself.

    result: what was changed; the code of a refusal; or None for an action that was done earlier. Raises
    MissingError.
    """
    intent = run.intent
    if intent is None or intent.seq != need.key[1]:
        return [], None  # a claim was first, and has recorded the outcome
    if result is None:
        return claimed(run, now, is_done=True), None
    in_force = found.bundle(need.identity[-1])
    own = found.bundle(run.bundle_hash).labelled(in_force, run.workflow)
    records = Records(now, run, own, found, intent.digest, intent.grants_hash)
    if isinstance(result, str):
        records.failed(result)
        if records.run.used.calls >= records.run.limit.calls:
            records.end(RunEnd.OUT_OF_BUDGET)
        next_steps = turns.allowed_next(records.so_far)
        return records.events, refusal(by_database(result), next_steps, None, run.id, records.run.seq)
    rows = [row for image in result.rows if (row := _row(need, image)) is not None]
    _record_done(records, intent, need, rows, sum(result.other_rows.values()))
    step = turns.next_step(records.workflow, records.run.done)
    if step is None:
        records.end(RunEnd.FINISHED)
    elif turns.is_blocked(step, records.so_far):
        records.end(RunEnd.FAILED)
    elif not turns.needs_model(step, records.so_far):
        return records.events, None
    return records.events, records.answer(in_force, whole_run=run.digest == intent.digest)


def claimed(run: Run, now: datetime, *, is_done: bool) -> list[RunEvent]:
    """Returns the fact of a claim: the action is void for ever, or it was done, and all that it reserved is used.

    The rows of an action that was done are known from its arguments alone.
    """
    intent = require_intent(run)
    if not is_done:
        return [
            ActionVoided(
                tenant_id=run.tenant_id,
                run_id=run.id,
                bundle_hash=run.bundle_hash,
                seq=intent.seq,
                step=intent.step,
                workflow=run.workflow,
                voided_at=now,
            )
        ]
    return [
        ActionDone(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=intent.seq,
            step=intent.step,
            workflow=run.workflow,
            verb=intent.verb,
            resource=intent.resource,
            digest=intent.digest,
            arguments=intent.arguments,
            grants=intent.grants,
            rows=(intent.arguments,) if intent.verb is Verb.CREATE else (),
            used=intent.reserved,
            chosen=None,
            done_at=now,
            grants_hash=intent.grants_hash,
        )
    ]


def _record_done(records: Records, intent: Intent, need: RowsNeed, rows: list[PlainFields], others: int) -> None:
    """Records a write that is done; without its rows when they do not fit into a fact, as after a claim."""
    arguments, used = fact_arguments(need.step, dict(need.values)), _used(intent, need, len(rows), others)
    common: dict[str, Any] = {"of": need.step, "verb": intent.verb, "grants": intent.grants, "used": used}
    try:
        records.done(need.step.name, arguments, rows, **common)
    except RowsTooLargeError:
        records.done(need.step.name, arguments, (), **common)


def _row(need: RowsNeed, image: Image) -> PlainFields | None:
    """Returns the row of a change with the columns that the step names, and the key of an update.

    A column that the role may not read has the value of the argument, and none without one. An approver sees more
    columns than the caller gets.
    """
    row = image.before if isinstance(need.step, DeleteStep) else image.after
    if row is None:
        return None
    arguments = dict(need.values)
    found: PlainFields = {}
    for name in need.answered:
        if name in need.readable:
            found[name] = row[name]
        elif (key := next((key for key in (f"set.{name}", f"where.{name}") if key in arguments), None)) is not None:
            found[name] = arguments[key]
    return found


def _used(intent: Intent, need: RowsNeed, count: int, others: int) -> Amounts:
    """Returns what a write has used of its reservation, which is for as many rows as it could have changed.

    count: of its own rows, others: of those that triggers and referential actions changed.
    """
    limit = 1 if isinstance(need.step, CreateStep) else intent.reserved.rows
    sums = {name: amount // max(1, limit) * count for name, amount in intent.reserved.sums.items()}
    return Amounts(calls=1, rows=count + others, sums=sums)
