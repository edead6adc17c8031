"""Actions of a run as they were recorded: done, refused, failed or voided."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from paybill_contracts.agent_bundles import Verb
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionFailed,
    ActionIntended,
    ActionRefused,
    ActionVoided,
    Fields,
)
from paybill_contracts.values import Digest, Timestamp
from paybill_runtime.http.listing import RecordedEvent
from pydantic import BaseModel, Field


class ActionStatus(StrEnum):
    """Outcome of an action. INTENDED: it is not known yet. VOIDED: nothing changed, and nothing can change later."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"
    VOIDED = "voided"
    REFUSED = "refused"


class ActionView(BaseModel):
    """An action, or a refusal before it."""

    seq: int
    step: str
    status: ActionStatus
    verb: Annotated[Verb | None, Field(description="Null without a statement, and for an early refusal.")] = None
    resource: str | None = None
    arguments: Annotated[Fields, Field(description="Personal values are sealed.")] = Field(default_factory=dict)
    rows: Annotated[int, Field(description="Rows read or changed.")] = 0
    chosen: Annotated[str | None, Field(description="The option of a choice.")] = None
    grants: Annotated[list[str], Field(description="Ids of the grants that decided.")] = Field(default_factory=list)
    grants_hash: Annotated[Digest | None, Field(description="The bundle of these grants; null when unknown.")] = None
    approval_id: str | None = None
    code: Annotated[str | None, Field(description="Of the refusal.")] = None
    rule: Annotated[str | None, Field(description="The rule that refused it.")] = None
    at: Timestamp


def actions_of(events: Iterable[RecordedEvent]) -> list[ActionView]:
    """Returns the actions of a run's events in their order; a write is one action with its last status."""
    found: list[ActionView] = []
    writes: dict[int, int] = {}
    for each in events:
        match each.event:
            case ActionIntended() as event:
                writes[event.seq] = len(found)
                found.append(
                    ActionView(
                        seq=event.seq,
                        step=event.step,
                        status=ActionStatus.INTENDED,
                        verb=event.verb,
                        resource=event.resource,
                        arguments=event.arguments,
                        grants=list(event.grants),
                        grants_hash=event.grants_hash,
                        approval_id=event.approval_id,
                        at=event.intended_at,
                    )
                )
            case ActionDone() as event if event.seq in writes:
                at = writes[event.seq]
                changes = {"status": ActionStatus.DONE, "rows": len(event.rows), "at": event.done_at}
                found[at] = found[at].model_copy(update=changes)
            case ActionDone() as event:
                found.append(
                    ActionView(
                        seq=event.seq,
                        step=event.step,
                        status=ActionStatus.DONE,
                        verb=event.verb,
                        resource=event.resource,
                        arguments=event.arguments,
                        rows=len(event.rows),
                        chosen=event.chosen,
                        grants=list(event.grants),
                        grants_hash=event.grants_hash,
                        at=event.done_at,
                    )
                )
            case ActionFailed() as event:
                at = writes[event.seq]
                changes = {"status": ActionStatus.FAILED, "code": event.code, "at": event.failed_at}
                found[at] = found[at].model_copy(update=changes)
            case ActionVoided() as event:
                at = writes[event.seq]
                changes = {"status": ActionStatus.VOIDED, "code": "action_voided", "at": event.voided_at}
                found[at] = found[at].model_copy(update=changes)
            case ActionRefused() as event:
                found.append(
                    ActionView(
                        seq=event.seq,
                        step=event.called or event.step,
                        status=ActionStatus.REFUSED,
                        verb=event.verb,
                        resource=event.resource,
                        arguments=event.arguments or {},
                        grants=list(event.grants),
                        grants_hash=event.grants_hash,
                        code=event.code,
                        rule=event.rule,
                        at=event.refused_at,
                    )
                )
            case _:
                pass
    return found
