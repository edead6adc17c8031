"""What may be looked at, by whom, and how the service starts or refuses to."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.app import service
from paybill_billing.settings import Settings
from paybill_runtime.app import Running
from paybill_runtime.auth import Role, make_key
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.migrate import check
from pydantic import ValidationError

TENANT = "ten_" + "f" * 32
EDITED = """\
product: paybill-demo
plans:
  - {plan: pro, version: 1, name: Pro, tier: pro, placement: pooled, grace: 7d, retention: 30d, features: [],
     prices: [{minor: 2900, currency: EUR, interval: month}]}
"""


async def test_the_tables_in_the_code_are_those_of_the_migrations(world):
    await check(world.served.running.database, "billing")


async def test_the_catalogue_on_sale_is_shown_with_its_hash(world):
    shown = await world.get("/v1/catalogue")

    (fact,) = await world.log.facts("billing.catalogue_published")
    assert shown["product"] == "paybill-demo"
    assert [plan["plan"] for plan in shown["plans"]] == ["starter", "team", "business"]
    assert shown["content_hash"] == fact.event.content_hash


async def test_subscriptions_are_paged_by_their_ids(world):
    tenants = [f"ten_{number:032x}" for number in range(3)]
    for tenant in tenants:
        await world.subscribed(tenant)

    first = await world.get("/v1/subscriptions", limit=2)
    second = await world.get("/v1/subscriptions", limit=2, after=first["next"])
    ended = await world.get("/v1/subscriptions", access="ended")

    ids = [each["subscription_id"] for each in first["subscriptions"] + second["subscriptions"]]
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    assert (second["next"], ended) == (None, {"subscriptions": [], "next": None})


async def test_what_nobody_knows_is_not_found_with_a_code(world):
    await world.tenants.request_tenant(TENANT)
    await world.opened(TENANT)
    answers = {
        f"/v1/tenants/ten_{'0' * 32}/account": (404, "unknown_tenant"),
        f"/v1/tenants/ten_{'0' * 32}/entitlements": (404, "unknown_tenant"),
        f"/v1/tenants/{TENANT}/entitlements": (404, "nothing_entitled"),
        "/v1/tenants/acme/account": (422, "invalid_request"),
        "/v1/subscriptions?limit=9999": (422, "invalid_request"),
    }

    for path, expected in answers.items():
        answer = await world.served.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == expected, path


async def test_only_who_may_read_billing_sees_any_of_it(world, outside):
    keys = world.served.running.settings.api_keys_file
    kept = json.loads(keys.read_text())
    made = make_key("other", "other", Role.ADMIN, ("tenant:read",), datetime.now(UTC) + timedelta(days=1))
    keys.write_text(json.dumps({"keys": [*kept["keys"], made.kept]}))
    paths = ["/v1/catalogue", "/v1/subscriptions", f"/v1/tenants/{TENANT}/account", "/v1/webhooks/waiting"]

    for path in paths:
        assert (await outside.get(path)).json()["code"] == "no_key"
        assert (await outside.get(path, headers={"Authorization": "Bearer pbk_x_y"})).json()["code"] == "wrong_key"


async def test_starting_again_with_the_same_catalogue_says_nothing_new(start, world, settings):
    url = world.served.running.settings.database_url

    again = await start(service(), url, **{**settings, "http_port": 0})

    answer = await again.client.get("/v1/catalogue")
    assert answer.status_code == 200
    said = await world.log.facts("billing.catalogue_published", "billing.publishers_allowed", at_least=2)
    assert len(said) == 2


@pytest.mark.parametrize("catalogue", [EDITED], indirect=True)
async def test_an_edit_of_a_published_plan_ends_the_start_with_file_line_and_reason(world, catalogue):
    catalogue.write_text(EDITED.replace("2900", "3900"))
    running = world.served.running
    again = Running(service(), running.settings)

    with pytest.raises(ConfigurationError, match=r"plans\.yaml:3: pro version 1 .* differs in prices.* version 2"):
        await again.__aenter__()
    await again.__aexit__()


@pytest.mark.parametrize("catalogue", ["product: [\n"], indirect=True)
async def test_a_broken_catalogue_ends_the_start(start, settings):
    running = Running(service(), Settings(**(await _settings(start, settings))))

    with pytest.raises(ConfigurationError, match="no YAML"):
        await running.__aenter__()
    await running.__aexit__()


async def _settings(start, settings):
    """The settings of a billing that starts, with those of the test put over them."""
    good = await start(service(), **{**settings, "catalogue_file": None, "http_port": 0})
    return {**good.running.settings.model_dump(), **settings, "http_port": 0}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[]", "should be an object"),
        ('{"metering": {"tenants": ["acme"]}}', "tenants"),
        ('{"Metering": {"tenants": ["*"]}}', "Metering"),
        ('{"metering": {"tenant": ["*"]}}', "tenant"),
        ("{", "EOF"),
    ],
)
def test_a_publishers_file_that_is_wrong_is_named_with_the_reason(tmp_path, written, said):
    path = tmp_path / "publishers.json"
    path.write_text(written)

    with pytest.raises(ConfigurationError, match=said):
        made(tmp_path, publishers_file=path).publisher_grants()


def test_without_a_publishers_file_nobody_reports_usage(tmp_path):
    assert made(tmp_path).publisher_grants() == []


def test_an_empty_api_key_is_named(tmp_path):
    (tmp_path / "key").write_text("\n")

    with pytest.raises(ConfigurationError, match="key is empty"):
        made(tmp_path).stripe_api_key()


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValidationError):
        made(tmp_path, stripe_api_base="ftp://x")


def made(tmp_path, **more):
    values = {
        "database_url": "postgresql://billing@127.0.0.1/billing",
        "api_keys_file": tmp_path / "keys",
        "identity_dir": tmp_path,
        "secrets_dir": tmp_path,
        "stripe_api_key_file": tmp_path / "key",
    }
    return Settings(**{**values, **more})
