"""Tests of the HTTP routes of entitlements: overrides, grants, checks, and the facts that they publish."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from paybill_contracts.entitlements import EntitlementsCache, Reason, check
from paybill_contracts.usage import Usage
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "c" * 32
PLANS = """\
product: shop
meters:
  - {meter: calls, window: day}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 5}
      - {key: sso, kind: boolean, enabled: false}
      - {key: calls, kind: metered, meter: calls, included: 3, quota: 10}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""
pytestmark = pytest.mark.parametrize("catalogue", [PLANS], indirect=True)


async def post(testbed, path, *, key=None, **body):
    headers = {"Idempotency-Key": key} if key else {}
    return await testbed.served.client.post(f"/v1/tenants/{TENANT}/entitlements/{path}", json=body, headers=headers)


async def entitled(testbed):
    """Returns the entitlements of a tenant that has paid."""
    await testbed.subscribed(TENANT)

    async def entitlements():
        return (await testbed.account(TENANT))["entitlements"]

    return await until(entitlements)


def limit(number):
    return {"kind": "limit", "key": "projects", "limit": number}


def by_key(entitlements):
    return {feature["key"]: feature for feature in entitlements["features"]}


async def test_an_override_is_in_force_at_once_published_and_idempotent(testbed):
    before = await entitled(testbed)

    first, again = [
        (await post(testbed, "overrides", key="k1", feature=limit(500), reason="x")).json() for _ in range(2)
    ]
    other = await post(testbed, "overrides", key="k1", feature=limit(501), reason="x")

    assert first == again
    assert (by_key(first)["projects"], by_key(before)["projects"]) == (limit(500), limit(5))
    assert (first["set_revision"], first["plan_features"]) == (2, before["features"])
    assert other.json()["code"] == "idempotency_key_reused"
    facts = await testbed.log.facts("billing.entitlement_overridden", "billing.entitlements_set", at_least=3)
    assert [(fact.revision, fact.event.TYPE.partition(".")[2]) for fact in facts] == [
        (1, "entitlements_set"),
        (2, "entitlement_overridden"),
        (3, "entitlements_set"),
    ]
    assert facts[2].origin.cause == facts[1].origin.cause
    assert facts[1].origin.actor.startswith("operator:")


async def test_a_copy_in_another_process_answers_like_the_service(testbed):
    await entitled(testbed)
    await post(testbed, "grants", feature="projects", amount=2, reason="x")
    facts = await testbed.log.facts("billing.entitlements_set", at_least=2)
    copy = EntitlementsCache()
    for fact in [*facts[::-1], *facts]:
        copy.apply(fact.event, fact.revision)

    for used in (6, 7):
        checked = (await post(testbed, "check", feature="projects", used=used)).json()
        answer = check(copy.get(TENANT), "projects", used=used)
        assert (checked["allowed"], checked["reason"], checked["remaining"]) == (
            answer.allowed,
            answer.reason,
            answer.remaining,
        )
        assert answer.allowed is (used == 6)


async def test_a_grant_with_a_validity_begins_and_ends_by_timer_and_replays(testbed):
    await entitled(testbed)
    now = datetime.now(UTC)
    since, until = ((now + timedelta(seconds=s)).isoformat() for s in (3, 7))

    made = (await post(testbed, "grants", feature="sso", valid_from=since, valid_until=until, reason="a trial")).json()

    facts = await testbed.log.facts("billing.entitlements_set", at_least=3)
    shown = await testbed.get(f"/v1/tenants/{TENANT}/entitlements")
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert not by_key(made)["sso"]["enabled"]
    assert datetime.fromisoformat(made["changes_at"]) == datetime.fromisoformat(since)
    assert [fact.event.features[1].enabled for fact in facts] == [False, True, False]
    assert [fact.event.set_revision for fact in facts] == [1, 2, 3]
    assert facts[1].origin.cause == f"timer:entitlements/{TENANT}"
    assert (shown["changes_at"], shown["grants"]) == (None, [])
    assert report.equal, report.as_dict()


async def test_an_ended_subscription_removes_access_and_keeps_overrides(testbed):
    await entitled(testbed)
    subscription = await testbed.subscription(TENANT, "active")
    await post(testbed, "overrides", feature=limit(500), reason="x")
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "ended")

    current = await testbed.get(f"/v1/tenants/{TENANT}/entitlements")
    checked = (await post(testbed, "check", feature="projects")).json()

    assert (current["allows_access"], by_key(current)["projects"], len(current["overrides"])) == (False, limit(500), 1)
    assert (checked["allowed"], checked["reason"]) == (False, Reason.NO_ACCESS)


async def test_a_metered_feature_is_checked_against_usage_in_the_open_window(testbed):
    await entitled(testbed)
    await testbed.metering.submit(
        Usage(tenant_id=TENANT, meter="calls", quantity=9, occurred_at=datetime.now(UTC)), id_=None
    )

    async def counted():
        checked = (await post(testbed, "check", feature="calls", used=777)).json()
        return checked if checked["used"] else None

    fits = await until(counted)
    over = (await post(testbed, "check", feature="calls", want=2)).json()
    await post(testbed, "grants", feature="calls", amount=1, reason="x")
    more = (await post(testbed, "check", feature="calls", want=2)).json()

    assert fits == {"allowed": True, "reason": "allowed", "limit": 10, "remaining": 1, "used": 9, "used_from": "usage"}
    assert (over["allowed"], over["reason"], over["remaining"]) == (False, "quota_exceeded", 1)
    assert (more["allowed"], more["limit"]) == (True, 11)


async def test_invalid_requests_are_refused_with_a_code_and_recorded(testbed):
    await entitled(testbed)
    refused = {
        "other_kind_of_feature": ("overrides", {"feature": {**limit(1), "key": "calls"}}),
        "undeclared_meter": ("overrides", {"feature": {"kind": "metered", "key": "d", "meter": "d", "included": 1}}),
        "invalid_validity": ("overrides", {"feature": limit(1), "valid_until": "2001-01-01T00:00:00Z"}),
        "not_grantable": ("grants", {"feature": "gold", "amount": 1}),
        "no_such_override_or_grant": ("withdraw", {"id": "ovr_" + "0" * 32}),
    }
    malformed = [
        ("overrides", {"feature": {**limit(1), "limt": 1}}),
        ("overrides", {"feature": {**limit(1), "kind": "magic"}}),
        ("overrides", {"feature": limit(-1)}),
        ("overrides", {"feature": limit(1), "valid_from": "2026-01-01"}),
        ("grants", {"feature": "projects", "amount": 10**16}),
        ("grants", {"feature": "projects", "amount": 1, "tier": "gold"}),
        ("withdraw", {"id": "ovr_1"}),
        ("check", {"feature": "projects", "used": -1}),
    ]

    for code, (path, body) in refused.items():
        answer = await post(testbed, path, **body, **({} if path == "check" else {"reason": "x"}))
        assert answer.json()["code"] == code
    for path, body in malformed:
        answer = await post(testbed, path, **body, **({} if path == "check" else {"reason": "x"}))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body
    facts = await testbed.log.facts("billing.request_refused", at_least=len(refused))
    assert [fact.event.code for fact in facts] == list(refused)


async def test_an_unknown_or_never_paid_tenant_gets_no_override_or_grant(testbed):
    unknown = await post(testbed, "grants", feature="projects", amount=1, reason="x")
    await testbed.tenants.request_tenant(TENANT)
    await testbed.opened(TENANT)
    unpaid = await post(testbed, "grants", feature="projects", amount=1, reason="x")
    checked = await post(testbed, "check", feature="projects")

    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_tenant")
    assert (unpaid.status_code, unpaid.json()["code"]) == (404, "nothing_entitled")
    assert checked.json()["reason"] == "no_access"


async def test_a_viewer_may_check_and_add_nothing(testbed, outside):
    keys = testbed.served.running.settings.api_keys_file
    existing = json.loads(keys.read_text())
    expires = datetime.now(UTC) + timedelta(days=1)
    made = make_key("viewer", "viewer", Role.VIEWER, ("billing:read", "billing:write"), expires)
    keys.write_text(json.dumps({"keys": [*existing["keys"], made.stored]}))
    await entitled(testbed)
    bodies = {
        "overrides": {"feature": limit(1), "reason": "x"},
        "grants": {"feature": "projects", "amount": 1, "reason": "x"},
        "withdraw": {"id": "ovr_" + "0" * 32, "reason": "x"},
    }

    for path, body in bodies.items():
        headers = {"Authorization": f"Bearer {made.raw}"}
        answer = await outside.post(f"/v1/tenants/{TENANT}/entitlements/{path}", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_scope")
    checked = await outside.post(
        f"/v1/tenants/{TENANT}/entitlements/check",
        json={"feature": "projects"},
        headers={"Authorization": f"Bearer {made.raw}"},
    )
    assert checked.json()["allowed"]
