"""Publication of the catalogue over HTTP: the packaged file first, then dry runs, publications and refusals."""

import asyncio

import pytest
from billing_testbed import Publisher
from paybill_billing.app import service
from paybill_billing.settings import Settings
from paybill_contracts.blueprints import Blueprint, BlueprintPublished, TierBlueprint
from paybill_contracts.catalogue import Interval
from paybill_contracts.placement import Preset, placement_of
from paybill_contracts.purchases import PurchaseTerms
from paybill_runtime.app import Running
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.streams import connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

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
        TierBlueprint(
            tier=tier, placement=Preset.POOLED, layers=placement_of(Preset.POOLED), cloud="local", resources=()
        )
        for tier in tiers
    )
    content = Blueprint(name="main", version=1, regions=("eu-1",), cells=(), tiers=built, tables=())
    return BlueprintPublished(blueprint="main", content=content, content_hash=f"{len(tiers):064x}")


async def send(testbed, text, *, key=None, rolled_back=False, **query):
    headers = {"content-type": "application/yaml"} | ({"Idempotency-Key": key} if key else {})
    headers |= {"Dry-Run": "true"} if rolled_back else {}
    content = text if isinstance(text, bytes) else text.encode()
    return await testbed.served.client.post("/v1/catalogue", content=content, params=query, headers=headers)


async def test_a_dry_run_finds_the_executed_publication(testbed):
    before = (await send(testbed, FIRST, key="publish-1", rolled_back=True)).json()
    published = await send(testbed, FIRST, key="publish-1")
    after = (await send(testbed, FIRST, key="publish-1", rolled_back=True)).json()

    assert (before["already_executed"], len(before["would_record"])) == (False, 1)
    assert (after["already_executed"], after["result"]) == (True, published.json())


async def test_the_catalogue_on_sale_is_shown_with_its_hash(testbed):
    shown = await testbed.get("/v1/catalogue")

    (fact,) = await testbed.log.facts("billing.catalogue_published")
    assert shown["product"] == "paybill-demo"
    assert [plan["plan"] for plan in shown["plans"]] == ["starter", "team", "business"]
    assert [meter["meter"] for meter in shown["meters"]] == ["calls"]
    assert (shown["retired"], shown["tiers"]) == ([], None)
    assert shown["content_hash"] == fact.event.content_hash


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_the_catalogue_file_is_ignored_after_the_first_publication(start, testbed, settings, catalogue):
    catalogue.write_text("product: [\n")
    url = testbed.served.running.settings.database_url

    restarted = await start(service(), url, **{**settings, "http_port": 0})

    assert (await restarted.client.get("/v1/catalogue")).json()["product"] == "shop"
    facts = await testbed.log.facts("billing.catalogue_published", "billing.publishers_allowed", at_least=2)
    assert len(facts) == 2


@pytest.mark.parametrize("catalogue", ["product: [\n"], indirect=True)
async def test_an_invalid_first_catalogue_aborts_the_start(start, settings):
    good = await start(service(), **{**settings, "catalogue_file": None, "http_port": 0})
    async with good.running.database.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM catalogues")
    running = Running(service(), Settings(**{**good.running.settings.model_dump(), **settings, "http_port": 0}))

    with pytest.raises(ConfigurationError, match="no YAML"):
        await running.__aenter__()
    await running.__aexit__()


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_dry_run_changes_nothing_and_a_publication_is_idempotent(testbed):
    dry = (await send(testbed, SECOND, dry_run="true")).json()
    unchanged = await testbed.get("/v1/catalogue")
    done = await send(testbed, SECOND, key="k1")
    repeated = (await send(testbed, SECOND)).json()
    same = await send(testbed, SECOND, key="k1")

    assert (dry["changes"], dry["added"], dry["retired"], dry["refused"]) == (True, ["pro@2"], [], [])
    assert dry["versions"][0]["before"] == "pro@1"
    assert dry["versions"][0]["features"][0]["after"]["quota"] == 50
    assert [plan["version"] for plan in unchanged["plans"]] == [1]
    assert done.status_code == 200, done.text
    assert done.json() == dry == same.json()
    assert not repeated["changes"]
    assert [plan["version"] for plan in (await testbed.get("/v1/catalogue"))["plans"]] == [1, 2]
    facts = await testbed.log.facts("billing.catalogue_published", at_least=2)
    assert [fact.origin.actor.partition(":")[0] for fact in facts] == ["service", "operator"]
    assert facts[1].event.content_hash == dry["content_hash"]


@pytest.mark.parametrize("catalogue", [SECOND], indirect=True)
async def test_a_version_missing_in_the_new_file_is_retired_and_stays_known(testbed):
    done = (await send(testbed, FIRST)).json()

    shown = await testbed.get("/v1/catalogue")
    assert (done["added"], done["retired"]) == ([], ["pro@2"])
    assert [plan["version"] for plan in shown["retired"]] == [2]


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_an_edit_of_a_published_version_is_refused_with_file_line_and_reason(testbed):
    edited = FIRST.replace("2900", "3900").replace("{meter: calls}", "{meter: calls, window: day}")

    dry = (await send(testbed, edited, dry_run="true", file="new/plans.yaml")).json()
    refused = await send(testbed, edited, file="new/plans.yaml")

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "catalogue_refused")
    assert problem["detail"].splitlines() == dry["refused"]
    assert dry["refused"][0].startswith("new/plans.yaml:3: the meter calls differs in window")
    assert dry["refused"][1].startswith("new/plans.yaml:15: pro@1 is published and differs in prices")
    (fact,) = await testbed.log.facts("billing.request_refused")
    assert (fact.event.verb, fact.event.code) == ("publish_catalogue", "catalogue_refused")


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_tier_that_cannot_be_built_is_refused_after_the_blueprint_is_published(testbed, nats, tmp_path):
    gold = SECOND.replace("tier: pro", "tier: gold", 1)
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    await Publisher(client, tmp_path / "identities").publish(blueprint("pro", "basic"))
    await client.close()

    async def buildable_tiers():
        return (await testbed.get("/v1/catalogue"))["tiers"]

    assert [tier["tier"] for tier in await until(buildable_tiers)] == ["basic", "pro"]
    dry = (await send(testbed, gold, dry_run="true")).json()
    good = await send(testbed, SECOND)

    assert "plans.yaml:8: pro@1 needs the tier gold (pooled), which the blueprint does not have" in dry["refused"][1]
    assert good.status_code == 200
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_an_invalid_body_is_refused(testbed):
    refused = {
        b"\xff\xfe": "plans.yaml:1: the file is not UTF-8",
        b"": "plans.yaml:1: the file is empty",
        b"product: shop\nplans: []\n": "plans.yaml:2: plans: write at least one entry",
        b"product: " + b"[" * 5000: "plans.yaml:1: no YAML: nested too deeply",
    }

    for body, detail in refused.items():
        response = await send(testbed, body)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_plans")
        assert response.json()["detail"].startswith(detail)
    large = await send(testbed, "#" * (1024 * 1024 + 1))
    named = await send(testbed, FIRST, file="a\nb")
    assert large.status_code == 413
    assert (named.status_code, named.json()["code"]) == (422, "invalid_request")


async def test_concurrent_publications_are_applied_one_after_the_other(testbed):
    other = SECOND.replace("version: 2", "version: 3")

    responses = await asyncio.gather(*(send(testbed, text) for text in (SECOND, other)))

    assert [response.status_code for response in responses] == [200, 200]
    shown = await testbed.get("/v1/catalogue")
    assert len(shown["plans"]) == 2
    assert {plan["version"] for plan in shown["retired"] if plan["plan"] == "pro"} <= {2, 3}


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_new_checkout_sells_nothing_that_was_retired_since_the_sign_up(testbed):
    tenant, stripe = "ten_" + "c" * 32, testbed.fake.stripe
    await testbed.tenants.request_tenant(tenant, "pro", terms=PurchaseTerms(interval=Interval.MONTH))
    first = (await testbed.opened(tenant))["checkout_url"].rpartition("/")[2]
    await asyncio.to_thread(stripe.checkout.sessions.expire, first)
    await testbed.log.facts("billing.checkout_expired")

    checkout = f"/v1/tenants/{tenant}/checkout"
    second = FIRST.replace("version: 1", "version: 2").replace("2900", "3900")
    await send(testbed, second)
    newest = (await testbed.served.client.post(checkout)).json()
    await asyncio.to_thread(stripe.checkout.sessions.expire, newest["checkout"])
    await send(testbed, FIRST.replace("version: 1", "version: 3").replace("interval: month", "interval: year"))
    of_another_price = await testbed.served.client.post(checkout)
    await send(testbed, FIRST.replace("plan: pro", "plan: other"))
    refused = await testbed.served.client.post(checkout)
    session = await asyncio.to_thread(stripe.checkout.sessions.retrieve, newest["checkout"])

    assert session.amount_total == 3900
    assert (of_another_price.status_code, of_another_price.json()["code"]) == (422, "no_such_price")
    assert (refused.status_code, refused.json()["code"]) == (422, "plan_not_on_sale")
