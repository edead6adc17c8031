"""Changes and plan migrations continue after a crash, and each is applied once."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import EMAIL
from paybill_billing.app import service
from paybill_billing.providers.sync_queue import enqueue_sync
from paybill_billing.subscriptions.jobs import plan_migrations
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_contracts.billing import AccountOpened, AccountRegistered
from paybill_contracts.changes import ChangeApplied
from paybill_contracts.envelope import Origin
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until

pytestmark = pytest.mark.e2e

TENANT = "ten_" + "a" * 32
SUBSCRIBERS = 200
FIRST = """
product: shop
plans:
  - plan: pro
    version: 1
    name: Pro
    tier: pro
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 10}
    prices:
      - {minor: 2000, currency: EUR, interval: month}
"""
SECOND = (
    FIRST
    + """
  - plan: pro
    version: 2
    name: Pro
    tier: pro
    placement: bridge
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 20}
    prices:
      - {minor: 3000, currency: EUR, interval: month}
"""
)


@pytest.fixture
def settings(settings):
    """No rate limit on the Stripe fake."""
    return {**settings, "stripe_requests_per_s": 2000}


class Stalled:
    """Provider that applies changes and never returns from the call."""

    def __init__(self, provider):
        self._provider = provider
        self.made = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._provider, name)

    async def change(self, *args):
        await self._provider.change(*args)
        self.made.set()
        await asyncio.Event().wait()


async def kill(served):
    """Stops a service as a crash does, without hand-over. The fixture closes its port."""
    for name, task in served.running.loops.tasks.items():
        if name != "http":
            task.cancel()
    await served.running.database.close()


async def test_a_worker_killed_before_it_records_the_outcome_changes_once(testbed_of, start, settings, fake):
    ordinary, stalled = service(), []

    def effects(settings_, secrets):
        external = ordinary.effects(settings_, secrets)
        stalled.append(Stalled(external.by_name["stripe"]))
        return replace(external, by_name={**external.by_name, "stripe": stalled[0]})

    testbed = await testbed_of(replace(ordinary, effects=effects))
    subscription = await testbed.subscribed(TENANT, "starter")
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    body = {"kind": "plan", "plan": "business", "reason": "grow", "confirm": True}
    change = (await testbed.served.client.post(path, json=body)).json()
    await asyncio.wait_for(stalled[0].made.wait(), 60)
    await kill(testbed.served)

    other = await start(service(), url=testbed.served.running.settings.database_url, **settings)
    (applied,) = await testbed.log.facts("billing.change_applied")

    async def shown():
        response = await other.client.get(f"/v1/subscriptions/{subscription['subscription_id']}")
        return response.json()["plan"]["plan"] == "business"

    await until(shown)
    invoices = fake.stripe.invoices.list({"subscription": subscription["provider_subscription"]}).data
    assert applied.event.change_id == change["id"]
    assert len(invoices) == 2


async def test_a_lost_response_of_the_provider_changes_once(testbed, fake):
    subscription = await testbed.subscribed(TENANT, "starter")
    target = f"/v1/subscriptions/{subscription['provider_subscription']}"
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    change = (
        await testbed.served.client.post(path, json={"kind": "plan", "plan": "business", "reason": "grow"})
    ).json()

    async def quoted():
        found = await testbed.get(f"/v1/changes/{change['id']}")
        return found["quote"]

    quote = await until(quoted)
    await asyncio.to_thread(fake.control.fail_calls, 2, path=target, after=True)
    await testbed.served.client.post(f"/v1/changes/{change['id']}/confirm", json={"quote_hash": quote["quote_hash"]})
    await testbed.log.facts("billing.change_applied")

    invoices = fake.stripe.invoices.list({"subscription": subscription["provider_subscription"]}).data
    assert len(invoices) == 2
    assert invoices[0].amount_paid == quote["proration"]["due_now"]["minor"]


async def subscribed(testbed, count):
    """Creates `count` tenants with open accounts and a subscription at the Stripe fake."""
    fake, running = testbed.fake, testbed.served.running
    tenants = [f"ten_{number:032x}" for number in range(count)]
    price = fake.stripe.prices.create(
        {
            "product_data": {"name": "Pro"},
            "currency": "eur",
            "unit_amount": 2000,
            "recurring": {"interval": "month"},
            "lookup_key": "pro_v1_month_eur",
        }
    )

    def buy(tenant):
        customer = fake.stripe.customers.create({"email": "ada@acme.example", "metadata": {"tenant_id": tenant}}).id
        fake.control.set_payment(customer, "succeed")
        return customer

    customers = dict(zip(tenants, [buy(tenant) for tenant in tenants], strict=True))

    def decide(unit, _):
        for tenant, customer in customers.items():
            account = {"tenant_id": tenant, "provider": "stripe"}
            registered = AccountRegistered(
                **account, name="Acme", contact_email=EMAIL, plan="pro", plan_version=1, retention_s=0
            )
            opened = AccountOpened(**account, customer=customer, checkout="cs_1", checkout_url="http://127.0.0.1/c")
            unit.record(ACCOUNTS, tenant, [registered, opened])

    origin = Origin("test", "test", "operator:test", child(None))
    await running.context.decide(origin, decide, writes=[ACCOUNTS.key(tenant) for tenant in tenants])
    # No webhooks, which would take most of the time: each subscription is synced once.
    fake.control.pause_delivery()
    items = [{"price": price.id}]
    bought = [
        fake.stripe.subscriptions.create({"customer": customer, "items": items}) for customer in customers.values()
    ]

    def extra_statements(statement):
        for subscription in bought:
            enqueue_sync("stripe", subscription.id, running.context.now(), statement)

    await running.context.decide(origin, lambda *_: None, extra_statements=extra_statements)

    async def all_synced():
        rows = await testbed.sql("SELECT count(*) FROM subscriptions WHERE access = 'active'")
        return rows[0][0] == count

    await until(all_synced)
    return tenants


async def publish(testbed, text):
    response = await testbed.served.client.post("/v1/catalogue", content=text)
    assert response.status_code == 200, response.text


async def migrated(client, migration, condition):
    async def load():
        found = (await client.get(f"/v1/moves/{migration['id']}")).json()
        return found if condition(found) else None

    return await until(load, timeout_s=180)  # 16 requests for each change


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_plan_migration_changes_200_subscriptions_once_each_over_a_pause_and_a_crash(
    testbed_of, start, settings, fake
):
    testbed = await testbed_of(service())
    await subscribed(testbed, SUBSCRIBERS)
    await publish(testbed, SECOND)
    query = {"from_plan": "pro", "from_version": 1, "to_plan": "pro", "to_version": 2}
    preview = await testbed.get("/v1/moves/preview", **query)
    migration = (
        await testbed.served.client.post("/v1/moves", json={**query, "when": "now", "reason": "new prices"})
    ).json()
    await migrated(testbed.served.client, migration, lambda found: found["moved"] > 20)
    await testbed.served.client.post(f"/v1/moves/{migration['id']}/pause", json={"reason": "check first"})
    paused = await migrated(testbed.served.client, migration, lambda found: found["moved"] == found["asked"])
    await testbed.served.client.post(f"/v1/moves/{migration['id']}/resume")
    await migrated(testbed.served.client, migration, lambda found: found["moved"] > paused["moved"])
    await kill(testbed.served)

    other = await start(service(), url=testbed.served.running.settings.database_url, **settings)
    done = await migrated(other.client, migration, lambda found: found["status"] == "finished")

    facts = await testbed.log.facts("billing.change_applied", at_least=SUBSCRIBERS)
    applied = Counter(fact.event.subscription_id for fact in facts if isinstance(fact.event, ChangeApplied))
    invoices = Counter(
        invoice.parent.subscription_details.subscription
        for invoice in fake.stripe.invoices.list({"limit": 100}).auto_paging_iter()
    )
    assert (paused["status"], paused["asked"] < SUBSCRIBERS) == ("paused", True)
    assert preview["subscriptions"] == SUBSCRIBERS
    assert preview["prices"] == [
        {
            "currency": "EUR",
            "interval": "month",
            "subscriptions": SUBSCRIBERS,
            "before": {"minor": 2000 * SUBSCRIBERS, "currency": "EUR"},
            "after": {"minor": 3000 * SUBSCRIBERS, "currency": "EUR"},
        }
    ]
    assert (preview["placement_before"], preview["placement_after"]) == ("pooled", "bridge")
    assert (done["asked"], done["moved"], done["refused"]) == (SUBSCRIBERS, SUBSCRIBERS, 0)
    assert set(applied.values()) == {1}
    assert len(applied) == SUBSCRIBERS
    assert set(invoices.values()) == {2}
    assert len(invoices) == SUBSCRIBERS


@pytest.mark.parametrize("subscribers", [0, 1, 25, 26])
@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_plan_migration_ends_after_its_last_batch(testbed, monkeypatch, subscribers):
    monkeypatch.setattr(plan_migrations, "BATCH_SIZE", 25)
    await subscribed(testbed, subscribers)
    await publish(testbed, SECOND)
    query = {"from_plan": "pro", "from_version": 1, "to_plan": "pro", "to_version": 2}
    client = testbed.served.client

    preview = await testbed.get("/v1/moves/preview", **query)
    started = await client.post("/v1/moves", json={**query, "when": "now", "reason": "new prices"})

    assert preview["subscriptions"] == subscribers
    if subscribers:
        done = await migrated(client, started.json(), lambda found: found["status"] == "finished")
        assert (done["asked"], done["moved"], done["refused"]) == (subscribers, subscribers, 0)
    again = await client.post("/v1/moves", json={**query, "reason": "nobody is left"})
    assert (again.status_code, again.json()["code"]) == (409, "nobody_to_move")


@pytest.mark.parametrize("catalogue", [FIRST], indirect=True)
async def test_a_plan_migration_reports_refused_changes_and_a_second_one_is_refused(testbed):
    tenants = [f"ten_{number:032x}" for number in range(3)]
    subscriptions = [await testbed.subscribed(tenant, "pro") for tenant in tenants]
    await publish(testbed, SECOND)
    refused_path = f"/v1/subscriptions/{subscriptions[0]['subscription_id']}/changes"
    await testbed.served.client.post(refused_path, json={"kind": "cancel", "when": "period_end", "reason": "x"})
    query = {"from_plan": "pro", "from_version": 1, "to_plan": "pro", "to_version": 2}

    client = testbed.served.client
    migration = (await client.post("/v1/moves", json={**query, "reason": "new prices"})).json()
    second = await client.post("/v1/moves", json={**query, "reason": "late"})
    done = await migrated(client, migration, lambda found: found["status"] == "finished")
    refused = (await testbed.get("/v1/changes", move_id=migration["id"], status="refused"))["changes"]
    await asyncio.to_thread(testbed.fake.control.advance_clock, timedelta(days=32))

    async def all_synced():
        subscriptions_ = [await testbed.subscription(tenant, "active") for tenant in tenants]
        return [subscription["plan"]["version"] for subscription in subscriptions_] == [1, 2, 2]

    await until(all_synced)
    assert (second.status_code, second.json()["code"]) == (409, "move_runs")
    assert (done["moved"], done["refused"]) == (2, 1)
    assert [(change["subscription_id"], change["code"]) for change in refused] == [
        (subscriptions[0]["subscription_id"], "change_open")
    ]
    assert done["left"] == 3
    late = await client.post(f"/v1/moves/{migration['id']}/pause", json={"reason": "late"})
    assert (late.status_code, late.json()["code"]) == (409, "move_finished")
