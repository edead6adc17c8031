"""Trials: one for each customer and plan, decided by the digest of the customer's contact address."""

from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import assert_never

from paybill_contracts.accounts import TrialClaimed, TrialReleased
from paybill_contracts.errors import DomainError
from paybill_contracts.tenant import TenantRequested

TrialEvent = TrialClaimed | TrialReleased


class TrialOrderError(DomainError):
    """Raised when a trial is released that nobody claimed."""

    code = "trial_order"


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial of a plan for one customer. tenant_id: the tenant that has it; None when another one may claim it."""

    id: str
    tenant_id: str | None
    until: datetime


def trial_id(event: TenantRequested) -> str:
    """Returns the id of the trial that a sign-up would claim; without a contact digest it shares it with no other."""
    return sha256(f"{event.contact_digest or event.tenant_id}/{event.plan}".encode()).hexdigest()


def is_free(trial: Trial | None, event: TenantRequested, now: datetime) -> bool:
    """Returns True when the tenant may have the trial."""
    return trial is None or trial.tenant_id in {None, event.tenant_id} or now >= trial.until


def claim(trial: Trial | None, event: TenantRequested, now: datetime) -> list[TrialEvent]:
    """Claims the trial for the tenant, unless another tenant of the customer has it."""
    if event.contact_until is None or event.contact_digest is None or not is_free(trial, event, now):
        return []
    if trial is not None and trial.tenant_id == event.tenant_id:
        return []
    return [
        TrialClaimed(trial_id=trial_id(event), tenant_id=event.tenant_id, plan=event.plan, until=event.contact_until)
    ]


def release(trial: Trial | None, tenant_id: str) -> list[TrialEvent]:
    """Releases the trial of an abandoned sign-up: it has not begun."""
    if trial is None or trial.tenant_id != tenant_id:
        return []
    return [TrialReleased(trial_id=trial.id, tenant_id=tenant_id)]


def evolve(trial: Trial | None, event: TrialEvent) -> Trial:
    """Returns the trial after `event`; only `TrialClaimed` may come first."""
    match event:
        case TrialClaimed():
            return Trial(id=event.trial_id, tenant_id=event.tenant_id, until=event.until)
        case TrialReleased():
            if trial is None:
                raise TrialOrderError(f"the trial {event.trial_id} was released before it was claimed")
            return replace(trial, tenant_id=None)
        case _:
            assert_never(event)
