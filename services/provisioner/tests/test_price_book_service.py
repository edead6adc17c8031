"""The price book is published over HTTP, and plans are estimated by it."""

YAML = {"Content-Type": "application/yaml"}
PRICES = """
name: list
version: 1
source: contract
date: 2026-11-01
currency: EUR
prices:
  - {kind: database, cloud: local, minor: 1000}
  - {kind: bucket, cloud: local, minor: 200}
  - {kind: secret, cloud: local, minor: 0}
"""


async def test_plans_are_estimated_by_the_published_price_book(provisioner, publish, log, about) -> None:
    client = provisioner.client
    assert (await client.get("/v1/price-books")).json() == {"price_books": []}
    previewed = await client.post("/v1/price-books", content=PRICES, headers=YAML, params={"dry_run": True})
    assert (await client.get("/v1/price-books/list")).json()["code"] == "price_book_not_published"

    answer = await client.post("/v1/price-books", content=PRICES, headers=YAML)
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    await log.facts("provisioner.environment_ready")
    (run,) = await log.facts("provisioner.plan_run_measured")
    await publish(second.requested, second.entitled)
    planned = (await log.facts("provisioner.environment_planned", at_least=2))[-1].event.plan
    shown = (await client.get("/v1/price-books/list")).json()

    assert previewed.json() == answer.json()
    assert (len(answer.json()["added"]), answer.json()["changes"]) == (3, True)
    assert planned.estimates.cost.after.text == "12.00 EUR"
    assert planned.price_book.content_hash == shown["content_hash"] == answer.json()["content_hash"]
    assert planned.estimates.expected_ms == run.event.took_ms


async def test_an_older_version_and_an_invalid_book_are_refused(provisioner) -> None:
    async def post(text):
        return await provisioner.client.post("/v1/price-books", content=text, headers=YAML, params={"file": "p.yaml"})

    await post(PRICES.replace("version: 1", "version: 2"))
    older, invalid = await post(PRICES), await post(PRICES.replace("bucket", "folder"))
    listed = (await provisioner.client.get("/v1/price-books")).json()["price_books"]

    assert (older.status_code, older.json()["code"]) == (409, "price_book_version_conflict")
    assert (invalid.status_code, invalid.json()["code"]) == (422, "invalid_price_book")
    assert "p.yaml:9: there is no kind folder" in invalid.json()["detail"]
    assert [(each["version"], each["in_force"]) for each in listed] == [(2, True)]
