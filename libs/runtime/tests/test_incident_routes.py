"""Incidents as a service opens them, and as operators see, assign and close them."""

from paybill_contracts.envelope import Origin
from paybill_contracts.incidents import Finding
from paybill_runtime import clock
from paybill_tenant.tables import INCIDENTS

ORIGIN = Origin("test", "test", "service:tenant", "")


async def found(served, kind: str, subject: str, tenant_id: str | None = None) -> None:
    finding = Finding(kind=kind, subject=subject, summary=f"{subject} has a problem", tenant_id=tenant_id)
    await served.running.context.decide(
        ORIGIN,
        lambda unit, at: INCIDENTS.open(unit, finding, at.now),
        writes=[INCIDENTS.key_of(kind, subject)],
    )


async def ended(served, kind: str, subject: str) -> None:
    await served.running.context.decide(
        ORIGIN,
        lambda unit, at: INCIDENTS.close(unit, kind, subject, "the problem ended", at.now),
        writes=[INCIDENTS.key_of(kind, subject)],
    )


async def listed(served, **query: str) -> list[str]:
    return [each["subject"] for each in (await served.client.get("/v1/incidents", params=query)).json()["incidents"]]


async def test_operators_assign_and_close_an_incident_and_each_step_is_a_fact(served, log) -> None:
    tenant = "ten_" + "a" * 32
    await found(served, "one", "subscription/sub_1", tenant)
    await found(served, "one", "subscription/sub_1", tenant)
    [incident] = (await served.client.get("/v1/incidents")).json()["incidents"]
    path = f"/v1/incidents/{incident['id']}"

    assigned = await served.client.post(f"{path}/assign", json={"owner": "billing-team"})
    closed = await served.client.post(f"{path}/close", json={"reason": "refunded by hand"})
    again = await served.client.post(f"{path}/close", json={"reason": "refunded by hand"})

    assert (incident["service"], incident["tenant_id"], incident["status"]) == ("tenant", tenant, "open")
    assert assigned.json()["owner"] == "billing-team"
    assert (closed.json()["status"], closed.json()["closed_by"]) == ("closed", "operator:test")
    assert again.json() == closed.json() == (await served.client.get(path)).json()
    types = ["tenant.incident_opened", "tenant.incident_assigned", "tenant.incident_closed"]
    assert [fact.event.TYPE for fact in await log.facts(*types, at_least=3)] == types


async def test_incidents_are_listed_by_status_kind_tenant_and_owner_in_pages(served) -> None:
    tenant = "ten_" + "b" * 32
    for number in range(3):
        await found(served, "one", f"subscription/sub_{number}")
    await found(served, "two", "tenant/acme", tenant)
    await ended(served, "one", "subscription/sub_0")

    first = (await served.client.get("/v1/incidents", params={"limit": 2})).json()

    assert [each["subject"] for each in first["incidents"]] == ["subscription/sub_1", "subscription/sub_2"]
    assert await listed(served, after=first["next"]) == ["tenant/acme"]
    assert await listed(served, status="closed") == ["subscription/sub_0"]
    assert await listed(served, kind="two") == await listed(served, tenant=tenant) == ["tenant/acme"]
    assert await listed(served, owner="billing-team") == []


async def test_an_incident_opens_again_when_the_problem_comes_back(served) -> None:
    before = clock.now()
    for _ in range(2):
        await found(served, "one", "subscription/sub_1")
        await ended(served, "one", "subscription/sub_1")
    await found(served, "one", "subscription/sub_1")

    [incident] = (await served.client.get("/v1/incidents")).json()["incidents"]

    assert (incident["status"], incident["reason"], incident["closed_at"]) == ("open", None, None)
    assert incident["since"] > before.isoformat().replace("+00:00", "Z")


async def test_an_unknown_incident_is_not_found(served) -> None:
    path = "/v1/incidents/inc_" + "0" * 32

    answers = [
        await served.client.get(path),
        await served.client.post(f"{path}/assign", json={"owner": "billing-team"}),
        await served.client.post(f"{path}/close", json={"reason": "refunded"}),
    ]

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "incident_not_found")}
