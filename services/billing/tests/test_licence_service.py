"""Licences on real servers: issued, renewed, reissued, revoked, activated, and verified as whoever holds one does."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from billing_world import eventually
from licence_world import (
    SUBSCRIPTION,
    TENANT,
    Vendor,
    bought,
    entitled,
    in_force,
    issue,
    post,
    public_keys,
    revocations,
)
from paybill_billing.app import service
from paybill_contracts.billing import AccessState, SubscriptionActivated, SubscriptionChanged, SubscriptionEnded
from paybill_licence import LicenceRevokedError, UnknownLicenceKeyError, machine_digest, verify_licence
from paybill_runtime.replay.verify import replay
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
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as anybody:
        found = Vendor(served, log, anybody, start)
        await found.say(bought(SubscriptionActivated), entitled())
        yield found


async def test_a_licence_is_issued_signed_and_verified_with_what_anybody_may_fetch(vendor):
    asked = await issue(vendor, seats=3)
    found = await in_force(vendor, asked["licence_id"])

    said = verify_licence(found["token"], await public_keys(vendor), datetime.now(UTC))
    assert (asked["status"], asked["pending"]["purpose"]) == ("signing", "issue")
    assert (said.tenant_id, said.subscription_id, said.seats) == (TENANT, SUBSCRIPTION, 3)
    assert said.expires_at - said.issued_at == timedelta(days=30)
    assert [feature.model_dump(mode="json") for feature in said.features] == found["features"]
    listed = await vendor.get("/v1/licences", tenant=TENANT, status="in_force", kid=said.kid)
    assert listed == {"licences": [found["licence"]], "next": None}
    assert await vendor.get("/v1/licences", tenant=OTHER) == {"licences": [], "next": None}


async def test_no_private_half_of_a_key_is_in_a_fact_or_an_answer(vendor, tmp_path):
    await in_force(vendor, (await issue(vendor))["licence_id"])
    (fact,) = await vendor.log.facts("billing.licence_key_published")
    private = (await vendor.served.running.context.secrets.get(fact.event.secret)).encode()

    shown = [await vendor.get("/v1/licence-keys"), (await vendor.anybody.get("/.well-known/license-keys.json")).json()]
    every = text("SELECT payload FROM chassis.outbox UNION ALL SELECT state::text::bytea FROM licence_keys")
    kept = await vendor.served.running.context.rows(every)
    assert len(kept) > 4
    assert all(private not in bytes(row[0]) for row in kept)
    assert private.decode() not in str(shown)
    assert all(private not in path.read_bytes() for path in (tmp_path / "secrets").rglob("*") if path.is_file())


async def test_a_dry_run_shows_what_would_come_of_it_and_changes_nothing(vendor):
    tried = await post(vendor, f"/v1/tenants/{TENANT}/licences", {"seats": 2}, status=202, key="k", dry_run=True)
    none = await vendor.served.client.get(f"/v1/licences/{tried['licence_id']}")
    real = await post(vendor, f"/v1/tenants/{TENANT}/licences", {"seats": 2}, status=202, key="k")
    id_ = (await in_force(vendor, real["licence_id"]))["licence"]["licence_id"]
    dry = [
        await post(vendor, f"/v1/licences/{id_}/renew", dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/revoke", {"reason": "x"}, dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/activate", {"machine": "a" * 64}, dry_run=True),
        await post(vendor, f"/v1/licences/{id_}/deactivate", {"machine": "a" * 64}, dry_run=True),
    ]
    keys = await post(vendor, "/v1/licence-keys/rotate", {"reason": "x"}, status=202, dry_run=True)

    assert (tried["dry_run"], real["dry_run"], none.json()["code"]) == (True, False, "licence_not_found")
    assert [view["status"] for view in dry] == ["in_force", "revoked", "in_force", "in_force"]
    assert [view["seats_used"] for view in dry] == [0, 0, 1, 0]
    assert all(view["dry_run"] for view in [*dry, keys])
    assert (keys["being_made"], (await vendor.get("/v1/licence-keys"))["being_made"]) == (True, False)
    after = (await vendor.get(f"/v1/licences/{id_}"))["licence"]
    assert (after["revision"], after["status"], after["seats_used"]) == (1, "in_force", 0)


async def test_the_same_request_under_one_key_is_done_once(vendor):
    id_ = (await issue(vendor))["licence_id"]
    await in_force(vendor, id_)

    first = await post(vendor, f"/v1/licences/{id_}/renew", key="once")
    await in_force(vendor, id_, 2)
    again = await post(vendor, f"/v1/licences/{id_}/renew", key="once")

    assert first == again
    assert (await vendor.get(f"/v1/licences/{id_}"))["licence"]["revision"] == 2


@pytest.mark.parametrize("vendor", [{"licence_valid_s": 3}], indirect=True)
async def test_a_licence_is_renewed_by_the_clock_before_it_ends(vendor):
    id_ = (await issue(vendor))["licence_id"]
    renewed = await in_force(vendor, id_, 2)

    facts = await vendor.log.facts("billing.licence_issued", "billing.licence_renewed", at_least=2)
    assert [fact.event.TYPE for fact in facts[:2]] == ["billing.licence_issued", "billing.licence_renewed"]
    assert facts[1].event.licence.issued_at < facts[0].event.licence.expires_at
    assert renewed["token"] != facts[0].event.token


async def test_a_licence_says_so_when_what_was_bought_changes(vendor):
    id_ = (await issue(vendor))["licence_id"]
    await in_force(vendor, id_)

    await vendor.say(bought(SubscriptionChanged, 4))
    more_seats = await in_force(vendor, id_, 2)
    await vendor.say(entitled(20))
    more_projects = await in_force(vendor, id_, 3)

    assert (more_seats["licence"]["seats"], more_seats["features"][0]["limit"]) == (4, 10)
    assert (more_projects["licence"]["seats"], more_projects["features"][0]["limit"]) == (4, 20)
    facts = await vendor.log.facts("billing.licence_reissued", at_least=2)
    assert [fact.event.licence.revision for fact in facts] == [2, 3]


async def test_a_licence_lapses_while_nothing_is_paid_and_is_signed_anew_when_it_is(vendor):
    id_ = (await issue(vendor))["licence_id"]
    first = await in_force(vendor, id_)

    await vendor.say(entitled(allows=False))

    async def lapsing():
        found = await vendor.get(f"/v1/licences/{id_}")
        return found if found["licence"]["status"] == "lapsing" else None

    lapsed = await eventually(lapsing)
    refused = await post(vendor, f"/v1/licences/{id_}/renew", status=409)
    await vendor.say(entitled())
    again = await in_force(vendor, id_, 2)

    assert (lapsed["token"], lapsed["licence"]["renews_at"]) == (first["token"], None)
    assert refused["code"] == "subscription_gives_no_access"
    assert again["licence"]["status"] == "in_force"


async def test_a_licence_ends_with_its_subscription(vendor):
    id_ = (await issue(vendor))["licence_id"]
    token = (await in_force(vendor, id_))["token"]
    before = await revocations(vendor)

    await vendor.say(bought(SubscriptionEnded, access=AccessState.ENDED, retention_s=60))
    (fact,) = await vendor.log.facts("billing.licence_revoked")
    listed = await revocations(vendor, number=before.number + 1)

    assert (fact.event.origin, fact.event.licence_id) == ("subscription_ended", id_)
    with pytest.raises(LicenceRevokedError):
        verify_licence(token, await public_keys(vendor), datetime.now(UTC), listed)


async def test_a_revoked_licence_is_on_the_signed_list_and_the_one_issued_after_it_is_not(vendor):
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


async def test_what_a_key_signed_verifies_after_another_took_over_unless_it_is_compromised(vendor):
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

    await eventually(destroyed)
    assert await secrets.get(second.event.secret)

    await post(vendor, "/v1/licence-keys/rotate", {"reason": "stolen", "compromised": True}, status=202)
    await revocations(vendor, number=listed.number + 1)
    keys = await public_keys(vendor)
    verify_licence(old["token"], keys, datetime.now(UTC))
    with pytest.raises(UnknownLicenceKeyError):
        verify_licence(new["token"], keys, datetime.now(UTC))
    assert [key["state"] for key in (await vendor.get("/v1/licence-keys"))["keys"]] == ["retiring", "retired", "active"]


async def test_a_key_that_is_lost_is_named_with_what_to_do_and_a_new_one_signs_again(vendor, tmp_path):
    id_ = (await issue(vendor))["licence_id"]
    first = await in_force(vendor, id_)
    shutil.rmtree(tmp_path / "secrets" / "billing" / "licence-keys")

    await post(vendor, f"/v1/licences/{id_}/renew")

    async def failed():
        return (await vendor.get(f"/v1/licences/{id_}"))["licence"]["failure"]

    failure = await eventually(failed)
    await post(vendor, "/v1/licence-keys/rotate", {"reason": "lost"}, status=202)

    async def rotated():
        return len((await vendor.get("/v1/licence-keys"))["keys"]) == 2

    await eventually(rotated)
    await post(vendor, f"/v1/licences/{id_}/renew")
    again = await in_force(vendor, id_, 3)

    assert first["licence"]["kid"] in failure
    assert "restore the store from its backup" in failure
    assert "paybill licence rotate-keys" in failure
    assert again["licence"]["failure"] is None


async def test_of_machines_that_want_the_last_seat_at_once_one_gets_it_and_gives_it_back(vendor, billing_settings):
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


async def test_what_anybody_may_fetch_needs_no_key_and_everything_else_that_is_refused_has_a_code(vendor):
    await revocations(vendor)
    for path in ("/.well-known/license-keys.json", "/.well-known/license-revocations"):
        first = await vendor.anybody.get(path)
        again = await vendor.anybody.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (first.headers["cache-control"], again.status_code, again.content) == ("public, max-age=300", 304, b"")
    assert (await vendor.anybody.get("/v1/licences")).json()["code"] == "no_key"
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
