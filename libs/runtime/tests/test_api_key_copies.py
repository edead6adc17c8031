"""Keys that were created by command, in every process: accepted, refused after a revocation, and kept over restarts."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends
from paybill_contracts.api_keys import KeyCreated, KeyRevoked, KeyRole
from paybill_contracts.tenant import LifecyclePolicySet
from paybill_runtime import clock
from paybill_runtime.app import Service
from paybill_runtime.http.auth import ApiKey, KeyRing, NewKey, Role, make_key
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router
from paybill_runtime.messaging.api_key_copies import FACTS
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.testing import until

STAFF = "user:staff-17"


def service() -> Service:
    """Returns a service with one route, whose handler of a fact without a tenant fails."""
    subscriptions = Subscriptions()

    @subscriptions.fact(LifecyclePolicySet)
    def fails(*_: object) -> None:
        raise RuntimeError("this fact cannot be handled")

    def router(_: object) -> APIRouter:
        routes = Router()

        @routes.get("/v1/reports")
        async def reports(principal: Annotated[Caller, Depends(caller(Role.VIEWER, "billing:read"))]) -> dict[str, str]:
            """Reports its caller."""
            return {"key": principal.id, "subject": principal.subject, "actor": principal.origin.actor}

        return routes

    return Service(name="billing", settings=ServiceSettings, subscriptions=subscriptions, router=router)


def made(id_: str, *, lifetime: timedelta = timedelta(days=1)) -> tuple[NewKey, KeyCreated]:
    """Returns a new key that may read, and its fact."""
    now = clock.now()
    key = make_key(id_, "reports", Role.VIEWER, ("billing:read",), now + lifetime, STAFF)
    fact = KeyCreated(
        key_id=id_,
        name="reports",
        subject=STAFF,
        role=KeyRole.VIEWER,
        scopes=("billing:read",),
        sha256=key.stored["sha256"],
        created_by="user:operator",
        created_at=now,
        expires_at=now + lifetime,
    )
    return key, fact


def revoked(id_: str) -> KeyRevoked:
    return KeyRevoked(key_id=id_, subject=STAFF, revoked_by="user:operator", revoked_at=clock.now())


async def answer(served, key: NewKey) -> httpx.Response:
    return await served.client.get("/v1/reports", headers={"Authorization": f"Bearer {key.raw}"})


async def accepted(served, key: NewKey) -> bool:
    return (await answer(served, key)).status_code == 200


async def refused(served, key: NewKey) -> bool:
    return not await accepted(served, key)


async def test_every_process_accepts_a_new_key_and_refuses_it_within_a_second_of_its_revocation(
    start, publish, databases
) -> None:
    url = await databases.fresh("billing")
    first = await start(service(), url)
    replica = await start(service(), url)
    key, fact = made("key-1")

    await publish(fact, copies=2)
    for process in (first, replica):
        await until(lambda process=process: accepted(process, key))
    began = time.monotonic()
    await publish(revoked("key-1"))
    for process in (first, replica):
        await until(lambda process=process: refused(process, key), timeout_s=1)

    assert time.monotonic() - began < 1
    assert (await answer(first, key)).json()["code"] == "wrong_key"


async def test_two_keys_of_one_person_are_two_actors_with_one_subject(start, publish) -> None:
    served = await start(service())
    (one, its_fact), (other, other_fact) = made("key-1"), made("key-2")
    await publish(its_fact, other_fact)
    await until(lambda: accepted(served, other))

    callers = [(await answer(served, key)).json() for key in (one, other)]

    assert callers == [{"key": id_, "subject": STAFF, "actor": f"operator:{id_}"} for id_ in ("key-1", "key-2")]


async def test_a_revocation_waits_for_no_dead_letter(start, publish, databases) -> None:
    """Facts without a tenant share a queue: one that fails keeps back all later ones of the consumer."""
    url = await databases.fresh("billing")
    served = await start(service(), url)
    key, fact = made("key-1")
    unhandled = LifecyclePolicySet(policy="lifecycle", offboarding_delay_s=1, signup_valid_s=1)
    await publish(fact)
    await until(lambda: accepted(served, key))

    await publish(*[unhandled] * 20)
    await until(lambda: _equals(databases, url, "SELECT count(*) FROM chassis.parked", 20))
    await publish(revoked("key-1"))

    await until(lambda: refused(served, key), timeout_s=1)


async def test_a_key_is_refused_from_its_expiry_on(start, publish) -> None:
    served = await start(service())
    key, fact = made("key-1", lifetime=timedelta(seconds=1.5))

    await publish(fact)
    await until(lambda: accepted(served, key))
    await until(lambda: refused(served, key))

    assert clock.now() >= fact.expires_at
    assert clock.now() - fact.expires_at < timedelta(seconds=1)


@pytest.mark.own_nats
async def test_copies_are_in_the_database_while_nats_is_away(start, publish, databases, nats) -> None:
    url = await databases.fresh("billing")
    served = await start(service(), url)
    (key, fact), (other, its_fact) = made("key-1"), made("key-2")
    await publish(fact, its_fact, revoked("key-2"))
    await until(lambda: accepted(served, key))
    await until(lambda: refused(served, other))
    copies = "SELECT count(*) FROM chassis.api_key WHERE id = 'key-1' OR revoked"
    await until(lambda: _equals(databases, url, copies, 2))

    await asyncio.to_thread(nats.stop)
    successor = await start(service(), url)

    assert await accepted(successor, key)
    assert not await accepted(successor, other)


async def test_an_empty_table_is_filled_again_from_the_log(start, publish, databases) -> None:
    url = await databases.fresh("billing")
    served = await start(service(), url)
    (key, fact), (other, its_fact) = made("key-1"), made("key-2")
    await publish(fact, its_fact, revoked("key-2"))
    await until(lambda: _equals(databases, url, "SELECT count(*) FROM chassis.api_key WHERE sequence > 0", 2))
    await databases.execute(url, "billing", "DELETE FROM chassis.api_key")

    successor = await start(service(), url)

    await until(lambda: accepted(successor, key))
    await until(lambda: _equals(databases, url, "SELECT count(*) FROM chassis.api_key WHERE revoked", 1))
    assert await accepted(served, key)
    assert not await accepted(successor, other)


async def _equals(databases, url: str, query: str, number: int) -> bool:
    return bool((await databases.execute(url, "billing", query))[0][0] == number)


async def test_a_fault_of_the_database_stops_no_revocation(start, publish, databases) -> None:
    url = await databases.fresh("billing")
    served = await start(service(), url)
    key, fact = made("key-1")
    await publish(fact)
    await until(lambda: accepted(served, key))
    async with served.running.database.direct() as connection:
        await connection.execute("ALTER TABLE chassis.api_key RENAME TO away")

    await publish(revoked("key-1"))
    await until(lambda: refused(served, key), timeout_s=1)
    async with served.running.database.direct() as connection:
        await connection.execute("ALTER TABLE chassis.away RENAME TO api_key")

    await until(lambda: _equals(databases, url, "SELECT count(*) FROM chassis.api_key WHERE revoked", 1))


def test_a_repeated_fact_does_not_accept_a_revoked_key_again(tmp_path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    ring = KeyRing(path)
    key = make_key("key-1", "reports", Role.VIEWER, ("billing:read",), datetime.now(UTC) + timedelta(days=1), STAFF)
    stored = ApiKey.model_validate(key.stored)

    ring.add(stored)
    found = ring.find(key.raw, datetime.now(UTC))
    ring.revoke("key-1")
    ring.add(stored)

    assert found == stored
    assert ring.find(key.raw, datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("name", "subject"), [("operator", "user:operator"), ("on call (night)", "user:op1")], ids=["name", "id"]
)
def test_a_key_of_a_file_without_subjects_belongs_to_a_person(name: str, subject: str) -> None:
    key = make_key("op1", name, Role.ADMIN, ("*",), datetime.now(UTC))

    assert ApiKey.model_validate(key.stored).subject == subject


def test_the_facts_have_no_tenant_so_that_all_of_them_are_in_one_order() -> None:
    assert all("tenant_id" not in fact.model_fields for fact in FACTS)
