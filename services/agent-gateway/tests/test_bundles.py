"""Bundles are checked, published whole and put in force; an older one again is the rollback."""

from typing import Any

import pytest
from bundle_samples import BLUEPRINT, FILES, SMALLER, blueprint_published, bundle
from paybill_agent_gateway.app import service
from paybill_contracts.event import digest, encode
from paybill_contracts.kinds import Column
from paybill_runtime.replay.verify import replay

NOTED, PUBLISHED, ACTIVATED = (
    f"agent-gateway.{each}" for each in ("blueprint_noted", "bundle_published", "bundle_activated")
)
BODY = {"files": FILES, "blueprint": "support-agent"}


@pytest.fixture
async def gateway(start, publish, log) -> Any:
    """The service, which knows the blueprint of the example."""
    running = await start(service())
    await publish(blueprint_published(), copies=2)
    await log.facts(NOTED)
    return running


async def test_a_bundle_is_published_whole_and_put_in_force(gateway, log) -> None:
    first = (await gateway.client.post("/v1/bundles", json=BODY)).json()
    again = (await gateway.client.post("/v1/bundles", json=BODY)).json()
    canonical = {"content": bundle().model_dump(mode="json")}
    other_form = (await gateway.client.post("/v1/bundles", json=canonical)).json()
    (published,), (activated,) = await log.facts(PUBLISHED), await log.facts(ACTIVATED)
    listed = (await gateway.client.get("/v1/bundles")).json()["bundles"]
    shown = (await gateway.client.get(f"/v1/bundles/{digest(bundle())}")).json()

    assert (first["content_hash"], first["changes"]) == (digest(bundle()), True)
    assert {each["of"] for each in first["differences"]} >= {"grant reads", "workflow refund", "resource tickets"}
    assert not again["changes"]
    assert not other_form["changes"]
    assert published.event.content == bundle()
    assert activated.event.bundle_hash == digest(bundle())
    assert {each.table: each.insert for each in activated.event.rights}["refunds"] == (
        "amount", "id", "order_id", "reason",
    )  # fmt: skip
    assert [(each["content_hash"], each["in_force"], each["workflows"]) for each in listed] == [
        (digest(bundle()), True, ["refund"])
    ]
    assert shown["drift"] == []


async def test_an_older_bundle_is_put_in_force_again(gateway, log) -> None:
    old, new = digest(bundle()), digest(bundle(SMALLER))

    await gateway.client.post("/v1/bundles", json=BODY)
    changed = (await gateway.client.post("/v1/bundles", json=BODY | {"files": SMALLER})).json()
    tried = (await gateway.client.post(f"/v1/bundles/{old}/activate?dry_run=true")).json()
    done = (await gateway.client.post(f"/v1/bundles/{old}/activate")).json()
    facts = await log.facts(ACTIVATED, at_least=3)
    unknown = await gateway.client.post(f"/v1/bundles/{'0' * 64}/activate")
    listed = (await gateway.client.get("/v1/bundles")).json()["bundles"]
    first = (await gateway.client.get("/v1/bundles", params={"limit": 1})).json()
    named = (await gateway.client.get("/v1/bundles", params={"hash": old[:8]})).json()["bundles"]
    strange = await gateway.client.get("/v1/bundles", params={"hash": "%"})

    assert [(each["content_hash"], each["in_force"]) for each in listed] == [(new, False), (old, True)]
    assert [each["content_hash"] for each in first["bundles"]] == [new]
    assert first["next"]
    assert [each["content_hash"] for each in named] == [old]
    assert strange.status_code == 422
    (change,) = changed["differences"]
    text = (
        "permit role support to create: refunds (amount, id, order_id, reason) "
        "when resource.amount > 0 && resource.amount <= {}"
    )
    assert (change["of"], change["change"]) == ("grant refunds up to 50.00", "changed")
    assert (change["before"], change["after"]) == (text.format(5000), text.format(3000))
    assert tried == done
    assert [each.event.bundle_hash for each in facts] == [old, new, old]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "bundle_unknown")


async def test_a_dry_run_publishes_nothing(gateway) -> None:
    view = (await gateway.client.post("/v1/bundles?dry_run=true", json=BODY)).json()
    listed = (await gateway.client.get("/v1/bundles")).json()["bundles"]

    assert (view["changes"], view["refused"], listed) == (True, [], [])


async def test_errors_are_reported_with_file_and_line_and_the_next_request_is_served(gateway) -> None:
    wrong = FILES | {"grants.cedar": FILES["grants.cedar"].replace("resource.amount > 0", "resource.amont > 0")}

    refused = await gateway.client.post("/v1/bundles", json=BODY | {"files": wrong})
    deep = await gateway.client.post("/v1/bundles", json=BODY | {"files": FILES | {"grants.cedar": "(" * 100_000}})
    both = await gateway.client.post("/v1/bundles", json=BODY | {"content": bundle().model_dump(mode="json")})
    served = await gateway.client.post("/v1/bundles", json=BODY)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_bundle")
    assert "grants.cedar:3: refunds: there is no amont here" in refused.json()["detail"]
    assert (deep.status_code, deep.json()["code"]) == (422, "invalid_bundle")
    unknown = await gateway.client.post("/v1/bundles", json=BODY | {"blueprint": "other"})

    assert (unknown.status_code, unknown.json()["code"]) == (404, "blueprint_unknown")
    assert (both.status_code, both.json()["code"]) == (422, "invalid_body")
    assert served.status_code == 200


async def test_the_rules_are_repeated_on_the_canonical_form(gateway) -> None:
    content = bundle().model_dump(mode="json")
    content["workflows"][0]["steps"][2]["set"]["reason"]["max_length"] = None

    refused = await gateway.client.post("/v1/bundles", json={"content": content})
    content["workflows"][0]["extra"] = 1
    unknown = await gateway.client.post("/v1/bundles", json={"content": content})
    shapeless = await gateway.client.post("/v1/bundles", json={"content": {"workflows": 5}})

    large = await gateway.client.post("/v1/bundles", json={"content": {"workflows": 2**64}})

    assert (large.status_code, large.json()["code"]) == (400, "number_out_of_range")
    assert unknown.json()["detail"] == "workflows.0.extra: there is no such field"
    assert (shapeless.status_code, shapeless.json()["code"]) == (422, "invalid_bundle")
    assert refused.json()["code"] == "invalid_bundle"
    assert refused.json()["detail"].startswith("workflows.refund.steps.propose.set.")


async def test_a_bundle_for_another_version_of_the_blueprint_is_refused(gateway, publish, log) -> None:
    orders = next(each for each in BLUEPRINT.tables if each.name == "orders")
    wider = orders.model_copy(update={"columns": (*orders.columns, Column(name="note", type="text"))})
    tables = tuple(wider if each.name == "orders" else each for each in BLUEPRINT.tables)
    await gateway.client.post("/v1/bundles", json=BODY)

    await publish(blueprint_published(version=2, tables=tables))
    await log.facts(NOTED, at_least=2)
    canonical = {"content": bundle(SMALLER).model_dump(mode="json")}
    refused = await gateway.client.post("/v1/bundles", json=canonical)
    tried = (await gateway.client.post("/v1/bundles?dry_run=true", json=canonical)).json()
    again = await gateway.client.post(f"/v1/bundles/{digest(bundle())}/activate")

    assert (refused.status_code, refused.json()["code"]) == (409, "blueprint_changed")
    assert tried["refused_code"] == "blueprint_changed"
    assert again.status_code == 200


async def test_a_bundle_that_drifted_is_not_put_in_force_again(gateway, publish, log) -> None:
    await gateway.client.post("/v1/bundles", json=BODY)
    await gateway.client.post("/v1/bundles", json=BODY | {"files": SMALLER})

    await publish(blueprint_published(version=2, tables=BLUEPRINT.tables[:-1]))
    await log.facts(NOTED, at_least=2)
    refused = await gateway.client.post(f"/v1/bundles/{digest(bundle())}/activate")
    shown = (await gateway.client.get(f"/v1/bundles/{digest(bundle())}")).json()

    assert (refused.status_code, refused.json()["code"]) == (409, "bundle_drifted")
    assert shown["drift"] == ["support-agent has no table refunds"]


async def test_a_replay_gives_the_same_bundles(gateway, log) -> None:
    await gateway.client.post("/v1/bundles", json=BODY)
    await gateway.client.post("/v1/bundles", json=BODY | {"files": SMALLER})
    await log.facts(ACTIVATED, at_least=2)
    running = gateway.running

    report = await replay(service(), running.settings, running.database)

    assert report.equal


async def test_a_bundle_of_nearly_the_maximum_is_one_fact(gateway, log) -> None:
    steps = "".join(f"  s{number}: {{compute: {{x: {'a' * 11_500}}}}}\n" for number in range(40))
    head = "workflow: large\nrole: support\nlimits: {calls: 40, rows: 5, minutes: 5}\nsteps:\n"

    view = (
        await gateway.client.post("/v1/bundles", json=BODY | {"files": FILES | {"large.yaml": head + steps}})
    ).json()
    (published,) = await log.facts(PUBLISHED)

    assert published.event.content_hash == view["content_hash"]
    assert 460_000 < len(encode(published.event)) < 512 * 1024
