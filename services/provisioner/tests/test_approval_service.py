"""Plans wait for a person on real servers: approved over HTTP, applied once, void when something changes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from blueprint_samples import blueprint_text
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.replay.verify import replay

YAML = {"Content-Type": "application/yaml"}
BUCKET = "      - {resource: bucket.data}\n"
PRICES = """
name: list
version: {version}
source: contract
date: 2026-11-01
currency: EUR
prices:
  - {{kind: database, cloud: local, isolation: pool, minor: 1000}}
  - {{kind: database, cloud: local, isolation: silo, minor: 5800}}
  - {{kind: bucket, cloud: local, minor: 200}}
  - {{kind: secret, cloud: local, minor: 0}}
"""
POLICY = """
name: standard
version: 2
creates: unattended
updates: unattended
clean_up: unattended
deletes: other_person
replaces: other_person
moves_data: other_person
cost_limit: {minor: 5000, currency: EUR, handling: approval}
approval_valid_hours: 1
"""


@pytest.fixture
def people(start: Any, tmp_path: Any) -> dict[str, dict[str, str]]:
    """Returns the headers of two keys of Ada, and of one of Bo and of an operator, who may approve nothing."""
    until = datetime.now(UTC) + timedelta(days=1)
    made = {
        "ada": make_key("ada1", "laptop", Role.APPROVER, ("*",), until, "user:ada"),
        "ada again": make_key("ada2", "phone", Role.APPROVER, ("*",), until, "user:ada"),
        "bo": make_key("bo1", "laptop", Role.APPROVER, ("*",), until, "user:bo"),
        "operator": make_key("op1", "laptop", Role.OPERATOR, ("*",), until, "user:op"),
    }
    file = tmp_path / "keys.json"
    kept = json.loads(file.read_text())["keys"]
    file.write_text(json.dumps({"keys": [*kept, *(each.stored for each in made.values())]}))
    return {name: {"Authorization": f"Bearer {each.raw}"} for name, each in made.items()}


@pytest.fixture
def http(people: dict[str, dict[str, str]], provisioner: Any) -> Any:
    """Returns a function that posts as a person and returns status, code and body."""

    async def post(who: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, Any]:
        client = options.pop("client", provisioner.client)
        answer = await client.post(path, json=body, headers=people[who], **options)
        found = answer.json()
        return answer.status_code, found.get("code", ""), found

    return post


async def publish_file(provisioner: Any, path: str, text: str) -> None:
    answer = await provisioner.client.post(path, content=text, headers=YAML)
    assert answer.status_code == 200, answer.text


async def requested(provisioner: Any, log: Any, count: int = 1) -> Any:
    """Waits for this number of requests, and returns the view of the last one."""
    fact = (await log.facts("provisioner.approval_requested", at_least=count))[-1]
    return (await provisioner.client.get(f"/v1/approvals/{fact.event.approval_id}")).json()


async def test_a_plan_that_deletes_is_approved_by_another_person_and_applied_once(
    http, provisioner, harness, settings, start, publish, log, about
) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    await publish_file(provisioner, "/v1/blueprints", blueprint_text(harness.region, 2).replace(BUCKET, ""))
    by_service = await requested(provisioner, log)
    listed = (await provisioner.client.get("/v1/approvals", params={"status": "requested"})).json()
    id_, hash_ = by_service["approval"]["id"], by_service["plan"]["hash"]
    plans = f"/v1/environments/{tenant.tenant}/plans"

    assert [each["id"] for each in listed["approvals"]] == [id_]
    assert [(each["action"], each["address"]) for each in by_service["plan"]["steps"]] == [("delete", "bucket.data")]
    assert by_service["approval"]["requester"] == "service:provisioner"
    assert (await http("ada", f"{plans}/{hash_}/apply"))[:2] == (409, "approval_required")
    assert (await http("operator", f"/v1/approvals/{id_}/approve", {"plan_hash": hash_}))[:2] == (403, "wrong_scope")
    assert (await http("bo", f"/v1/approvals/{id_}/reject", {"reason": "not now"}))[0] == 200

    status, _, plan = await http("ada", plans)
    own, hash_ = plan["approval"]["id"], plan["hash"]
    assert (status, plan["approval"]["requester"], plan["approval"]["other_person"]) == (200, "user:ada", True)
    for who in ("ada", "ada again"):
        refused = await http(who, f"/v1/approvals/{own}/approve", {"plan_hash": hash_})
        assert refused[:2] == (409, "approval_mismatch")
    other = await http("bo", f"/v1/approvals/{own}/approve", {"plan_hash": "cd" * 32})
    assert other[:2] == (409, "approval_mismatch")
    assert (await http("bo", f"/v1/approvals/{own}/approve", {"plan_hash": hash_}))[0] == 200
    twice = await http("bo", f"/v1/approvals/{own}/approve", {"plan_hash": hash_})
    assert twice[:2] == (409, "approval_ended")

    assert (await http("ada", f"{plans}/{hash_}/apply"))[0] == 202
    await log.facts("provisioner.environment_changed")
    (removed,) = await log.facts("provisioner.resource_removed")
    assert removed.event.address == "bucket.data"
    again = await start(service(), provisioner.running.settings.database_url, **settings)
    for client in (provisioner.client, again.client):
        assert (await http("ada", f"{plans}/{hash_}/apply", client=client))[:2] == (409, "approval_ended")
    assert [fact.event.approval_id for fact in await log.facts("provisioner.approval_used")] == [own]
    report = await replay(service(), provisioner.running.settings, provisioner.running.database)
    assert report.equal


async def test_a_price_book_voids_an_approval_and_the_plan_is_made_anew(
    http, provisioner, harness, publish, log, about
) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    await publish_file(provisioner, "/v1/blueprints", blueprint_text(harness.region, 2).replace(BUCKET, ""))
    first = await requested(provisioner, log)
    body = {"plan_hash": first["plan"]["hash"]}
    assert (await http("bo", f"/v1/approvals/{first['approval']['id']}/approve", body))[0] == 200

    await publish_file(provisioner, "/v1/price-books", PRICES.format(version=1))
    second = await requested(provisioner, log, 2)
    (superseded,) = await log.facts("provisioner.plan_superseded")
    old = (await provisioner.client.get(f"/v1/approvals/{first['approval']['id']}")).json()
    applied = await http("ada", f"/v1/environments/{tenant.tenant}/plans/{body['plan_hash']}/apply")

    assert superseded.event.changed == ("price_book",)
    assert (old["approval"]["status"], old["plan"]) == ("void", None)
    assert applied[:2] == (409, "plan_superseded")
    assert second["plan"]["cost"]["before"]["minor"] == 1200
    assert second["plan"]["cost"]["after"]["minor"] == 1000
    assert second["plan"]["price_book"] == "list@1"


async def test_a_change_of_the_placement_is_held_by_the_cost_limit_and_shown_as_pending(
    http, provisioner, publish, log, about
) -> None:
    await publish_file(provisioner, "/v1/price-books", PRICES.format(version=1))
    await publish_file(provisioner, "/v1/policies", POLICY)
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    silo = tenant.entitled.model_copy(
        update={"tier": "business", "placement": Preset.SILO, "entitlements_hash": "cd" * 32}
    )
    await publish(silo)
    shown = await requested(provisioner, log)
    plan, approval = shown["plan"], shown["approval"]
    environment = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()
    plans = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}/plans")).json()

    assert (plan["cost"]["before"]["minor"], plan["cost"]["after"]["minor"]) == (1200, 6000)
    assert {each["rule"] for each in approval["reasons"]} == {"replaces", "moves_data", "cost_limit"}
    assert [each["rule"] for each in plan["risks"]] == ["writes_pause"]
    assert (plan["transfers_data"], plans["plan"]["hash"]) == (True, plan["hash"])
    assert environment["pending"]["approval"] == approval["id"]
    assert (environment["status"], environment["preset"]) == ("ready", "pooled")
    await http("bo", f"/v1/approvals/{approval['id']}/approve", {"plan_hash": plan["hash"]})
    refused = await http("ada", f"/v1/environments/{tenant.tenant}/plans/{plan['hash']}/apply")
    assert refused[:2] == (409, "transfer_unavailable")


async def test_the_shipped_policy_is_published_once_and_replaced_by_a_newer_version(provisioner, log) -> None:
    (first,) = await log.facts("provisioner.policy_published")
    previewed = await provisioner.client.post("/v1/policies", content=POLICY, headers=YAML, params={"dry_run": True})
    await publish_file(provisioner, "/v1/policies", POLICY)
    older = await provisioner.client.post(
        "/v1/policies", content=POLICY.replace("version: 2", "version: 1"), headers=YAML
    )
    invalid = await provisioner.client.post(
        "/v1/policies", content=POLICY.replace("EUR", "XYZ"), headers=YAML, params={"file": "p.yaml"}
    )
    listed = (await provisioner.client.get("/v1/policies")).json()["policies"]
    shown = (await provisioner.client.get("/v1/policies/standard")).json()

    assert (first.event.content.name, first.event.content.version) == ("standard", 1)
    changed = {each["rule"]: each["after"] for each in previewed.json()["differences"]}
    assert changed == {"cost_limit": "50.00 EUR: approval", "approval_valid_hours": "1", "drift": "report"}
    assert (older.status_code, older.json()["code"]) == (409, "policy_version_conflict")
    assert (invalid.status_code, invalid.json()["code"]) == (422, "invalid_policy")
    assert "p.yaml:10: XYZ is no currency of ISO 4217" in invalid.json()["detail"]
    assert [(each["version"], each["in_force"]) for each in listed] == [(2, True), (1, False)]
    assert shown["content"]["cost_limit"]["monthly"] == {"minor": 5000, "currency": "EUR"}
    assert (await provisioner.client.get("/v1/policies/other")).json()["code"] == "policy_not_published"


async def test_who_may_not_approve_alone_may_change_neither_the_policy_nor_the_prices(
    people, provisioner, harness
) -> None:
    for who in ("operator", "ada"):
        for path, text in (("/v1/policies", POLICY), ("/v1/price-books", PRICES.format(version=1))):
            answer = await provisioner.client.post(path, content=text, headers=YAML | people[who])
            assert (answer.status_code, answer.json()["code"]) == (403, "wrong_scope")
    blueprint = blueprint_text(harness.region, 2)
    answer = await provisioner.client.post("/v1/blueprints", content=blueprint, headers=YAML | people["operator"])

    assert answer.status_code == 200


async def test_an_unknown_approval_is_not_found(http, provisioner) -> None:
    unknown = f"/v1/approvals/apr_{'0' * 32}"

    assert (await provisioner.client.get(unknown)).json()["code"] == "approval_unknown"
    assert (await http("bo", f"{unknown}/approve", {"plan_hash": "ab" * 32}))[:2] == (404, "approval_unknown")
    assert (await provisioner.client.get("/v1/approvals/x")).status_code == 422
