"""API keys: rules of their rights, and their life over HTTP on real servers."""

import json
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.api_keys import KeyCreated, KeyRole
from paybill_runtime.database.pool import Database
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.replay.verify import replay
from paybill_runtime.settings import read_secret
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.domain.api_keys import (
    MAX_LIFETIME,
    SCOPES,
    ApiKey,
    KeyExceedsRightsError,
    KeyExpiryError,
    KeyInFileError,
    KeyNotFoundError,
    Rights,
    UnknownScopeError,
    create,
    evolve,
    existing,
    revoke,
)

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ADMIN = Rights(KeyRole.ADMIN, {"*"})
STAFF, OPERATOR = "user:staff-17", "user:test"
roles = st.sampled_from(list(KeyRole))
scopes = st.lists(st.sampled_from(SCOPES), min_size=1, max_size=4, unique=True).map(tuple)


def requested(role=KeyRole.VIEWER, scopes=("tenant:read",), expires_at=NOW + timedelta(days=1)) -> KeyCreated:
    return KeyCreated(
        key_id="key-1",
        name="reports",
        subject=STAFF,
        role=role,
        scopes=scopes,
        sha256="0" * 64,
        created_by=OPERATOR,
        created_at=NOW,
        expires_at=expires_at,
    )


def a_key() -> ApiKey:
    (fact,) = create(requested(), ADMIN, NOW)
    return evolve(None, fact)


def permissions(rights: Rights) -> set[tuple[Role, str]]:
    """Returns the pairs of role and scope of a route that a key with these rights may call."""
    routes = product(Role, (scope for scope in SCOPES if scope != "*"))
    return {
        (role, scope)
        for role, scope in routes
        if Role[rights.role.name] >= role and not {"*", scope}.isdisjoint(rights.scopes)
    }


@given(role=roles, own=scopes, other_role=roles, other=scopes)
def test_no_key_may_do_more_than_the_key_that_creates_it(role, own, other_role, other) -> None:
    """The oracle is the check of a request: every route that the new key may call, the creating key may call too."""
    creator = Rights(role, own)
    try:
        create(requested(other_role, other), creator, NOW)
    except KeyExceedsRightsError:
        assert not creator.include(Rights(other_role, other))
    else:
        assert permissions(Rights(other_role, other)) <= permissions(creator)
        assert "*" in own or "*" not in other, "a service that is added later is not included in the others"


@given(role=roles, own=scopes)
def test_a_key_may_create_its_equal(role, own) -> None:
    assert create(requested(role, own), Rights(role, own), NOW) == [requested(role, own)]


@pytest.mark.parametrize("after", [timedelta(), timedelta(seconds=-1), MAX_LIFETIME + timedelta(seconds=1)], ids=str)
def test_a_key_ends_after_now_and_within_a_year(after: timedelta) -> None:
    with pytest.raises(KeyExpiryError):
        create(requested(expires_at=NOW + after), ADMIN, NOW)

    assert create(requested(expires_at=NOW + MAX_LIFETIME), ADMIN, NOW)


def test_a_scope_of_no_service_is_refused_because_it_would_give_nothing() -> None:
    with pytest.raises(UnknownScopeError, match="tenants:read: no such scope; the scopes are"):
        create(requested(scopes=("tenants:read",)), ADMIN, NOW)


def test_a_key_is_revoked_once_and_its_revocation_names_both_persons() -> None:
    key = a_key()

    (fact,) = revoke(key, OPERATOR, NOW)
    after = evolve(key, fact)

    assert (fact.subject, fact.revoked_by, after.revoked_at) == (STAFF, OPERATOR, NOW)
    assert revoke(after, OPERATOR, NOW) == []


def test_a_key_of_the_file_is_no_key_that_a_command_revokes() -> None:
    with pytest.raises(KeyInFileError):
        existing(None, "op1", {"op1"})
    with pytest.raises(KeyNotFoundError):
        existing(None, "key-1", {"op1"})


@pytest.fixture
async def tenant(start):
    """Returns the running service."""
    return await start(service())


def body(**changes) -> dict[str, object]:
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return {
        "name": "reports",
        "subject": STAFF,
        "role": "viewer",
        "scopes": ["tenant:read"],
        "expires_at": later,
    } | changes


async def created(tenant, key: str = "", **changes):
    headers = _bearer(key) if key else {}
    return await tenant.client.post("/v1/keys", json=body(**changes), headers=headers)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def status(tenant, key: str, method: str = "GET", path: str = "/v1/tenants") -> int:
    return (await tenant.client.request(method, path, headers=_bearer(key))).status_code


async def test_a_key_is_shown_once_and_only_its_hash_is_kept(tenant, log, databases) -> None:
    done = (await created(tenant)).json()
    (fact,) = await log.facts("tenant.key_created")
    shown = (await tenant.client.get(f"/v1/keys/{done['id']}")).json()
    listed = (await tenant.client.get("/v1/keys")).json()["keys"]
    url = tenant.running.settings.database_url
    secret = done["key"].split("_", 2)[2]  # it may contain "_" itself

    assert await status(tenant, done["key"]) == 200
    assert (fact.event.key_id, fact.event.subject, fact.event.created_by) == (done["id"], STAFF, OPERATOR)
    assert fact.origin.actor == "operator:test"
    assert "key" not in shown
    assert "sha256" not in shown
    assert [(each["id"], each["source"], each["status"]) for each in listed] == [
        ("test", "file", "active"),
        (done["id"], "command", "active"),
    ]
    for table in ("api_keys", "chassis.outbox", "chassis.api_key", "chassis.idempotency"):
        found = await databases.execute(url, "tenant", f"SELECT t::text FROM {table} AS t")  # our own names
        assert not [row for row in found if secret in row[0]], table
    assert secret.encode() not in (await databases.execute(url, "tenant", "SELECT payload FROM chassis.outbox"))[0][0]


async def test_a_repeated_request_creates_no_second_key_and_does_not_have_the_key_again(tenant, log, databases) -> None:
    request = body()

    async def send():
        return (await tenant.client.post("/v1/keys", json=request, headers={"Idempotency-Key": "once"})).json()

    first, again = await send(), await send()
    kept = await databases.execute(
        tenant.running.settings.database_url, "tenant", "SELECT answer FROM chassis.idempotency"
    )

    assert first["key"].startswith(f"pbk_{first['id']}_")
    assert again == first | {"key": None}
    assert first["key"].split("_", 2)[2] not in kept[0][0]
    assert len(await log.facts("tenant.key_created")) == 1


async def test_a_revoked_key_is_refused_at_once_by_the_service_that_revokes_it(tenant, log) -> None:
    done = (await created(tenant)).json()
    before = await status(tenant, done["key"])
    path = f"/v1/keys/{done['id']}/revoke"

    dry_run = (await tenant.client.post(path, headers={"Dry-Run": "true"})).json()
    still = await status(tenant, done["key"])
    revoked = (await tenant.client.post(path)).json()
    after = await status(tenant, done["key"])
    again = (await tenant.client.post(path)).json()

    assert (before, still, after) == (200, 200, 401)
    assert [each["type"] for each in dry_run["would_record"]] == ["tenant.key_revoked"]
    assert (revoked["status"], revoked["revoked_by"]) == ("revoked", OPERATOR)
    assert again == revoked
    assert len(await log.facts("tenant.key_revoked")) == 1


@pytest.mark.own_nats
async def test_a_revocation_without_nats_survives_a_restart(start, databases, nats) -> None:
    url = await databases.fresh("tenant")
    tenant = await start(service(), url)
    done = (await created(tenant)).json()
    nats.stop()

    revoked = await tenant.client.post(f"/v1/keys/{done['id']}/revoke")
    successor = await start(service(), url)

    assert revoked.status_code == 200
    assert await status(tenant, done["key"]) == 401
    assert await status(successor, done["key"]) == 401


async def test_keys_are_managed_by_admins_and_never_give_more_rights_than_they_have(tenant) -> None:
    async def key(role: str, *scopes: str) -> str:
        return (await created(tenant, role=role, scopes=scopes)).json()["key"]

    limited = await key("admin", "tenant:read", "tenant:write")
    approver, admin_viewer = await key("approver", "*"), await key("admin", "tenant:read")
    refused = [
        (await created(tenant, limited, role="admin", scopes=["*"])).json(),
        (await created(tenant, limited, scopes=["tenant:read", "billing:read"])).json(),
    ]
    allowed = await created(tenant, limited, role="admin", scopes=["tenant:read"])

    assert [each["code"] for each in refused] == ["key_exceeds_rights"] * 2
    assert allowed.status_code == 201
    assert allowed.json()["created_by"] == STAFF
    assert (await created(tenant, approver)).json()["code"] == "wrong_scope"
    assert (await created(tenant, admin_viewer)).json()["code"] == "wrong_scope"
    assert [await status(tenant, each, path="/v1/keys") for each in (limited, admin_viewer, approver)] == [
        200,
        200,
        403,
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": "staff-17"}, "invalid_request"),
        ({"subject": "agent:a"}, "invalid_request"),
        ({"role": "owner"}, "invalid_request"),
        ({"scopes": []}, "invalid_request"),
        ({"scopes": ["tenant"]}, "invalid_request"),
        ({"scopes": ["tenants:read"]}, "unknown_scope"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "key_expiry_out_of_range"),
        ({"expires_at": "2126-01-01"}, "invalid_request"),
        ({"expires_at": None}, "invalid_request"),
        ({"lifetime_s": 60}, "invalid_request"),
        ({"expires_at": None, "lifetime_s": 0}, "invalid_request"),
        ({"expires_at": None, "lifetime_s": 367 * 86_400}, "key_expiry_out_of_range"),
        ({"name": "Reports of Q1"}, "invalid_request"),
        ({"sha256": "0" * 64}, "invalid_request"),
    ],
    ids=str,
)
async def test_a_wrong_request_is_refused_with_its_reason(tenant, changes, code) -> None:
    answer = await created(tenant, **changes)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_the_keys_of_the_file_are_listed_and_cannot_be_revoked(tenant) -> None:
    in_file = await tenant.client.post("/v1/keys/test/revoke")
    unknown = await tenant.client.post("/v1/keys/key-unknown/revoke")
    shown = (await tenant.client.get("/v1/keys/test")).json()

    assert (in_file.status_code, in_file.json()["code"]) == (409, "key_in_file")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "key_not_found")
    assert (shown["source"], shown["subject"], shown["created_by"]) == ("file", "user:test", None)
    assert (await tenant.client.get("/v1/tenants")).status_code == 200


async def test_two_keys_of_one_subject_are_listed_as_those_of_one_person(tenant) -> None:
    made = [(await created(tenant, subject=subject)).json()["id"] for subject in (STAFF, STAFF, "service:reports")]

    async def listed(**query) -> list[str]:
        return [each["id"] for each in (await tenant.client.get("/v1/keys", params=query)).json()["keys"]]

    first = (await tenant.client.get("/v1/keys", params={"limit": 2})).json()
    second = (await tenant.client.get("/v1/keys", params={"limit": 2, "after": first["next"]})).json()

    assert await listed(subject=STAFF) == sorted(made[:2])
    assert await listed(subject="user:test") == ["test"]
    assert [each["id"] for each in (*first["keys"], *second["keys"])] == ["test", *sorted(made)]
    assert second["next"] is None


async def test_a_key_of_the_file_keeps_priority_over_a_command(tenant) -> None:
    done = (await created(tenant)).json()
    path = tenant.running.settings.api_keys_file
    taken = make_key(done["id"], "taken", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
    path.write_text(json.dumps({"keys": [*json.loads(path.read_text())["keys"], taken.stored]}))

    assert await status(tenant, done["key"]) == 401
    assert await status(tenant, taken.raw) == 200


async def test_an_expired_key_is_listed_as_such(tenant) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    done = (await created(tenant, expires_at=soon.isoformat())).json()

    async def is_refused() -> bool:
        return await status(tenant, done["key"]) == 401

    await until(is_refused)
    shown = (await tenant.client.get(f"/v1/keys/{done['id']}")).json()

    assert datetime.now(UTC) >= soon
    assert shown["status"] == "expired"


async def _relayed(tenant) -> bool:
    return (await tenant.client.get("/v1/operations")).json()["outbox_waiting"] == 0


async def test_a_replay_rebuilds_the_table_of_keys(tenant, databases) -> None:
    done = (await created(tenant)).json()
    await tenant.client.post(f"/v1/keys/{done['id']}/revoke")
    settings = tenant.running.settings
    await until(lambda: _relayed(tenant))
    await tenant.running.__aexit__()
    before = await databases.execute(settings.database_url, "tenant", "SELECT * FROM api_keys")
    await databases.execute(settings.database_url, "tenant", "DELETE FROM api_keys")
    database = Database(settings.database_url, read_secret(settings.database_password_file), "replay")
    try:
        missing = await replay(service(), settings, database)
        rebuilt = await replay(service(), settings, database, rebuild=True)
        equal = await replay(service(), settings, database)
    finally:
        await database.close()

    assert (missing.equal, rebuilt.rebuilt, equal.equal) == (False, True, True)
    assert await databases.execute(settings.database_url, "tenant", "SELECT * FROM api_keys") == before
