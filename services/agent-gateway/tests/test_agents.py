"""The rules of agents: when one ends, and how long it keeps its name."""

from datetime import UTC, datetime, timedelta

import pytest
from paybill_agent_gateway.domain.agents import (
    Agent,
    AgentNameTakenError,
    end,
    evolve,
    on_time,
    require_free_name,
)
from paybill_contracts.agents import EndReason

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TENANT = "ten_" + "1" * 32
AGENT = Agent("agt_" + "1" * 32, TENANT, "desk", "support", "key-1", "user:ann", NOW, NOW + timedelta(hours=1))
EXPIRED = NOW + timedelta(hours=1)


def test_an_agent_ends_at_its_expiry_and_not_before_or_again() -> None:
    (ended,) = on_time(AGENT, EXPIRED)

    assert on_time(AGENT, EXPIRED - timedelta(seconds=1)) == []
    assert (ended.reason, ended.ended_by, ended.ended_at) == (EndReason.EXPIRED, "service:agent-gateway", EXPIRED)
    assert on_time(evolve(AGENT, ended), EXPIRED) == []


@pytest.mark.parametrize(("now", "reason"), [(NOW, "end it, or use another name"), (EXPIRED, "has just expired")])
def test_a_name_is_taken_until_the_end_of_its_agent_is_recorded(now: datetime, reason: str) -> None:
    (ended,) = end(AGENT, "user:ann", now)

    with pytest.raises(AgentNameTakenError, match=reason):
        require_free_name("desk", [AGENT], now)
    require_free_name("desk", [evolve(AGENT, ended)], now)
