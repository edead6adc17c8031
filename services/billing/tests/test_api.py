"""Read routes, their permissions, and the start with valid and invalid settings."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.settings import Settings
from paybill_runtime.database.migrate import check
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http.auth import Role, make_key
from pydantic import ValidationError

TENANT = "ten_" + "f" * 32


async def test_the_tables_in_the_code_are_those_of_the_migrations(testbed):
    await check(testbed.served.running.database, "billing")


async def test_subscriptions_are_paged_by_their_ids(testbed):
    tenants = [f"ten_{number:032x}" for number in range(3)]
    for tenant in tenants:
        await testbed.subscribed(tenant)

    first = await testbed.get("/v1/subscriptions", limit=2)
    second = await testbed.get("/v1/subscriptions", limit=2, after=first["next"])
    ended = await testbed.get("/v1/subscriptions", access="ended")

    ids = [each["subscription_id"] for each in first["subscriptions"] + second["subscriptions"]]
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    assert (second["next"], ended) == (None, {"subscriptions": [], "next": None})


async def test_unknown_objects_are_not_found_with_a_code(testbed):
    await testbed.tenants.request_tenant(TENANT)
    await testbed.opened(TENANT)
    answers = {
        f"/v1/tenants/ten_{'0' * 32}/account": (404, "unknown_tenant"),
        f"/v1/tenants/ten_{'0' * 32}/entitlements": (404, "unknown_tenant"),
        f"/v1/tenants/{TENANT}/entitlements": (404, "nothing_entitled"),
        "/v1/tenants/acme/account": (422, "invalid_request"),
        "/v1/subscriptions?limit=9999": (422, "invalid_request"),
    }

    for path, expected in answers.items():
        answer = await testbed.served.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == expected, path


async def test_every_route_needs_a_key_with_the_read_scope(testbed, outside):
    keys = testbed.served.running.settings.api_keys_file
    kept = json.loads(keys.read_text())
    made = make_key("other", "other", Role.ADMIN, ("tenant:read",), datetime.now(UTC) + timedelta(days=1))
    keys.write_text(json.dumps({"keys": [*kept["keys"], made.stored]}))
    paths = ["/v1/catalogue", "/v1/subscriptions", f"/v1/tenants/{TENANT}/account", "/v1/webhooks/waiting"]

    for path in paths:
        assert (await outside.get(path)).json()["code"] == "no_key"
        assert (await outside.get(path, headers={"Authorization": "Bearer pbk_x_y"})).json()["code"] == "wrong_key"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[]", "write an object"),
        ('{"metering": {"tenants": ["acme"]}}', "tenants"),
        ('{"Metering": {"tenants": ["*"]}}', "Metering"),
        ('{"metering": {"tenant": ["*"]}}', "tenant"),
        ("{", "column 2"),
        ('{"metering": {"tenants": []}, "metering": {"tenants": ["*"]}}', "repeated"),
    ],
)
def test_an_invalid_publishers_file_is_refused_with_the_reason(tmp_path, written, message):
    path = tmp_path / "publishers.json"
    path.write_text(written)

    with pytest.raises(ConfigurationError, match=message):
        made(tmp_path, publishers_file=path).publisher_grants()


def test_without_a_publishers_file_there_are_no_publishers(tmp_path):
    assert made(tmp_path).publisher_grants() == []


def test_an_empty_api_key_file_is_named_in_the_error(tmp_path):
    (tmp_path / "key").write_text("\n")

    with pytest.raises(ConfigurationError, match="key is empty"):
        made(tmp_path).stripe_api_key()


def test_an_invalid_url_is_refused(tmp_path):
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
