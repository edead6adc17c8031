"""Refused calls without a run: an agent has a number of them for each day."""

from datetime import UTC, datetime, timedelta

import pytest
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.refusals import BudgetExceededError, FrozenError, RunNotFoundError
from paybill_agent_gateway.refused_calls import MAX_REFUSED, RefusedCalls

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AGENT, OTHER, PERSON = (CallCaller("ten_1", f"agent:{each}", each) for each in ("agt_1", "agt_2", None))


def test_an_agent_with_too_many_refused_calls_waits_for_the_next_day() -> None:
    refused = RefusedCalls()
    for caller in (AGENT, PERSON) * MAX_REFUSED:
        refused.require(caller, NOW)
        refused.count(caller, RunNotFoundError("there is no such run"), NOW)
        refused.count(OTHER, FrozenError("all is frozen"), NOW)

    with pytest.raises(BudgetExceededError, match="tomorrow"):
        refused.require(AGENT, NOW)
    for other in (OTHER, PERSON):
        refused.require(other, NOW)
    refused.require(AGENT, NOW + timedelta(days=1))
