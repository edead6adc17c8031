"""The file is the first catalogue; after that people publish, see before what it changes, and why they may not."""

import asyncio

import pytest
from billing_world import Publisher, eventually
from paybill_billing.app import service
from paybill_billing.settings import Settings
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished, TierBlueprint
from paybill_runtime.app import Running
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.streams import connect
from paybill_runtime.replay.verify import replay

FIRST = """\
product: shop
meters:
  - {meter: calls}
plans:
  - plan: pro
    version: 1
    name: Pro
    tier: pro
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: calls, kind: metered, meter: calls, included: 10}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""
SECOND = FIRST + FIRST.split("plans:\n")[1].replace("version: 1", "version: 2").replace("2900", "3900").replace(
    "included: 10", "included: 10, quota: 50"
)


def blueprint(*tiers):
    built = tuple(
        TierBlueprint(tier=tier, placement=Preset.POOLED, cloud="local", connection_limit=5) for tier in tiers
    )
    content = Blueprint(name="main", regions=("eu-1",), tiers=built, tables=())
    return BlueprintPublished(blueprint="main", content=content, content_hash=f"{len(tiers):064x}")


async def send(world, text, *, key=None, **query):
    headers = {"content-type": "application/yaml"} | ({"Idempotency-Key": key} if key else {})
    content = text if isinstance(text, bytes) else text.encode()
    return await world.served.client.post("/v1/catalogue", content=content, params=query, headers=headers)


async def test_the_catalogue_on_sale_is_shown_with_its_hash(world):
    shown = await world.get("/v1/catalogue")

    (fact,) = await world.log.facts("billing.catalogue_published")
    assert shown["product"] == "paybill-demo"
    assert [plan["plan"] for plan in shown["plans"]] == ["starter", "team", "business"]
    assert [meter["meter"] for meter in shown["meters"]] == ["calls"]
    assert (shown["retired"], shown["tiers"]) == ([], None)
    assert shown["content_hash"] == fact.event.content_hash


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_once_something_is_published_the_file_is_not_looked_at_again(start, world, settings, catalogue):
    catalogue.write_text("product: [\n")
    url = world.served.running.settings.database_url

    again = await start(service(), url, **{**settings, "http_port": 0})

    assert (await again.client.get("/v1/catalogue")).json()["product"] == "shop"
    said = await world.log.facts("billing.catalogue_published", "billing.publishers_allowed", at_least=2)
    assert len(said) == 2


@pytest.mark.parametrize("catalogue", ["product: [\n"], indirect=True)
async def test_a_broken_first_catalogue_ends_the_start(start, settings):
    good = await start(service(), **{**settings, "catalogue_file": None, "http_port": 0})
    async with good.running.database.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM catalogues")
    running = Running(service(), Settings(**{**good.running.settings.model_dump(), **settings, "http_port": 0}))

    with pytest.raises(ConfigurationError, match="no YAML"):
        await running.__aenter__()
    await running.__aexit__()


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_publication_can_be_looked_at_first_and_then_changes_what_is_on_sale_once(world):
    dry = (await send(world, SECOND, dry_run="true")).json()
    unchanged = await world.get("/v1/catalogue")
    done = await send(world, SECOND, key="k1")
    again = (await send(world, SECOND)).json()
    same = await send(world, SECOND, key="k1")

    assert (dry["changes"], dry["added"], dry["retired"], dry["refused"]) == (True, ["pro@2"], [], [])
    assert dry["versions"][0]["before"] == "pro@1"
    assert dry["versions"][0]["features"][0]["after"]["quota"] == 50
    assert [plan["version"] for plan in unchanged["plans"]] == [1]
    assert done.status_code == 200, done.text
    assert done.json() == dry == same.json()
    assert not again["changes"]
    assert [plan["version"] for plan in (await world.get("/v1/catalogue"))["plans"]] == [1, 2]
    facts = await world.log.facts("billing.catalogue_published", at_least=2)
    assert [fact.origin.actor.partition(":")[0] for fact in facts] == ["service", "operator"]
    assert facts[1].event.content_hash == dry["content_hash"]


@pytest.mark.parametrize("catalogue", [SECOND], indirect=True)
async def test_a_version_that_leaves_the_file_is_retired_and_stays_known(world):
    done = (await send(world, FIRST)).json()

    shown = await world.get("/v1/catalogue")
    assert (done["added"], done["retired"]) == ([], ["pro@2"])
    assert [plan["version"] for plan in shown["retired"]] == [2]


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_an_edit_of_what_customers_agreed_to_is_refused_with_file_line_and_reason(world):
    edited = FIRST.replace("2900", "3900").replace("{meter: calls}", "{meter: calls, window: day}")

    dry = (await send(world, edited, dry_run="true", file="new/plans.yaml")).json()
    refused = await send(world, edited, file="new/plans.yaml")

    said = refused.json()
    assert (refused.status_code, said["code"]) == (409, "catalogue_refused")
    assert said["detail"].splitlines() == dry["refused"]
    assert dry["refused"][0].startswith("new/plans.yaml:3: the meter calls differs in window")
    assert dry["refused"][1].startswith("new/plans.yaml:15: pro@1 is published and differs in prices")
    (fact,) = await world.log.facts("billing.request_refused")
    assert (fact.event.verb, fact.event.code) == ("publish_catalogue", "catalogue_refused")


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_tier_that_nobody_can_build_is_refused_once_the_blueprint_is_known(world, nats, tmp_path):
    gold = SECOND.replace("tier: pro", "tier: gold", 1)
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    await Publisher(client, tmp_path / "identities").say(blueprint("pro", "basic"))
    await client.close()

    async def noted():
        return (await world.get("/v1/catalogue"))["tiers"]

    assert [tier["tier"] for tier in await eventually(noted)] == ["basic", "pro"]
    dry = (await send(world, gold, dry_run="true")).json()
    good = await send(world, SECOND)

    assert "plans.yaml:8: pro@1 needs the tier gold (pooled), which the blueprint does not have" in dry["refused"][1]
    assert good.status_code == 200
    running = world.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_a_body_that_is_no_catalogue_is_refused(world):
    refused = {
        b"\xff\xfe": "plans.yaml:1: this is no UTF-8",
        b"": "plans.yaml:1: the file is empty",
        b"product: shop\nplans: []\n": "plans.yaml:2: plans: List should have at least 1",
        b"product: " + b"[" * 5000: "plans.yaml:1: no YAML: nested too deeply",
    }

    for body, says in refused.items():
        answer = await send(world, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_plans")
        assert answer.json()["detail"].startswith(says)
    large = await send(world, "#" * (1024 * 1024 + 1))
    named = await send(world, FIRST, file="a\nb")
    assert large.status_code == 413
    assert (named.status_code, named.json()["code"]) == (422, "invalid_request")


async def test_two_who_publish_at_once_are_told_what_holds_for_them(world):
    other = SECOND.replace("version: 2", "version: 3")

    answers = await asyncio.gather(*(send(world, text) for text in (SECOND, other)))

    assert [answer.status_code for answer in answers] == [200, 200]
    shown = await world.get("/v1/catalogue")
    assert len(shown["plans"]) == 2
    assert {plan["version"] for plan in shown["retired"] if plan["plan"] == "pro"} <= {2, 3}
