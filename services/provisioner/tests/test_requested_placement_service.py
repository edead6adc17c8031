"""Moves and prorations on real servers: planned over HTTP, refused with their codes, and shown."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from blueprint_samples import blueprint_text
from paybill_contracts.changes import ChangeQuoted, Proration
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset

YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
async def moved(provisioner: Any, harness: Any, log: Any, publish: Any, about: Any) -> Any:
    """Returns a tenant whose tier is on three placements, and a function that requests a move of it."""
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    text = blueprint_text(harness.region, 2)
    starter = text[text.index("  - tier: starter") : text.index("  - tier: team")]
    added = "".join("\n" + starter.replace("pooled", preset).rstrip() for preset in ("bridge", "silo"))
    answer = await provisioner.client.post("/v1/blueprints", content=text + added, headers=YAML)
    assert answer.status_code == 200, answer.text

    async def move(to: str, name: str = tenant.tenant) -> tuple[int, str, Any]:
        found = await provisioner.client.post(f"/v1/environments/{name}/move", json={"to": to})
        return found.status_code, found.json().get("code", ""), found.json()

    tenant.move = move
    return tenant


async def test_a_requested_placement_is_planned_shown_and_rejected(moved, provisioner, log) -> None:
    path = f"/v1/environments/{moved.tenant}"
    status, _, plan = await moved.move("silo")
    shown = (await provisioner.client.get(path)).json()
    why = (await provisioner.client.get(f"/v1/why/{moved.tenant}")).json()["environment"]
    again = await moved.move("silo")
    other = await moved.move("bridge")
    rejected = await provisioner.client.post(
        f"/v1/approvals/{plan['approval']['id']}/reject", json={"reason": "not before the audit"}
    )
    ended = (await provisioner.client.get(path)).json()

    assert (status, plan["preset"], plan["transfers_data"], plan["approval"]["status"]) == (
        200,
        "silo",
        True,
        "requested",
    )
    assert {"move", "moves_data"} <= {each["rule"] for each in plan["reasons"]}
    assert (shown["pending"]["from_preset"], shown["pending"]["preset"]) == ("pooled", "silo")
    assert shown["pending"]["approval"] == plan["approval"]["id"]
    assert shown["preset"] == "pooled"
    assert (shown["desired"]["preset"], shown["desired"]["moved_from"]) == ("silo", "pooled")
    assert (why["requested_by_person"], why["placement"]) == (True, "pooled")
    assert why["pending"].startswith("starter (pooled) is built and starter (silo) is requested since ")
    assert (again[0], again[2]["hash"]) == (200, plan["hash"])
    assert other[:2] == (409, "change_pending")
    assert rejected.status_code == 200
    assert (ended["pending"], ended["desired"]["preset"]) == (None, "pooled")
    assert len(await log.facts("provisioner.move_requested")) == 1


async def test_a_placement_that_cannot_be_had_is_refused_with_its_code(
    moved, provisioner, log, harness, publish
) -> None:
    same = await moved.move("pooled")
    unknown = await moved.move("silo", f"ten_{'0' * 32}")
    wrong = await moved.move("cloud")
    drained = await provisioner.client.post(
        f"/v1/cells/bridge-{harness.region}-1/drain", json={"reason": "its server is replaced"}
    )
    full = await moved.move("bridge")
    await publish(moved.blocked)
    await log.facts("provisioner.access_closed")
    suspended = await moved.move("silo")

    assert drained.status_code == 200, drained.text
    assert same[:2] == (409, "same_placement")
    assert unknown[:2] == (404, "environment_unknown")
    assert wrong[0] == 422
    assert full[:2] == (422, "region_full")
    assert suspended[:2] == (409, "tenant_suspended")
    assert await log.facts("provisioner.move_requested", at_least=0) == []


async def test_the_plan_of_a_changed_subscription_shows_what_billing_quoted(moved, provisioner, log, publish) -> None:
    due = Money(minor=16_999, currency="EUR")
    now = datetime.now(UTC)
    quoted = ChangeQuoted(
        change_id=f"chg_{moved.tenant[4:]}",
        tenant_id=moved.tenant,
        subscription_id=f"sub_{moved.tenant[4:]}",
        proration=Proration(lines=(), due_now=due, next_amount=None, effective_at=now),
        features=(),
        tier_before="starter",
        tier_after="business",
        placement_before="pooled",
        placement_after="silo",
        valid_until=now + timedelta(hours=1),
        quote_hash="ab" * 32,
    )
    changed = {"tier": "business", "placement": Preset.SILO, "entitlements_hash": "cd" * 32}
    await publish(quoted, moved.entitled.model_copy(update=changed))
    (requested,) = await log.facts("provisioner.approval_requested")
    shown = (await provisioner.client.get(f"/v1/approvals/{requested.event.approval_id}")).json()

    assert shown["plan"]["proration"] == {"minor": 16_999, "currency": "EUR"}
