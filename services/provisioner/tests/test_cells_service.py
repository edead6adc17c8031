"""Cells of a running service: listed, drained and full, and two processes that compete for the last place.

PAYBILL_TEST_CELL_ROUNDS sets how often two tenants compete (default 25).
"""

import asyncio
import faulthandler
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime

from blueprint_samples import blueprint_text
from paybill_contracts.envelope import Origin
from paybill_contracts.placement import Isolation, Preset
from paybill_contracts.tenant_lifecycle import PurgeStarted
from paybill_provisioner.app import service
from paybill_provisioner.consumer import HANDLERS
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.tables import CELLS, ENVIRONMENTS
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.effects import JobRegistry

ROUNDS = int(os.environ.get("PAYBILL_TEST_CELL_ROUNDS", "25"))
YAML = {"Content-Type": "application/yaml"}
SMALL = "{isolation: pool, count: 1, capacity: 1}"
POLICY_TEXT = """
name: standard
version: 2
creates: unattended
updates: unattended
clean_up: unattended
deletes: unattended
replaces: other_person
moves_data: other_person
approval_valid_hours: 1
"""
LARGE = "{isolation: pool, count: 1, capacity: 1000}"


async def handle(served, fact) -> None:
    """Decides about a fact in a process, as its consumer does."""
    handler = HANDLERS.fact_handlers[type(fact).TYPE]
    origin = Origin("test", "test", "service:test", "")
    await served.running.context.decide(
        origin,
        lambda unit, at: handler.handle(unit, fact, at),
        writes=handler.writes(fact),
        reads=handler.reads(fact),
    )


async def test_one_of_two_tenants_gets_the_last_place_of_a_cell(start, settings, harness, about) -> None:
    faulthandler.dump_traceback_later(120 + ROUNDS, exit=True, file=sys.__stderr__)
    regions = [f"{harness.region}-{number}" for number in range(ROUNDS)]
    text = blueprint_text(", ".join(regions)).replace(LARGE, SMALL)
    settings["blueprints_file"].write_text(text)
    without_jobs = replace(service(), jobs=JobRegistry())
    first = await start(without_jobs, **settings)
    second = await start(without_jobs, url=first.running.settings.database_url, **settings)
    outcomes = []
    for region in regions:
        tenants = [about(), about()]
        for tenant in tenants:
            await handle(first, tenant.requested.model_copy(update={"region": region}))
        await asyncio.gather(
            *(handle(*each) for each in zip((first, second), (t.entitled for t in tenants), strict=True))
        )
        found = [await load_state(first.running.context, ENVIRONMENTS, tenant.environment) for tenant in tenants]
        outcomes.append(sorted((each.status, each.refusal.code if each.refusal else "") for each in found))
    cells = await load_state(first.running.context, CELLS, Isolation.POOL)

    assert outcomes == [[(Status.BUILDING, ""), (Status.REGISTERED, "region_full")]] * ROUNDS
    assert [cell.tenants for cell in cells.cells] == [1] * ROUNDS


async def test_a_drained_cell_is_shown_and_takes_tenants_again_after_an_undo(
    provisioner, harness, publish, log, about
) -> None:
    cell, client = f"pool-{harness.region}-1", provisioner.client
    drained = await client.post(f"/v1/cells/{cell}/drain", json={"reason": "another server"})
    again = await client.post(f"/v1/cells/{cell}/drain", json={"reason": "another server"})
    refused, silo = about(), about(Preset.SILO)
    await publish(refused.requested, refused.entitled)
    (refusal,) = await log.facts("provisioner.plan_refused")
    blueprint = (await client.get("/v1/blueprints/test")).json()
    undone = await client.post(f"/v1/cells/{cell}/drain", json={"reason": "it is there", "undo": True})
    await publish(silo.requested, silo.entitled)
    await log.facts("provisioner.environment_ready", at_least=2)
    found = (await client.get("/v1/cells", params={"region": harness.region})).json()["cells"]
    shown = [(await client.get(f"/v1/environments/{each.tenant}")).json()["cells"] for each in (refused, silo)]

    assert (drained.status_code, again.json()) == (200, drained.json())
    assert drained.json() == {
        "id": cell,
        "isolation": "pool",
        "region": harness.region,
        "number": 1,
        "tenants": 0,
        "capacity": 1000,
        "free": 0,
        "drained": "another server",
        "breaches": [],
    }
    assert refusal.event.code == "region_full"
    assert "reopen a drained cell" in refusal.event.next_step
    assert [each["drained"] for each in blueprint["cells"]] == ["another server", None]
    assert (undone.json()["drained"], undone.json()["free"]) == (None, 1000)
    assert [(each["id"], each["tenants"]) for each in found] == [(cell, 1), (f"bridge-{harness.region}-1", 0)]
    assert shown == [[cell], []]
    assert [len(await log.facts(f"provisioner.cell_{each}")) for each in ("drained", "reopened")] == [1, 1]


async def test_a_cell_that_does_not_exist_is_named(provisioner, harness) -> None:
    body = {"reason": "another server"}
    unknown = await provisioner.client.post(f"/v1/cells/pool-{harness.region}-2/drain", json=body)
    wrong = await provisioner.client.post("/v1/cells/main/drain", json=body)
    without_reason = await provisioner.client.post(f"/v1/cells/pool-{harness.region}-1/drain", json={})
    elsewhere = (await provisioner.client.get("/v1/cells", params={"region": "nowhere"})).json()

    assert [(each.status_code, each.json()["code"]) for each in (unknown, wrong)] == [(404, "cell_unknown")] * 2
    assert f"known are pool-{harness.region}-1" in unknown.json()["detail"]
    assert without_reason.status_code == 422
    assert elsewhere == {"cells": []}


async def test_a_blueprint_with_more_cells_makes_room_for_a_refused_tenant(
    start, settings, harness, publish, log, about
) -> None:
    text = blueprint_text(harness.region).replace(LARGE, SMALL)
    settings["blueprints_file"].write_text(text)
    served = await start(service(), **settings)
    tenants = [about(), about()]
    await publish(*(fact for tenant in tenants for fact in (tenant.requested, tenant.entitled)))
    await log.facts("provisioner.plan_refused")

    more = text.replace("version: 1", "version: 2").replace(SMALL, SMALL.replace("count: 1", "count: 2"))
    published = await served.client.post("/v1/blueprints", content=more, headers=YAML)
    await log.facts("provisioner.environment_ready", at_least=2)
    cells = (await served.client.get("/v1/cells")).json()["cells"]

    assert published.status_code == 200
    assert [(each["id"].rpartition("-")[2], each["tenants"]) for each in cells if each["isolation"] == "pool"] == [
        ("1", 1),
        ("2", 1),
    ]


async def test_a_place_that_a_purge_frees_is_given_to_a_refused_tenant(
    start, settings, harness, publish, log, about
) -> None:
    settings["blueprints_file"].write_text(blueprint_text(harness.region).replace(LARGE, SMALL))
    served = await start(service(), **settings)
    first, refused, elsewhere = about(), about(), about()
    await served.client.post("/v1/policies", content=POLICY_TEXT, headers=YAML)
    await publish(first.requested, first.entitled)
    await log.facts("provisioner.environment_ready")
    await publish(refused.requested, refused.entitled)
    await publish(elsewhere.requested, elsewhere.entitled.model_copy(update={"tier": "platinum"}))
    await log.facts("provisioner.plan_refused", at_least=2)
    await publish(first.leaves)
    await log.facts("provisioner.environment_retained")
    before = (await served.client.get(f"/v1/environments/{refused.tenant}")).json()

    await publish(PurgeStarted(tenant_id=first.tenant, expected_by=datetime.now(UTC)))
    ready = await log.facts("provisioner.environment_ready", at_least=2)
    (cell,) = [each for each in (await served.client.get("/v1/cells")).json()["cells"] if each["isolation"] == "pool"]

    assert (before["status"], before["refusal"]["code"]) == ("registered", "region_full")
    assert [each.event.tenant_id for each in ready] == [first.tenant, refused.tenant]
    assert (cell["tenants"], cell["free"]) == (1, 0)
