"""Tests of licences on real servers: issue, renewal, reissue, revocation, activation and offline verification."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from licence_testbed import (
    SUBSCRIPTION,
    TENANT,
    Vendor,
    bought,
    entitled,
    in_force,
    issue,
    of_tenant,
    post,
    public_keys,
    revocations,
)
from paybill_billing.app import service
from paybill_contracts.billing import AccessState, SubscriptionActivated, SubscriptionChanged, SubscriptionEnded
from paybill_licence import LicenceRevokedError, UnknownLicenceKeyError, machine_digest, verify_licence
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until
from sqlalchemy import text

OTHER = "ten_" + "b" * 32


@pytest.fixture
def billing_settings(tmp_path):
    key_file = tmp_path / "stripe-key"
    key_file.write_text("sk_test_0")
    return {"stripe_api_key_file": key_file, "stripe_api_base": "http://127.0.0.1:9"}


@pytest.fixture
async def vendor(request, start, log, billing_settings):
    more = getattr(request, "param", {})
    served = await start(service(), **billing_settings, **more)
    transport = httpx.ASGITransport(served.client._transport.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as anonymous:
        environment = Vendor(served, log, anonymous, start)
        await environment.record(bought(SubscriptionActivated), entitled())
        yield environment


async def test_a_licence_is_issued_signed_and_verified_with_the_public_keys(vendor):
    issued = await issue(vendor, seats=3)
    found = await in_force(vendor, issued["licence_id"])

    verified = verify_licence(found["token"], await public_keys(vendor), datetime.now(UTC))
    assert (issued["status"], issued["pending"]["purpose"]) == ("signing", "issue")
    assert (verified.tenant_id, verified.subscription_id, verified.seats) == (TENANT, SUBSCRIPTION, 3)
    assert verified.expires_at - verified.issued_at == timedelta(days=30)
    assert [feature.model_dump(mode="json") for feature in verified.features] == found["features"]
    listed = await vendor.get("/v1/licences", tenant=TENANT, status="in_force", kid=verified.kid)
    assert listed == {"licences": [found["licence"]], "next": None}
    assert await vendor.get("/v1/licences", tenant=OTHER) == {"licences": [], "next": None}


async def test_no_private_key_is_in_a_fact_a_table_a_file_or_a_response(vendor, tmp_path):
    await in_force(vendor, (await issue(vendor))["licence_id"])
    (fact,) = await vendor.log.facts("billing.licence_key_published")
    private = (await vendor.served.running.context.secrets.get(fact.event.secret)).encode()

    shown = [
        await vendor.get("/v1/licence-keys"),
        (await vendor.anonymous.get("/.well-known/license-keys.json")).json(),
    ]
    query = text("SELECT payload FROM chassis.outbox UNION ALL SELECT state::text::bytea FROM licence_keys")
    stored = await vendor.served.running.context.rows(query)
    assert len(stored) > 4
    assert all(private not in bytes(row[0]) for row in stored)
    assert private.decode() not in str(shown)
    assert all(private not in path.read_bytes() for path in (tmp_path / "secrets").rglob("*") if path.is_file())


async def test_a_dry_run_shows_the_result_and_changes_nothing(vendor):
    planned = await post(vendor, f"/v1/tenants/{TENANT}/licences", {"seats": 2}, status=202, key="k", dry_run=True)
    missing = await vendor.served.client.get(f"/v1/licences/{planned['licence_id']}")
    real = await post(vendor, f"/v1/tenants/{TENANT}/licences", {"seats": 2}, status=202, key="k")
    id_ = (await in_force(vendor, real["licence_id"]))["licence"]["licence_id"]
    dry = [
        await post(vendor, f"/v1/licences/{id_}/renew", dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/revoke", {"reason": "x"}, dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/activate", {"machine": "a" * 64}, dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/deactivate", {"machine": "a" * 64}, dry_run=True),
    ]
    keys = await post(vendor, "/v1/licence-keys/rotate", {"reason": "x"}, status=202, dry_run=True)

    assert (planned["dry_run"], real["dry_run"], missing.json()["code"]) == (True, False, "licence_not_found")
    assert [view["status"] for view in dry] == ["in_force", "revoked", "in_force", "in_force"]
    assert [view["seats_used"] for view in dry] == [0, 0, 1, 0]
    assert all(view["dry_run"] for view in [*dry, keys])
    assert (keys["being_made"], (await vendor.get("/v1/licence-keys"))["being_made"]) == (True, False)
    after = (await vendor.get(f"/v1/licences/{id_}"))["licence"]
    assert (after["revision"], after["status"], after["seats_used"]) == (1, "in_force", 0)


async def test_requests_with_the_same_idempotency_key_are_executed_once(vendor):
    id_ = (await issue(vendor))["licence_id"]
    await in_force(vendor, id_)

    first = await post(vendor, f"/v1/licences/{id_}/renew", key="once")
    await in_force(vendor, id_, 2)
    again = await post(vendor, f"/v1/licences/{id_}/renew", key="once")

    assert first == again
    assert (await vendor.get(f"/v1/licences/{id_}"))["licence"]["revision"] == 2


@pytest.mark.parametrize("vendor", [{"licence_valid_s": 12}], indirect=True)
async def test_a_timer_renews_a_licence_before_it_expires(vendor):
    id_ = (await issue(vendor))["licence_id"]
    renewed = await in_force(vendor, id_, 2)

    facts = await vendor.log.facts("billing.licence_issued", "billing.licence_renewed", at_least=2)
    assert [fact.event.TYPE for fact in facts[:2]] == ["billing.licence_issued", "billing.licence_renewed"]
    assert facts[1].event.licence.issued_at < facts[0].event.licence.expires_at
    assert renewed["token"] != facts[0].event.token


async def test_a_licence_is_reissued_when_seats_or_entitlements_change(vendor):
    id_ = (await issue(vendor))["licence_id"]
    await in_force(vendor, id_)

    await vendor.record(bought(SubscriptionChanged, 4))
    more_seats = await in_force(vendor, id_, 2)
    await vendor.record(entitled(20))
    more_projects = await in_force(vendor, id_, 3)

    assert (more_seats["licence"]["seats"], more_seats["features"][0]["limit"]) == (4, 10)
    assert (more_projects["licence"]["seats"], more_projects["features"][0]["limit"]) == (4, 20)
    facts = await vendor.log.facts("billing.licence_reissued", at_least=2)
    assert [fact.event.licence.revision for fact in facts] == [2, 3]


async def test_a_licence_is_not_renewed_without_access_and_is_reissued_when_access_returns(vendor):
    id_ = (await issue(vendor))["licence_id"]
    first = await in_force(vendor, id_)

    await vendor.record(entitled(allows=False))

    async def without_renewal():
        found = await vendor.get(f"/v1/licences/{id_}")
        return found if found["licence"]["status"] == "lapsing" else None

    without_access = await until(without_renewal)
    refused = await post(vendor, f"/v1/licences/{id_}/renew", status=409)
    await vendor.record(entitled())
    again = await in_force(vendor, id_, 2)

    assert (without_access["token"], without_access["licence"]["renews_at"]) == (first["token"], None)
    assert refused["code"] == "subscription_gives_no_access"
    assert again["licence"]["status"] == "in_force"


async def test_a_licence_is_revoked_when_its_subscription_ends(vendor):
    id_ = (await issue(vendor))["licence_id"]
    token = (await in_force(vendor, id_))["token"]
    before = await revocations(vendor)

    await vendor.record(bought(SubscriptionEnded, access=AccessState.ENDED, retention_s=60))
    (fact,) = await vendor.log.facts("billing.licence_revoked")
    listed = await revocations(vendor, number=before.number + 1)

    assert (fact.event.origin, fact.event.licence_id) == ("subscription_ended", id_)
    with pytest.raises(LicenceRevokedError):
        verify_licence(token, await public_keys(vendor), datetime.now(UTC), listed)


@pytest.mark.parametrize("count", [0, 1, 25, 26])
async def test_all_pages_of_licences_are_listed_and_all_revoked_ones_are_on_the_signed_list(vendor, count):
    first = await revocations(vendor)
    for number in range(count):
        await vendor.record(of_tenant(number, bought(SubscriptionActivated)), of_tenant(number, entitled()))
    ids = [(await issue(vendor, f"ten_{number:032x}"))["licence_id"] for number in range(count)]
    for id_ in ids:
        await in_force(vendor, id_)
        await post(vendor, f"/v1/licences/{id_}/revoke", {"reason": "leaked"})

    pages, after = [], {}
    while after is not None:
        page = await vendor.get("/v1/licences", status="revoked", limit=25, **after)
        pages.append([each["licence_id"] for each in page["licences"]])
        after = {"after": page["next"]} if page["next"] else None
    signed = await revocations(vendor, number=first.number + count)

    assert [id_ for page in pages for id_ in page] == sorted(ids)
    assert max(map(len, pages)) <= 25
    assert {each.licence_id for each in signed.revoked} == set(ids)
    assert await vendor.get("/v1/licences", tenant=OTHER, limit=25) == {"licences": [], "next": None}


async def test_the_signed_list_covers_a_revoked_licence_and_not_the_one_issued_after_it(vendor):
    id_ = (await issue(vendor))["licence_id"]
    token = (await in_force(vendor, id_))["token"]
    before = await revocations(vendor)
    verify_licence(token, await public_keys(vendor), datetime.now(UTC), before)

    shown = await post(vendor, f"/v1/licences/{id_}/revoke", {"reason": "leaked"})
    listed = await revocations(vendor, number=before.number + 1)
    renewed = await post(vendor, f"/v1/licences/{id_}/renew", status=409)
    await issue(vendor)
    again = (await in_force(vendor, id_, 2))["token"]

    keys = await public_keys(vendor)
    assert (shown["status"], shown["revoked"], renewed["code"]) == ("revoked", "leaked", "licence_taken_back")
    with pytest.raises(LicenceRevokedError):
        verify_licence(token, keys, datetime.now(UTC), listed)
    assert verify_licence(again, keys, datetime.now(UTC), listed).revision == 2


async def test_licences_of_a_replaced_key_verify_unless_it_is_compromised(vendor):
    id_ = (await issue(vendor))["licence_id"]
    old = await in_force(vendor, id_)
    before = await revocations(vendor)

    await post(vendor, "/v1/licence-keys/rotate", {"reason": "every year"}, status=202)
    listed = await revocations(vendor, number=before.number + 1)
    keys = await public_keys(vendor)
    await post(vendor, f"/v1/licences/{id_}/renew")
    new = await in_force(vendor, id_, 2)

    states = {key["kid"]: key["state"] for key in (await vendor.get("/v1/licence-keys"))["keys"]}
    assert states == {old["licence"]["kid"]: "retiring", new["licence"]["kid"]: "active"}
    assert listed.kid == new["licence"]["kid"]
    for each in (old, new):
        verify_licence(each["token"], keys, datetime.now(UTC), listed)
    secrets = vendor.served.running.context.secrets
    first, second = (await vendor.log.facts("billing.licence_key_published", at_least=2))[:2]

    async def destroyed():
        return await secrets.latest(first.event.secret.removeprefix("secret://billing/").partition("?")[0]) is None

    await until(destroyed)
    assert await secrets.get(second.event.secret)

    await post(vendor, "/v1/licence-keys/rotate", {"reason": "stolen", "compromised": True}, status=202)
    await revocations(vendor, number=listed.number + 1)
    keys = await public_keys(vendor)
    verify_licence(old["token"], keys, datetime.now(UTC))
    with pytest.raises(UnknownLicenceKeyError):
        verify_licence(new["token"], keys, datetime.now(UTC))
    assert [key["state"] for key in (await vendor.get("/v1/licence-keys"))["keys"]] == ["retiring", "retired", "active"]


async def test_a_lost_key_is_reported_with_a_remedy_and_a_new_key_signs_again(vendor, tmp_path):
    id_ = (await issue(vendor))["licence_id"]
    first = await in_force(vendor, id_)
    shutil.rmtree(tmp_path / "secrets" / "billing" / "licence-keys")

    await post(vendor, f"/v1/licences/{id_}/renew")

    async def failed():
        return (await vendor.get(f"/v1/licences/{id_}"))["licence"]["failure"]

    failure = await until(failed)
    await post(vendor, "/v1/licence-keys/rotate", {"reason": "lost"}, status=202)

    async def rotated():
        return len((await vendor.get("/v1/licence-keys"))["keys"]) == 2

    await until(rotated)
    await post(vendor, f"/v1/licences/{id_}/renew")
    again = await in_force(vendor, id_, 3)

    assert first["licence"]["kid"] in failure
    assert "restore the store from its backup" in failure
    assert "paybill licence rotate-keys" in failure
    assert again["licence"]["failure"] is None


async def test_one_of_several_concurrent_activations_gets_the_last_seat(vendor, billing_settings):
    id_ = (await issue(vendor, seats=2))["licence_id"]
    await in_force(vendor, id_)
    await post(vendor, f"/v1/licences/{id_}/activate", {"machine": "0" * 64})
    other = await vendor.start(service(), vendor.served.running.settings.database_url, **billing_settings)

    answers = await asyncio.gather(
        *(
            client.post(f"/v1/licences/{id_}/activate", json={"machine": f"{number:064x}"})
            for number in range(1, 5)
            for client in (vendor.served.client, other.client)
        )
    )

    codes = {answer.json().get("code") for answer in answers if answer.status_code != 200}
    winners = {answer.request.content for answer in answers if answer.status_code == 200}
    assert (len(winners), codes) == (1, {"no_seat_left"})
    won = (await vendor.get(f"/v1/licences/{id_}/activations"))[-1]["machine"]
    again = await post(vendor, f"/v1/licences/{id_}/activate", {"machine": won})
    freed = await post(vendor, f"/v1/licences/{id_}/deactivate", {"machine": won})
    other = await post(vendor, f"/v1/licences/{id_}/activate", {"machine": machine_digest(id_, "other")})
    assert [view["seats_used"] for view in (again, freed, other)] == [2, 1, 2]


async def test_public_documents_need_no_key_and_refusals_have_codes(vendor):
    await revocations(vendor)
    for path in ("/.well-known/license-keys.json", "/.well-known/license-revocations"):
        first = await vendor.anonymous.get(path)
        again = await vendor.anonymous.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (first.headers["cache-control"], again.status_code, again.content) == ("public, max-age=300", 304, b"")
    assert (await vendor.anonymous.get("/v1/licences")).json()["code"] == "no_key"
    licence = f"/v1/licences/lic_{'0' * 32}"
    refused = [
        (f"/v1/tenants/{OTHER}/licences", {}, 404, "unknown_tenant"),
        (f"/v1/tenants/{OTHER}/licences", {"seats": -1}, 422, "invalid_request"),
        (f"/v1/tenants/{OTHER}/licences", {"valid_days": 400}, 422, "invalid_request"),
        (f"/v1/tenants/{OTHER}/licences", {"sets": 1}, 422, "invalid_request"),
        (f"{licence}/renew", None, 404, "licence_not_found"),
        (f"{licence}/activate", {"machine": "my-laptop"}, 422, "invalid_request"),
        ("/v1/licences/lic_1/renew", None, 422, "invalid_request"),
    ]

    for path, body, status, code in refused:
        assert (await post(vendor, path, body, status=status))["code"] == code, path


async def test_licences_replay_to_the_same_tables(vendor):
    id_ = (await issue(vendor, seats=1))["licence_id"]
    await in_force(vendor, id_)
    await post(vendor, f"/v1/licences/{id_}/activate", {"machine": "a" * 64})
    before = await revocations(vendor)
    await post(vendor, "/v1/licence-keys/rotate", {"reason": "x"}, status=202)
    await revocations(vendor, number=before.number + 1)
    await post(vendor, f"/v1/licences/{id_}/revoke", {"reason": "leaked"})
    await revocations(vendor, number=before.number + 2)
    await issue(vendor)
    await in_force(vendor, id_, 2)
    running = vendor.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()
