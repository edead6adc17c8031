"""A change that the tenant's environment has not followed is shown in the quote of a further change."""

from datetime import UTC, datetime

import pytest
from billing_samples import ACCOUNT, NOW, PRO_1, PRO_2
from billing_testbed import Publisher
from change_samples import PRORATION, SUBSCRIPTION, requested
from paybill_billing.subscriptions.domain import accounts, changes
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_runtime.messaging.streams import connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32


def pending(tenant=ACCOUNT.id, since=NOW):
    return EnvironmentChangePending(
        tenant_id=tenant,
        environment_id="env_" + "1" * 32,
        from_tier="starter",
        from_preset=Preset.POOLED,
        to_tier="team",
        to_preset=Preset.BRIDGE,
        since=since,
        reason="the placement changes",
        waits_for="a migration",
    )


def settled(tenant=ACCOUNT.id):
    return EnvironmentChangeSettled(
        tenant_id=tenant, environment_id="env_" + "1" * 32, tier="team", preset=Preset.BRIDGE, reason="it was built"
    )


def test_a_pending_change_is_noted_once_until_it_is_settled():
    (noted,) = accounts.on_environment_change(ACCOUNT, pending())
    waiting = accounts.evolve(ACCOUNT, noted)
    (over,) = accounts.on_environment_change(waiting, settled())

    assert (waiting.environment.to_tier, waiting.environment.since) == ("team", NOW)
    assert accounts.on_environment_change(waiting, pending()) == []
    assert accounts.on_environment_change(None, pending()) == []
    assert accounts.evolve(waiting, over) == ACCOUNT
    assert accounts.on_environment_change(ACCOUNT, settled()) == []


def test_the_hash_of_a_quote_covers_the_pending_change():
    waiting = accounts.evolve(ACCOUNT, accounts.on_environment_change(ACCOUNT, pending())[0]).environment
    without, with_it = (
        changes.quoted(requested(), SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW, environment=environment)[0]
        for environment in (None, waiting)
    )

    assert (without.environment, with_it.environment) == (None, waiting)
    assert without.quote_hash != with_it.quote_hash


@pytest.fixture
async def provisioner(nats, tmp_path):
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    yield Publisher(client, tmp_path / "identities")
    await client.close()


async def test_a_quote_shows_what_the_environment_has_not_followed(testbed, provisioner):
    subscription = await testbed.subscribed(TENANT)
    since = datetime(2026, 3, 1, tzinfo=UTC)
    await provisioner.publish(pending(TENANT, since))
    await testbed.log.facts("billing.pending_environment_noted", at_least=1)
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    change = (
        await testbed.served.client.post(path, json={"kind": "plan", "plan": "business", "reason": "more"})
    ).json()

    async def quote():
        return (await testbed.get(f"/v1/changes/{change['id']}"))["quote"]

    shown = (await until(quote))["environment"]
    why = await testbed.get(f"/v1/why/{TENANT}")
    await provisioner.publish(settled(TENANT))
    await testbed.log.facts("billing.pending_environment_noted", at_least=2)

    assert shown == {
        "from_tier": "starter",
        "from_placement": "pooled",
        "to_tier": "team",
        "to_placement": "bridge",
        "since": "2026-03-01T00:00:00Z",
        "reason": "the placement changes",
        "waits_for": "a migration",
    }
    assert why["account"]["plan_of_built_size"] == "starter"
    assert f"subscription active on starter, quantity {subscription['quantity']}" in [
        fact["sentence"] for fact in why["facts"]
    ]
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()
