"""The HTTP API on a real PostgreSQL and a real NATS."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.providers import ProvidersConfigured
from paybill_runtime.http.auth import Role, make_key
from paybill_tenant.app import service
from tenant_samples import entitlements


async def test_a_request_is_recorded_and_shown_without_the_address(tenant, log, sign_up) -> None:
    answer = await tenant.client.post("/v1/tenants", json=sign_up)
    view = answer.json()
    (requested,) = await log.facts("tenant.tenant_requested")
    by_id = await tenant.client.get(f"/v1/tenants/{view['id']}")
    by_slug = await tenant.client.get("/v1/tenants/acme")

    assert answer.status_code == 202
    assert answer.headers["Location"] == view["links"]["self"] == f"/v1/tenants/{view['id']}"
    assert view | {"id": "", "links": ""} == {
        "id": "",
        "slug": "acme",
        "name": "Acme",
        "status": "requested",
        "plan": "pro",
        "region": "eu-1",
        "billing": {"access": "pending", "plan": "pro"},
        "infrastructure": "none",
        "holds": [],
        "environment": None,
        "failure": None,
        "retain_until": None,
        "offboards_at": None,
        "legal_holds": [],
        "waits_for": "the first payment",
        "approval": None,
        "debt": [],
        "requested_at": view["requested_at"],
        "links": "",
    }
    assert requested.event.tenant_id == view["id"]
    assert requested.event.contact_email.key == f"tenant/{view['id']}"
    assert requested.origin.actor == "operator:test"
    assert by_id.status_code == by_slug.status_code == 200
    assert by_id.json() == by_slug.json() == view


async def test_the_database_does_not_contain_the_address_in_plain_text(tenant, databases, sign_up) -> None:
    await tenant.client.post("/v1/tenants", json=sign_up, headers={"Idempotency-Key": "once"})
    url = tenant.running.settings.database_url
    tables = await databases.execute(
        url,
        "tenant",
        "SELECT format('SELECT t::text FROM %I.%I AS t', table_schema, table_name) AS query "
        "FROM information_schema.tables WHERE table_schema IN ('public', 'chassis')",
    )
    rows = [str(row) for table in tables for row in await databases.execute(url, "tenant", table["query"])]
    payloads = await databases.execute(
        url, "tenant", "SELECT convert_from(payload, 'UTF8') AS text FROM chassis.outbox"
    )
    everything = "\n".join([*rows, *(row["text"] for row in payloads)])

    assert "acme" in everything
    assert "somebody.unlikely" not in everything


async def test_a_request_may_name_only_a_payment_provider_that_billing_has(tenant, publish, log, sign_up) -> None:
    with_provider = sign_up | {"payment": "manual"}
    early = await tenant.client.post("/v1/tenants", json=with_provider)
    await publish(
        ProvidersConfigured(providers="providers", names=("manual",), default="manual", content_hash="e" * 64)
    )
    await log.facts("tenant.offering_noted", at_least=3)

    unknown = await tenant.client.post("/v1/tenants", json=sign_up | {"payment": "barter"})
    accepted = await tenant.client.post("/v1/tenants", json=with_provider)

    assert (early.status_code, early.json()["code"]) == (503, "offerings_not_published")
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_payment")
    assert accepted.status_code == 202
    (requested,) = await log.facts("tenant.tenant_requested")
    assert requested.event.payment == "manual"


async def test_a_request_may_name_an_existing_customer(tenant, log, sign_up) -> None:
    accepted = await tenant.client.post("/v1/tenants", json=sign_up | {"customer": "cus_9"})
    invalid = await tenant.client.post("/v1/tenants", json=sign_up | {"slug": "other", "customer": "cus 9"})

    assert (accepted.status_code, invalid.status_code) == (202, 422)
    (requested,) = await log.facts("tenant.tenant_requested")
    assert requested.event.customer == "cus_9"


async def test_a_request_before_the_options_are_published_is_refused_for_now(start, sign_up) -> None:
    tenant = await start(service())

    answer = await tenant.client.post("/v1/tenants", json=sign_up)

    assert answer.status_code == 503
    assert answer.json()["code"] == "offerings_not_published"


async def test_every_refusal_has_its_code(tenant, sign_up) -> None:
    await tenant.client.post("/v1/tenants", json=sign_up)
    unknown_id = f"ten_{'0' * 32}"
    cases = [
        ("/v1/tenants", sign_up | {"slug": "other", "plan": "gold"}, 422, "unknown_plan"),
        ("/v1/tenants", sign_up | {"slug": "other", "region": "moon-1"}, 422, "unknown_region"),
        ("/v1/tenants", sign_up | {"slug": "postgres"}, 422, "slug_reserved"),
        ("/v1/tenants", sign_up, 409, "slug_taken"),
        ("/v1/tenants/nobody/suspend", {"mode": "blocked", "reason": "r"}, 404, "tenant_not_found"),
        (f"/v1/tenants/{unknown_id}/resume", None, 404, "tenant_not_found"),
        (f"/v1/tenants/{unknown_id}/offboard", {"reason": "r"}, 404, "tenant_not_found"),
    ]
    for path, body, status, code in cases:
        answer = await tenant.client.post(path, json=body)

        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await tenant.client.get(f"/v1/tenants/{unknown_id}")).json()["code"] == "tenant_not_found"


async def test_a_malformed_request_is_refused_without_repeating_the_address(tenant, sign_up) -> None:
    cases = [
        sign_up | {"contact_email": address}
        for address in (
            "",
            "secret",
            "secret@",
            "@secret",
            "sec@ret@x",
            "sec ret@x",
            "secret\n@x",
            "secret\x85@x",
            "secret@localhost",
            "secret@x.example\u200b",
        )
    ]
    cases += [
        sign_up | {"contact_email": "secret@" + "x" * 254},
        sign_up | {"contact_email": 5},
        sign_up | {"slug": "Secret"},
        sign_up | {"slug": "s" * 41},
        sign_up | {"slug": "secret-"},
        sign_up | {"name": ""},
        sign_up | {"name": "secret\x1b[31m"},
        sign_up | {"name": "s" * 501},
        sign_up | {"name": "secret\u202e"},
        sign_up | {"name": " \u00a0"},
        sign_up | {"plan": "Pro"},
        sign_up | {"secret": "unknown field"},
        {key: value for key, value in sign_up.items() if key != "region"},
        [],
        "secret",
        None,
    ]
    for body in cases:
        answer = await tenant.client.post("/v1/tenants", json=body)

        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body
        assert "secret@" not in answer.text
    lone_surrogate = json.dumps(sign_up | {"name": "\ud800"})
    with_nul = json.dumps(sign_up | {"contact_email": "secret\x00@x"})
    for raw in (b"", b"{", b"\xff", b"[" * 100_000, lone_surrogate.encode(), with_nul.encode()):
        answer = await tenant.client.post("/v1/tenants", content=raw, headers={"Content-Type": "application/json"})

        assert answer.status_code in {400, 422}, raw[:20]
        assert "secret@" not in answer.text
    for path in (
        "/v1/tenants/ACME",
        "/v1/tenants/a%00b",
        "/v1/tenants?slug=%00",
        "/v1/tenants?limit=201",
        "/v1/tenants?limit=0",
        "/v1/tenants?status=gone",
        "/v1/tenants?after=ACME",
    ):
        assert (await tenant.client.get(path)).json()["code"] == "invalid_request", path


async def test_a_repeated_idempotency_key_creates_one_tenant(tenant, log, sign_up) -> None:
    once = {"Idempotency-Key": "sign-up-1"}
    first = await tenant.client.post("/v1/tenants", json=sign_up, headers=once)
    second = await tenant.client.post("/v1/tenants", json=sign_up, headers=once)
    other = await tenant.client.post("/v1/tenants", json=sign_up | {"slug": "other"}, headers=once)

    assert second.status_code == 202
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(await log.facts("tenant.tenant_requested")) == 1


async def test_one_of_many_concurrent_requests_gets_a_slug(tenant, sign_up) -> None:
    answers = await asyncio.gather(*(tenant.client.post("/v1/tenants", json=sign_up) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert {answer.json().get("code") for answer in answers if answer.status_code == 409} == {"slug_taken"}


async def test_tenants_are_listed_by_slug_in_pages(tenant, sign_up) -> None:
    for slug in ("delta", "alpha", "charlie", "bravo", "echo"):
        assert (await tenant.client.post("/v1/tenants", json=sign_up | {"slug": slug})).status_code == 202
    await tenant.client.post("/v1/tenants/bravo/offboard", json={"reason": "gone"})
    pages, after = [], {}
    while True:
        page = (await tenant.client.get("/v1/tenants", params={"limit": 2, **after})).json()
        pages.append([each["slug"] for each in page["tenants"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    cancelled = (await tenant.client.get("/v1/tenants", params={"status": "cancelled"})).json()
    one = (await tenant.client.get("/v1/tenants", params={"slug": "echo"})).json()
    none = (await tenant.client.get("/v1/tenants", params={"slug": "echo", "status": "active"})).json()

    assert pages == [["alpha", "bravo"], ["charlie", "delta"], ["echo"]]
    assert [each["slug"] for each in cancelled["tenants"]] == ["bravo"]
    assert [each["slug"] for each in one["tenants"]] == ["echo"]
    assert none == {"tenants": [], "next": None}


async def test_the_list_has_billing_infrastructure_and_age_and_filters_by_them(
    tenant, publish, log, about, sign_up
) -> None:
    regions = Blueprint(name="main", version=1, regions=("eu-1", "us-1"), cells=(), tiers=(), tables=())
    await publish(BlueprintPublished(blueprint="main", content=regions, content_hash="f" * 64))
    await log.facts("tenant.offering_noted", at_least=3)
    ids = {}
    for slug, region in (("alpha", "eu-1"), ("bravo", "eu-1"), ("charlie", "us-1")):
        requested = await tenant.client.post("/v1/tenants", json=sign_up | {"slug": slug, "region": region})
        ids[slug] = requested.json()["id"]
    facts = about(ids["bravo"])
    upgraded = entitlements(ids["bravo"], allows=True).model_copy(
        update={"plan": PlanRef(plan="starter", version=1, catalogue_hash="c" * 64)}
    )
    await publish(facts.registered, upgraded, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")

    async def slugs(**query) -> list[str]:
        answer = await tenant.client.get("/v1/tenants", params=query)
        return [each["slug"] for each in answer.json()["tenants"]]

    async def pages(**query) -> list[list[str]]:
        found, after = [], {}
        while True:
            page = (await tenant.client.get("/v1/tenants", params={"limit": 1, **query, **after})).json()
            found.append([each["slug"] for each in page["tenants"]])
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    (bravo,) = (await tenant.client.get("/v1/tenants", params={"slug": "bravo"})).json()["tenants"]

    assert (bravo["billing"], bravo["infrastructure"]) == ({"access": "entitled", "plan": "starter"}, "ready")
    assert datetime.now(UTC) - datetime.fromisoformat(bravo["requested_at"]) < timedelta(minutes=5)
    assert await slugs(plan="starter") == ["bravo"]
    assert await slugs(plan="pro") == ["alpha", "charlie"]
    assert await slugs(region="us-1") == ["charlie"]
    assert await slugs(id=[ids["alpha"], ids["charlie"]], region="eu-1") == ["alpha"]
    assert await slugs(plan="starter", status="requested") == []
    assert await pages(region="eu-1") == [["alpha"], ["bravo"]]


async def test_an_operator_suspends_resumes_and_offboards(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)
    await publish(facts.registered, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")

    async def act(verb: str, body: object = None) -> dict:
        answer = await tenant.client.post(f"/v1/tenants/acme/{verb}", json=body)
        return answer.json() | {"http": answer.status_code}

    read_only = await act("suspend", {"mode": "read_only", "reason": "audit"})
    again = await act("suspend", {"mode": "read_only", "reason": "audit"})
    resumed = await act("resume")
    left = await act("offboard", {"reason": "closed"})
    refused = await act("suspend", {"mode": "blocked", "reason": "late"})

    assert (read_only["http"], read_only["status"]) == (200, "suspended")
    assert read_only["holds"] == [{"origin": "operator", "mode": "read_only", "reason": "audit"}]
    assert read_only["environment"] == {"id": f"env_{tenant_id[4:]}", "epoch": 1}
    assert again == read_only
    assert (resumed["status"], resumed["holds"]) == ("active", [])
    assert left["status"] == "offboarding"
    assert datetime.fromisoformat(left["retain_until"]) > datetime.now(UTC) + timedelta(hours=23)
    assert (refused["http"], refused["code"]) == (409, "tenant_left")
    assert len(await log.facts("tenant.tenant_suspended")) == 1


async def test_a_viewer_may_read_and_an_operator_may_write(tenant, sign_up) -> None:
    path = tenant.running.settings.api_keys_file
    until = datetime.now(UTC) + timedelta(days=1)
    viewer = make_key("viewer", "viewer", Role.VIEWER, ("*",), until)
    read_only = make_key("reader", "reader", Role.ADMIN, ("tenant:read",), until)
    operator = make_key("operator", "operator", Role.OPERATOR, ("tenant:write",), until)
    path.write_text(json.dumps({"keys": [viewer.stored, read_only.stored, operator.stored]}))

    async def get(key) -> int:
        return (await tenant.client.get("/v1/tenants", headers={"Authorization": f"Bearer {key.raw}"})).status_code

    async def post(key) -> int:
        headers = {"Authorization": f"Bearer {key.raw}"}
        return (await tenant.client.post("/v1/tenants", json=sign_up, headers=headers)).status_code

    assert [await get(viewer), await get(read_only), await get(operator)] == [200, 200, 403]
    assert [await post(viewer), await post(read_only), await post(operator)] == [403, 403, 202]
    assert (await tenant.client.get("/v1/tenants", headers={"Authorization": ""})).status_code == 401


async def test_every_route_and_parameter_is_documented(tenant) -> None:
    document = (await tenant.client.get("/openapi.json")).json()
    routes = {path: methods for path, methods in document["paths"].items() if path.startswith("/v1/tenants")}

    assert sum(len(methods) for methods in routes.values()) == 12
    assert all(method["description"] for methods in routes.values() for method in methods.values())
    assert all(
        parameter["description"]
        for methods in routes.values()
        for method in methods.values()
        for parameter in method.get("parameters", [])
        if parameter["in"] != "header"
    )


async def test_a_quote_is_refused_as_the_request_would_be_and_changes_nothing(tenant, sign_up) -> None:
    async def quoted(**changes):
        answer = await tenant.client.post("/v1/tenants/quote", json=sign_up | changes)
        return answer.status_code, answer.json().get("code")

    accepted = [await quoted() for _ in range(2)]
    refused = await quoted(region="moon-1")
    await tenant.client.post("/v1/tenants", json=sign_up)

    assert accepted == [(200, None), (200, None)]
    assert refused == (422, "unknown_region")
    assert await quoted() == (409, "slug_taken")


async def test_a_dry_run_of_a_sign_up_finds_the_executed_request(tenant, log, sign_up) -> None:
    async def dry_run(key):
        headers = {"Idempotency-Key": key, "Dry-Run": "true"}
        return (await tenant.client.post("/v1/tenants", json=sign_up, headers=headers)).json()

    before = await dry_run("sign-up-2")
    done = await tenant.client.post("/v1/tenants", json=sign_up, headers={"Idempotency-Key": "sign-up-2"})
    after, other = await dry_run("sign-up-2"), await dry_run("sign-up-3")

    assert (before["already_executed"], [each["type"] for each in before["would_record"]]) == (
        False,
        ["tenant.tenant_requested"],
    )
    assert (after["already_executed"], after["result"]) == (True, done.json())
    assert other["code"] == "slug_taken"
    assert len(await log.facts("tenant.tenant_requested")) == 1


@pytest.mark.parametrize("slug", ["a", "a-b", "a1"])
async def test_short_slugs_are_valid(tenant, sign_up, slug) -> None:
    assert (await tenant.client.post("/v1/tenants", json=sign_up | {"slug": slug})).status_code == 202
