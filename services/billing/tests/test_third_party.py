"""A third party's provider: loaded by its entry point, chosen by tenants, and removed."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from billing_samples import NOW
from billing_testbed import Publisher
from paybill_billing.app import service
from paybill_billing.providers.port import ProviderConfig
from paybill_billing.providers.registry import connect
from paybill_billing.settings import Settings
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.streams import connect as connected_to
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until
from pydantic import ValidationError

sys.path.append(str(Path(__file__).parent / "third_party"))

from acmepay import REMOTES, Remote, sign  # found through the path above

TENANT, OTHER = "ten_" + "e" * 32, "ten_" + "f" * 32
SECRET = b"0123456789abcdef"


@pytest.fixture
def remote(request):
    name = request.node.name
    REMOTES[name] = Remote()
    yield REMOTES[name]
    del REMOTES[name]


@pytest.fixture
def settings(settings, remote, request, tmp_path):
    secret = tmp_path / "acme-secret"
    secret.write_bytes(SECRET)
    own = {"remote": request.node.name, "webhook_file": str(secret)}
    return settings | {"providers": {"acmepay": own}, "default_provider": "acmepay"}


@pytest.fixture
async def testbed(testbed_of):
    return await testbed_of(service())


async def send_webhook(outside, remote, subscription, path="acmepay", secret=SECRET):
    """Sends a webhook about a subscription and returns the status of the answer."""
    body = remote.message(subscription)
    answer = await outside.post(f"/webhooks/{path}", content=body, headers=sign(body, datetime.now(UTC), secret))
    return answer.status_code


async def bought(testbed, outside, remote, tenant_id=TENANT):
    await testbed.tenants.request_tenant(tenant_id)
    account = await testbed.opened(tenant_id)
    id_ = remote.buy(account["customer"])
    assert await send_webhook(outside, remote, id_) == 200
    return id_, await testbed.subscription(tenant_id, "active")


async def test_a_customer_of_a_third_party_subscribes_changes_and_leaves(testbed, outside, remote):
    id_, subscription = await bought(testbed, outside, remote)

    assert (subscription["provider"], subscription["provider_subscription"]) == ("acmepay", id_)
    assert [call.partition(" ")[0] for call in remote.calls[:2]] == ["open", "fetch"]
    change = {"kind": "plan", "quantity": 4, "when": "now", "reason": "grows", "confirm": True}
    await testbed.served.client.post(f"/v1/subscriptions/{subscription['subscription_id']}/changes", json=change)

    async def grown():
        return (await testbed.subscription(TENANT, "active"))["quantity"] == 4

    await until(grown)
    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)
    )

    async def left():
        return remote.subscriptions[id_].status == "canceled"

    await until(left)
    assert await send_webhook(outside, remote, id_) == 200
    await testbed.subscription(TENANT, "ended")
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_messages_are_parsed_by_their_own_provider(testbed, outside, remote):
    id_ = remote.buy((await _opened(testbed))["customer"])

    assert await send_webhook(outside, remote, id_, secret=b"another") == 400
    assert await send_webhook(outside, remote, id_, path="stripe") == 400
    assert await send_webhook(outside, remote, id_, path="manual") == 404
    assert await send_webhook(outside, remote, id_, path="nobody") == 404
    assert await send_webhook(outside, remote, id_) == 200


async def _opened(testbed):
    await testbed.tenants.request_tenant(TENANT)
    return await testbed.opened(TENANT)


async def test_every_tenant_pays_at_its_chosen_provider(testbed):
    for number, payment in enumerate([None, "stripe", "manual"]):
        await testbed.tenants.request_tenant(f"ten_{number:032x}", payment=payment)

    opened = [(await testbed.opened(f"ten_{number:032x}"))["provider"] for number in range(3)]
    await testbed.tenants.request_tenant(OTHER, payment="barter")
    (refused,) = await testbed.log.facts("billing.request_refused")

    assert opened == ["acmepay", "stripe", "manual"]
    assert refused.event.code == "unknown_provider"
    (configured,) = await testbed.log.facts("billing.providers_configured")
    assert configured.event.names == ("acmepay", "manual", "stripe")


async def test_a_portal_link_comes_from_the_provider_and_is_not_stored(testbed, remote):
    account = await _opened(testbed)
    await testbed.tenants.request_tenant(OTHER, payment="manual")
    await testbed.opened(OTHER)
    link = await testbed.served.client.post(f"/v1/tenants/{TENANT}/portal")

    assert link.status_code == 200
    assert link.json()["url"] == f"https://acmepay.example/portal/{account['customer']}?back=http://127.0.0.1/"
    assert link.headers["Cache-Control"] == "no-store"
    none = await testbed.served.client.post(f"/v1/tenants/{OTHER}/portal")
    assert (none.status_code, none.json()["code"]) == (409, "no_portal")
    unknown = await testbed.served.client.post(f"/v1/tenants/ten_{'0' * 32}/portal")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_tenant")
    remote.unavailable = "it is asleep"
    away = await testbed.served.client.post(f"/v1/tenants/{TENANT}/portal")
    assert (away.status_code, away.json()["code"]) == (503, "provider_away")


@pytest.fixture
async def tenants(nats, start, tmp_path):
    """Publishes the events of the tenant service."""
    client = await connected_to(nats.url, "tenant", nats.password("tenant"))
    yield Publisher(client, tmp_path / "identities")
    await client.close()


async def test_effects_at_a_removed_provider_wait_visibly_and_delay_no_other(start, settings, tenants, remote):
    async def opened(served, tenant_id):
        answer = await served.client.get(f"/v1/tenants/{tenant_id}/account")
        return answer.status_code == 200 and answer.json()["status"] == "open"

    first = await start(service(), **settings)
    await tenants.request_tenant(TENANT)
    await until(lambda: opened(first, TENANT))
    await first.running.__aexit__(None, None, None)
    without = settings | {"providers": {}, "default_provider": "manual"}
    served = await start(service(), url=first.running.settings.database_url, **without)

    await tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)
    )
    await tenants.request_tenant(OTHER)

    async def waiting():
        effects = (await served.client.get("/v1/operations/effects")).json()
        return [effect for effect in effects if effect["work"] == "cancel/acmepay" and effect["reason"]]

    await until(lambda: opened(served, OTHER))
    (effect,) = await until(waiting)
    assert "acmepay is not configured here" in effect["reason"]
    assert effect["state"] == "pending"
    assert not [call for call in remote.calls if call.startswith("cancel_all")]


SECRET_FILE = Path(__file__)
REQUIRED = {"database_url": "postgresql://nobody@127.0.0.1/none", "api_keys_file": SECRET_FILE} | {
    "identity_dir": SECRET_FILE.parent,
    "secrets_dir": SECRET_FILE.parent,
}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "set PAYBILL_STRIPE_API_KEY_FILE, or set PAYBILL_DEFAULT_PROVIDER to one of: manual"),
        ({"default_provider": "gold"}, "name gold in PAYBILL_PROVIDERS"),
        ({"default_provider": "manual", "providers": {"gold": {}}}, "no installed package provides it"),
        ({"default_provider": "manual", "providers": {"stripe": {}}}, "remove it from the setting"),
        ({"default_provider": "manual", "providers": {"acmepay": {}}}, "needs webhook_file"),
        (
            {"default_provider": "manual", "providers": {"acmepay": {"webhook_file": "/nowhere"}}},
            "the secret file nowhere cannot be read",
        ),
    ],
)
def test_an_unavailable_provider_stops_the_start_with_the_next_step(more, message):
    with pytest.raises(ConfigurationError, match=message):
        connect(Settings(**REQUIRED, **more), store=None)


@pytest.mark.parametrize("written", ["acmepay", "[]", '{"acmepay": {"port": {}}}', '{"Acme Pay": {}}'])
def test_an_invalid_providers_setting_is_refused_with_the_reason(written, monkeypatch):
    monkeypatch.setenv("PAYBILL_PROVIDERS", written)

    with pytest.raises(ValidationError, match="providers"):
        Settings(**REQUIRED)


def test_providers_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("PAYBILL_PROVIDERS", '{"acmepay": {"remote": "here"}}')

    assert Settings(**REQUIRED).providers == {"acmepay": {"remote": "here"}}


def test_two_packages_for_one_provider_name_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "acmeclone-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acmeclone\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[paybill.billing_providers]\nacmepay = acmeclone:connect\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigurationError, match="acmeclone, acmepay"):
        connect(Settings(**REQUIRED, default_provider="manual", providers={"acmepay": {}}), store=None)


def test_a_third_party_is_loaded_only_when_it_is_configured():
    assert list(connect(Settings(**REQUIRED, default_provider="manual"), store=None)) == ["manual"]


def test_the_repr_of_a_provider_config_hides_its_secrets():
    given = ProviderConfig("acmepay", {"region": "eu"}, {"webhook": "very-secret"}, "http://127.0.0.1/")

    assert "eu" in repr(given)
    assert "very-secret" not in repr(given)
