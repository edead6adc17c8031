"""A subscription to all facts, for services such as audit that have no states."""

from dataclasses import replace

import pytest
from fastapi import APIRouter
from paybill_contracts.envelope import subject_of
from paybill_contracts.provisioner import EnvironmentFailed
from paybill_contracts.signing_keys import key_fact_kind
from paybill_runtime import clock
from paybill_runtime.clock import new_id
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.message import STREAM_LEASE
from paybill_runtime.messaging.streams import connect
from paybill_runtime.messaging.subscriptions import StreamMessage, Subscriptions
from paybill_runtime.testing import until
from paybill_runtime.testing.signing import publish_signed
from paybill_tenant.app import service

TENANTS = [f"ten_{digit * 32}" for digit in "0123456789abcdef"]


class _Recorder:
    """A handler that remembers what it received, and can be made to fail."""

    def __init__(self) -> None:
        self.messages: list[StreamMessage] = []
        self.fails_at = -1
        self.subscriptions = Subscriptions()
        self.subscriptions.all_facts()(self._handle)

    def _handle(self, _unit, message: StreamMessage, _context) -> None:
        if key_fact_kind(message.subject) is not None:
            return
        if len(self.messages) == self.fails_at:
            raise RuntimeError("a bug in a handler")
        self.messages.append(message)

    async def received(self, count: int) -> bool:
        return len(self.messages) >= count


@pytest.fixture
def recorder() -> _Recorder:
    return _Recorder()


@pytest.fixture
def auditing(start, recorder, monkeypatch):
    """`await auditing()` starts a service without states that subscribes to all facts."""
    monkeypatch.setattr(clock, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(retry_queue, "MAX_ATTEMPTS", 1000)

    async def started(**options):
        router = APIRouter(prefix="/v1/none")
        declared = replace(
            service(), states=(), on_start=(), subscriptions=recorder.subscriptions, router=lambda _: router
        )
        return await start(declared, **options)

    return started


def _failed(tenant: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        tenant_id=tenant,
        environment_id=f"env_{tenant.removeprefix('ten_')}",
        plan_hash="f" * 64,
        address="database.main",
        reason="the disk is full",
    )


async def test_facts_of_all_owners_and_tenants_arrive_in_stream_order(auditing, recorder, publish, offerings) -> None:
    await auditing()

    await publish(*offerings, *map(_failed, TENANTS))
    await until(lambda: recorder.received(18))
    sequences = [message.sequence for message in recorder.messages]

    assert sequences == sorted(sequences)
    assert [message.fact.event.tenant for message in recorder.messages[2:]] == TENANTS
    assert {message.fact.event.OWNER for message in recorder.messages} == {"billing", "provisioner"}


async def test_a_message_of_an_unknown_type_arrives_without_a_fact(auditing, recorder, publish, nats) -> None:
    await auditing()
    subject = subject_of(_failed(TENANTS[0])).replace("environment_failed", "environment_renamed")
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    headers = {"ce-id": new_id(), "ce-source": "paybill/provisioner", "pb-tenant": TENANTS[0]}
    await publish_signed(client, "provisioner", subject, headers, b'{"new": 1}')
    await client.close()
    await publish(_failed(TENANTS[1]))
    await until(lambda: recorder.received(2))
    unknown, known = recorder.messages

    assert (unknown.fact, unknown.subject, unknown.payload) == (None, subject, b'{"new": 1}')
    assert known.fact is not None


async def test_each_message_is_handled_once_although_it_is_published_twice(auditing, recorder, publish) -> None:
    await auditing()

    await publish(_failed(TENANTS[0]), copies=2)
    await publish(_failed(TENANTS[1]))
    await until(lambda: recorder.received(2))

    assert [message.fact.event.tenant for message in recorder.messages] == TENANTS[:2]


async def test_a_failing_message_blocks_later_ones_of_every_tenant_and_order_is_kept(
    auditing, recorder, publish
) -> None:
    recorder.fails_at = 3
    served = await auditing()
    await publish(*map(_failed, TENANTS))
    await until(lambda: recorder.received(3))
    blocked = (await until(lambda: _dead_letters(served, 13)))[0]
    handled = len(recorder.messages)

    recorder.fails_at = -1
    await until(lambda: recorder.received(len(TENANTS)))

    assert handled == 3
    assert "a bug in a handler" in blocked["reason"]
    assert [message.fact.event.tenant for message in recorder.messages] == TENANTS


async def _dead_letters(served, count: int):
    found = (await served.client.get("/v1/operations/dead-letters")).json()
    found = [each for each in found if key_fact_kind(each["subject"]) is None]
    return found if len(found) == count else None


async def test_only_the_holder_of_the_lease_handles_messages(auditing, recorder, publish, databases) -> None:
    url = await databases.fresh("tenant")
    first = await auditing(url=url)
    second = await auditing(url=url)
    await publish(*map(_failed, TENANTS))

    await until(lambda: recorder.received(len(TENANTS)))

    assert len(recorder.messages) == len(TENANTS)
    assert [STREAM_LEASE in one.running.leases.held for one in (first, second)] == [True, False]


def test_a_subscription_to_all_facts_allows_no_other() -> None:
    subscriptions = Subscriptions()
    subscriptions.all_facts()(lambda *_: None)

    with pytest.raises(TypeError, match="allows no other"):
        subscriptions.fact(EnvironmentFailed)(lambda *_: None)
    with pytest.raises(TypeError, match="allows no other"):
        subscriptions.all_facts()(lambda *_: None)
