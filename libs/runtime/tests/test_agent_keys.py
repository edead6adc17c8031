"""Keys of agents: bound to one tenant and one role, accepted by the agent gateway alone, and there by few routes."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends
from paybill_contracts.agents import AgentEnded, AgentRegistered, EndReason
from paybill_contracts.envelope import ActorKind
from paybill_runtime import clock
from paybill_runtime.app import Service
from paybill_runtime.http.auth import ApiKey, NewKey, Role, make_key
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.testing import until
from pydantic import ValidationError

TENANT, OTHER = f"ten_{'a' * 32}", f"ten_{'b' * 32}"
AGENT = f"agt_{'1' * 32}"
SUBJECT = f"agent:{AGENT}"


def service(name: str = "billing", *, accepts_agents: bool = True) -> Service:
    """Returns a service with an ordinary route, and one that accepts agents of the tenant in its path.

    It is not the agent gateway: a service whose own facts come from a test stops, as after a restore of its database.
    """

    def router(_: object) -> APIRouter:
        routes = Router()

        @routes.get("/v1/ordinary")
        async def ordinary(principal: Annotated[Caller, Depends(caller(Role.VIEWER, "agent-gateway:read"))]) -> str:
            return principal.subject

        @routes.post("/v1/tenants/{tenant}/calls")
        async def call(
            tenant: str,
            principal: Annotated[Caller, Depends(caller(Role.OPERATOR, "agent-gateway:write", accepts_bound=True))],
        ) -> dict[str, str | None]:
            principal.require_tenant(tenant)
            return {
                "actor": principal.origin.actor,
                "subject": principal.subject,
                "tenant": principal.tenant_id,
                "role": principal.agent_role,
            }

        return routes

    return Service(name=name, settings=ServiceSettings, router=router, accepts_agents=accepts_agents)


def registered(key_id: str = "agt-1", *, tenant: str = TENANT) -> tuple[NewKey, AgentRegistered]:
    """Returns the key of a new agent, and its fact."""
    now = clock.now()
    key = make_key(key_id, "support", Role.VIEWER, ("agent-gateway:act",), now + timedelta(days=1), SUBJECT)
    fact = AgentRegistered(
        tenant_id=tenant,
        agent_id=AGENT,
        name="support-1",
        role="support",
        key_id=key_id,
        sha256=key.stored["sha256"],
        registered_by="user:operator",
        registered_at=now,
        expires_at=now + timedelta(days=1),
    )
    return key, fact


def ended(fact: AgentRegistered) -> AgentEnded:
    return AgentEnded(
        tenant_id=fact.tenant_id,
        agent_id=fact.agent_id,
        key_id=fact.key_id,
        reason=EndReason.REQUESTED,
        ended_by="user:operator",
        ended_at=clock.now(),
    )


async def called(served, key: NewKey, tenant: str = TENANT):
    headers = {"Authorization": f"Bearer {key.raw}"}
    return await served.client.post(f"/v1/tenants/{tenant}/calls", headers=headers)


async def accepted(served, key: NewKey) -> bool:
    return (await called(served, key)).status_code == 200


async def refused(served, key: NewKey) -> bool:
    return (await called(served, key)).status_code == 401


async def test_an_agent_is_the_actor_of_its_calls_with_its_tenant_and_role(start, publish) -> None:
    gateway = await start(service())
    key, fact = registered()

    await publish(fact, copies=2)
    await until(lambda: accepted(gateway, key))

    shown = (await called(gateway, key)).json()
    assert shown == {"actor": SUBJECT, "subject": SUBJECT, "tenant": TENANT, "role": "support"}
    assert shown["actor"].partition(":")[0] == ActorKind.AGENT


async def test_an_agent_is_refused_for_another_tenant_and_by_ordinary_routes(start, publish) -> None:
    gateway = await start(service())
    key, fact = registered()
    await publish(fact)
    await until(lambda: accepted(gateway, key))

    foreign = await called(gateway, key, OTHER)
    ordinary = await gateway.client.get("/v1/ordinary", headers={"Authorization": f"Bearer {key.raw}"})

    assert (foreign.status_code, foreign.json()["code"]) == (403, "wrong_tenant")
    assert (ordinary.status_code, ordinary.json()["code"]) == (403, "key_bound_to_tenant")


async def test_another_service_does_not_know_the_keys_of_agents(start, publish) -> None:
    gateway = await start(service())
    other = await start(service("tenant", accepts_agents=False))
    key, fact = registered()

    await publish(fact)
    await until(lambda: accepted(gateway, key))

    assert (await called(other, key)).json()["code"] == "wrong_key"


async def test_an_ended_agent_is_refused_within_a_second_and_after_a_restart(start, publish, databases) -> None:
    url = await databases.fresh("billing")
    gateway = await start(service(), url)
    (key, fact), (other, its_fact) = registered("agt-1"), registered("agt-2")
    await publish(fact, its_fact)
    for each in (key, other):
        await until(lambda each=each: accepted(gateway, each))

    began = time.monotonic()
    await publish(ended(fact))
    await until(lambda: refused(gateway, key), timeout_s=1)
    took_s = time.monotonic() - began
    await until(lambda: _is_revoked(databases, url))
    successor = await start(service(), url)

    assert took_s < 1
    assert await accepted(successor, other)
    assert await refused(successor, key)


async def _is_revoked(databases, url: str) -> bool:
    rows = await databases.execute(url, "billing", "SELECT id FROM chassis.api_key WHERE revoked")
    return [row["id"] for row in rows] == ["agt-1"]


async def test_a_person_needs_the_role_and_the_scope_of_the_route(start) -> None:
    gateway = await start(service())
    end = datetime.now(UTC) + timedelta(days=1)
    found = {}

    for id_, role, scope in (
        ("k1", Role.OPERATOR, "agent-gateway:write"),
        ("k2", Role.VIEWER, "agent-gateway:write"),
        ("k3", Role.OPERATOR, "agent-gateway:read"),
        ("k4", Role.OPERATOR, "agent-gateway:act"),
    ):
        key = make_key(id_, "desk", role, (scope,), end, "user:staff-17")
        gateway.running.key_ring.add(ApiKey.model_validate(key.stored))
        answer = await called(gateway, key)
        found[id_] = (answer.status_code, answer.json().get("code") or answer.json()["actor"])

    refusal = (403, "wrong_scope")
    assert found == {"k1": (200, "operator:k1"), "k2": refusal, "k3": refusal, "k4": refusal}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": SUBJECT, "scopes": ["agent-gateway:act"]}, "or none of them"),
        (
            {"subject": "user:staff-17", "scopes": ["*"], "tenant_id": TENANT, "agent_role": "support"},
            "or none of them",
        ),
        ({"subject": SUBJECT, "scopes": ["*"], "tenant_id": TENANT, "agent_role": "support"}, "no scopes but"),
        (
            {"subject": SUBJECT, "scopes": ["tenant:read"], "tenant_id": TENANT, "agent_role": "support"},
            "no scopes but",
        ),
    ],
    ids=["no tenant", "a person", "all scopes", "another scope"],
)
def test_a_key_that_is_bound_in_part_or_may_do_more_is_refused(fields: dict[str, object], message: str) -> None:
    key = make_key("k1", "support", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))

    with pytest.raises(ValidationError, match=message):
        ApiKey.model_validate(key.stored | fields)
