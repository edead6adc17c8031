"""A dry run answers with the facts and the result of a request, is refused as it would be, and commits nothing."""

import asyncio

import pytest
from paybill_runtime.clock import new_id
from paybill_runtime.database.dry_run import NoDryRunError, request_dry_run

DRY = {"Dry-Run": "true"}
SIGN_UP = {
    "slug": "acme",
    "name": "Acme",
    "plan": "pro",
    "region": "eu-1",
    "contact_email": "somebody.unlikely@acme.example",
}


@pytest.fixture
async def published(served, publish, log, offerings):
    """Returns the running tenant service after it recorded the sign-up options."""
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return served


@pytest.fixture
def rows(published, databases):
    """Returns a function that returns the keys of all rows that a decision writes."""
    queries = (
        "SELECT id || '/' || revision FROM tenants",
        "SELECT event_id::text FROM chassis.outbox",
        "SELECT key FROM chassis.idempotency",
        "SELECT tenant FROM chassis.data_key",
    )

    async def read() -> list[list[str]]:
        url = str(published.running.settings.database_url)
        return [sorted(row[0] for row in await databases.execute(url, "tenant", query)) for query in queries]

    return read


async def test_it_returns_the_facts_and_the_result_and_commits_nothing(published, rows) -> None:
    before = await rows()
    sign_up = await published.client.post("/v1/tenants", json=SIGN_UP, headers=DRY | {"Idempotency-Key": "one"})
    after = await rows()
    absent = await published.client.get("/v1/tenants/acme")
    created = await published.client.post("/v1/tenants", json=SIGN_UP, headers={"Idempotency-Key": "one"})
    hold = {"mode": "blocked", "reason": "abuse"}
    suspend = (await published.client.post("/v1/tenants/acme/suspend", json=hold, headers=DRY)).json()

    (requested,) = sign_up.json()["would_record"]
    assert sign_up.status_code == 200
    assert (requested["type"], requested["revision"]) == ("tenant.tenant_requested", 1)
    assert requested["sentence"] == "signed up as acme for pro in eu-1"
    assert "unlikely" not in sign_up.text
    assert sign_up.json()["result"]["status"] == "requested"
    assert before == after
    assert absent.status_code == 404
    assert created.status_code == 202
    assert [fact["sentence"] for fact in suspend["would_record"]] == ["holds changed: operator: abuse"]
    assert suspend["result"]["holds"] == [{"origin": "operator", **hold}]
    assert (await published.client.get("/v1/tenants/acme")).json()["holds"] == []


async def test_it_is_refused_as_the_request_would_be_without_a_fact_of_the_refusal(published, rows) -> None:
    await published.client.post("/v1/tenants", json=SIGN_UP)
    before = await rows()
    cases = [
        ("/v1/tenants", SIGN_UP, 409, "slug_taken"),
        ("/v1/tenants", SIGN_UP | {"slug": "other", "plan": "gold"}, 422, "unknown_plan"),
        ("/v1/tenants/acme/resume", {"reason": "none such"}, 404, "no_such_hold"),
        ("/v1/tenants/nobody/offboard", {"reason": "x"}, 404, "tenant_not_found"),
    ]
    for path, body, status, code in cases:
        answer = await published.client.post(path, json=body, headers=DRY)

        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert await rows() == before


async def test_with_the_key_of_an_executed_request_nothing_would_happen(published, rows) -> None:
    key = {"Idempotency-Key": "one"}
    created = await published.client.post("/v1/tenants", json=SIGN_UP, headers=key)
    before = await rows()
    same = await published.client.post("/v1/tenants", json=SIGN_UP, headers=DRY | key)
    other = await published.client.post("/v1/tenants", json=SIGN_UP | {"slug": "other"}, headers=DRY | key)

    assert same.json() == {"would_record": [], "result": created.json(), "already_executed": True}
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await rows() == before


async def test_it_loses_no_conflict_with_requests_that_change_the_same_tenant(published) -> None:
    await published.client.post("/v1/tenants", json=SIGN_UP)

    async def change(name: str) -> set[int]:
        hold = {"mode": "blocked", "reason": name}
        verbs = [("suspend", hold), ("resume", {"reason": name})] * 20
        return {
            (await published.client.post(f"/v1/tenants/acme/{verb}", json=body)).status_code for verb, body in verbs
        }

    async def try_out(name: str) -> set[int]:
        hold = {"mode": "blocked", "reason": name}
        tries = [published.client.post("/v1/tenants/acme/suspend", json=hold, headers=DRY) for _ in range(20)]
        return {(await each).status_code for each in tries}

    answers = await asyncio.gather(*(act(f"{act.__name__}-{n}") for act in (change, try_out) for n in range(6)))

    assert set().union(*answers) == {200}


async def test_a_decision_that_changes_nothing_has_no_facts(published) -> None:
    await published.client.post("/v1/tenants", json=SIGN_UP)

    answer = (await published.client.post("/v1/tenants/acme/resume", headers=DRY)).json()

    assert answer["would_record"] == []
    assert answer["result"]["slug"] == "acme"


async def test_a_read_is_the_same_in_a_dry_run(published) -> None:
    assert (await published.client.get("/v1/tenants", headers=DRY)).json() == {"tenants": [], "next": None}


async def test_what_writes_by_itself_is_refused(published) -> None:
    skipped = f"/v1/operations/dead-letters/{new_id()}/skip"
    answer = await published.client.post(skipped, json={"reason": "x"}, headers=DRY)

    assert (answer.status_code, answer.json()["code"]) == (422, "no_dry_run")


async def test_nothing_can_be_committed_in_the_task_of_a_dry_run(published) -> None:
    database = published.running.database
    request_dry_run(requested=True)
    try:
        with pytest.raises(NoDryRunError):
            async with database.transaction():
                pass
        with pytest.raises(NoDryRunError):
            async with database.direct(committing=True):
                pass
    finally:
        request_dry_run(requested=False)
