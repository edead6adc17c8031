"""Actions of agents, counted as usage of the meter `agent-actions` when a run ends."""

from collections.abc import Sequence
from datetime import datetime

from paybill_contracts.agent_runs import RunEnded
from paybill_contracts.usage import Usage

from paybill_billing.usage.domain.quotas import allowance_of
from paybill_billing.usage.domain.usage import (
    Meter,
    MeterEvent,
    Plan,
    UsageOutsideWindowError,
    UsageTooLateError,
    record,
)

METER = "agent-actions"
"""The meter of the metered feature with the same key."""

PUBLISHER = "agent-gateway"


def on_run_ended(
    meter: Meter | None, fact: RunEnded, plan: Plan, *, usage_id: str, now: datetime
) -> Sequence[MeterEvent]:
    """Counts the actions of a run at the time of its end. A plan that does not meter them counts nothing.

    When the window of that time is closed already, because this service was down, they count in the current window.
    Raises the other errors of `record`.
    """
    if not fact.actions or allowance_of(plan.entitlements, METER) is None:
        return []
    used = Usage(tenant_id=fact.tenant_id, meter=METER, quantity=fact.actions, occurred_at=fact.ended_at)
    try:
        return _counted(meter, used, plan, usage_id, now)
    except (UsageTooLateError, UsageOutsideWindowError):
        return _counted(meter, used.model_copy(update={"occurred_at": now}), plan, usage_id, now)


def _counted(meter: Meter | None, used: Usage, plan: Plan, usage_id: str, now: datetime) -> Sequence[MeterEvent]:
    arrived = used.occurred_at
    counted = record(meter, None, used, usage_id=usage_id, publisher=PUBLISHER, plan=plan, arrived=arrived, now=now)
    return counted.on_meter
