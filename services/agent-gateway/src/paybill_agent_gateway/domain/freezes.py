"""Freezes: of everything, or of one tenant, agent or workflow. All of them are one aggregate."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from paybill_contracts.agents import FREEZES, FreezeId, Frozen, Thawed
from paybill_contracts.errors import NotFoundError
from paybill_contracts.values import TenantId, Timestamp

from paybill_agent_gateway.domain.refusals import FrozenError, WorkflowNotFoundError

FreezeEvent = Frozen | Thawed
EVERYTHING = "everything"


class NotFrozenError(NotFoundError):
    """No such freeze holds now."""

    code = "not_frozen"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze. tenant_id: of a frozen tenant or agent."""

    id: FreezeId
    tenant_id: TenantId | None
    reason: str
    frozen_by: str
    frozen_at: Timestamp


@dataclass(frozen=True, slots=True)
class Freezes:
    """The freezes that hold now, by what they freeze."""

    freezes: dict[str, Freeze] = field(default_factory=dict)


def freeze(
    freezes: Freezes | None, freeze_id: str, tenant_id: str | None, reason: str, frozen_by: str, now: datetime
) -> list[FreezeEvent]:
    """Freezes what `freeze_id` names. A second freeze of the same changes nothing."""
    if freezes is not None and freeze_id in freezes.freezes:
        return []
    frozen = Frozen(
        freezes_id=FREEZES, freeze=freeze_id, tenant_id=tenant_id, reason=reason, frozen_by=frozen_by, frozen_at=now
    )
    return [frozen]


def require_workflow(freezes: Freezes | None, freeze_id: str, *, exists: bool) -> None:
    """Raises WorkflowNotFoundError for a freeze of a workflow that nobody can run. exists: in force, or in a run."""
    is_known = freezes is not None and freeze_id in freezes.freezes
    if not exists and not is_known:
        name = freeze_id.partition("/")[2]
        raise WorkflowNotFoundError(
            f"no bundle in force has a workflow {name}, and no run of it is open; correct the name of the workflow"
        )


def thaw(freezes: Freezes | None, freeze_id: str, thawed_by: str, now: datetime) -> list[FreezeEvent]:
    """Ends a freeze. Raises NotFrozenError."""
    found = freezes.freezes.get(freeze_id) if freezes is not None else None
    if found is None:
        raise NotFrozenError(f"{freeze_id} is not frozen; `paybill agent freezes` lists what is")
    return [_thawed(freeze_id, found.tenant_id, thawed_by, now)]


def begin(freezes: Freezes | None, service: str, now: datetime) -> list[FreezeEvent]:
    """Creates the aggregate at the first start: a decision that reads it then conflicts with the first freeze."""
    return [] if freezes is not None else [_thawed(EVERYTHING, None, service, now)]


def is_frozen(freezes: Freezes | None, tenant_id: str, agent_id: str | None, workflow: str) -> Freeze | None:
    """Returns the freeze that stops this; None when nothing does."""
    if freezes is None:
        return None
    names = [EVERYTHING, f"tenant/{tenant_id}", f"workflow/{workflow}"]
    if agent_id is not None:
        names.append(f"agent/{agent_id}")
    return next((freezes.freezes[name] for name in names if name in freezes.freezes), None)


def require_none(freezes: Freezes | None, tenant_id: str, agent_id: str | None, workflow: str) -> None:
    """Raises FrozenError when a freeze stops this."""
    found = is_frozen(freezes, tenant_id, agent_id, workflow)
    if found is not None:
        what = found.id.partition("/")[0]
        subject = EVERYTHING if what == EVERYTHING else f"this {what}"
        raise FrozenError(f"an operator has frozen {subject} at {found.frozen_at:%Y-%m-%d %H:%M} UTC; ask an operator")


def evolve(freezes: Freezes | None, event: FreezeEvent) -> Freezes:
    """Returns the freezes after `event`."""
    known = freezes or Freezes()
    match event:
        case Frozen():
            found = Freeze(event.freeze, event.tenant_id, event.reason, event.frozen_by, event.frozen_at)
            return replace(known, freezes=dict(sorted((known.freezes | {found.id: found}).items())))
        case Thawed():
            return replace(known, freezes={name: each for name, each in known.freezes.items() if name != event.freeze})
        case _:
            assert_never(event)


def _thawed(freeze_id: str, tenant_id: str | None, thawed_by: str, now: datetime) -> Thawed:
    return Thawed(freezes_id=FREEZES, freeze=freeze_id, tenant_id=tenant_id, thawed_by=thawed_by, thawed_at=now)
