"""Attacks with the NATS login of another service: forged, replayed and withdrawn keys make no fact count."""

from datetime import UTC, datetime
from hashlib import sha256

import pytest
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of
from paybill_runtime.clock import new_id
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.security.signing_identity import SigningIdentity, certified
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until
from paybill_runtime.testing.signing import key, signing_identity
from paybill_tenant.app import service

OWN = signing_identity("provisioner")
ATTACKER = certified("provisioner", key("attacker"), key("attacker"), number=2, replaces=OWN.announcement.key_id)
NEXT = certified("provisioner", key("next"), key("root"), number=2, replaces=OWN.announcement.key_id)
BY_PREVIOUS = certified(
    "provisioner",
    key("third"),
    key("next"),
    number=3,
    replaces=NEXT.announcement.key_id,
    issuer_id=NEXT.announcement.key_id,
)
OF_BILLING = signing_identity("billing")


def regions(name: str) -> BlueprintPublished:
    content = Blueprint(name="main", version=1, regions=(name,), cells=(), tiers=(), tables=())
    return BlueprintPublished(blueprint="main", content=content, content_hash=sha256(name.encode()).hexdigest())


class Bus:
    """The NATS login of the provisioner service."""

    def __init__(self, client) -> None:
        self._client = client

    async def publish(self, event: Event, signer: SigningIdentity | None, copied_from: str = "") -> int:
        """Publishes an event with a signature of `signer`; copied_from: the header of a signature instead of it."""
        id_ = new_id()
        fact = Fact(event, id_, datetime.now(UTC), 1, Origin(id_, id_, "service:provisioner", child("")))
        subject, headers, payload = subject_of(event), headers_of(fact), encode(event)
        if signer is not None:
            headers[SIGNATURE_HEADER] = signer.sign([leaf_of(subject, headers, payload)])[0]
        elif copied_from:
            headers[SIGNATURE_HEADER] = copied_from
        return int((await self._client.jetstream().publish(subject, payload, headers=headers, stream=EVENTS)).seq)

    async def signature_of(self, sequence: int) -> str:
        return str((await self._client.jetstream().get_msg(EVENTS, sequence)).headers[SIGNATURE_HEADER])


@pytest.fixture
async def bus(nats):
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    yield Bus(client)
    await client.close()


async def refused(served) -> dict[int, str]:
    """Returns the refused messages, by sequence, with the reason."""
    rows = (await served.client.get("/v1/operations/quarantine")).json()
    return {row["sequence"]: row["reason"] for row in rows}


async def test_no_attack_on_keys_makes_a_fact_count_and_the_service_continues(served, bus, log) -> None:
    await bus.publish(OWN.announcement, OWN)
    real = await bus.publish(regions("eu-5"), OWN)
    attacks = {
        await bus.publish(regions("forged-1"), None): "no signature",
        await bus.publish(regions("forged-2"), ATTACKER): "no service has published",
        await bus.publish(ATTACKER.announcement, ATTACKER): "neither the previous key nor the root key",
        await bus.publish(regions("forged-3"), ATTACKER): "no service has published",
        await bus.publish(regions("forged-4"), OF_BILLING): "the key of another service",
        await bus.publish(regions("forged-5"), None, await bus.signature_of(real)): "another content",
        await bus.publish(regions("forged-6"), None, "1.AAAA"): "malformed",
    }
    await bus.publish(NEXT.announcement, NEXT)
    late = await bus.publish(regions("eu-2"), OWN)  # of a replica that has not restarted
    attacks[await bus.publish(OWN.announcement, OWN)] = "older than the newest"
    ended = NEXT.withdraw("provisioner", OWN.announcement.key_id, "leaked", key("root"), datetime.now(UTC))
    by_attacker = NEXT.withdraw("provisioner", NEXT.announcement.key_id, "forged", key("attacker"), datetime.now(UTC))
    attacks[await bus.publish(by_attacker.withdrawals[0], OWN)] = "neither the previous key nor the root key"
    await bus.publish(ended.withdrawals[0], NEXT)
    attacks[await bus.publish(regions("forged-7"), OWN)] = "withdrawn"
    attacks[await bus.publish(OWN.announcement, OWN)] = "older than the newest"
    await bus.publish(BY_PREVIOUS.announcement, BY_PREVIOUS)
    last = await bus.publish(regions("eu-3"), BY_PREVIOUS)

    facts = await log.facts("tenant.offering_noted", at_least=5)
    found = await until(lambda: _all(served, attacks))

    assert [fact.event.keys for fact in facts if fact.event.offering == "regions"][-3:] == [
        ("eu-5",),
        ("eu-2",),
        ("eu-3",),
    ]
    assert not {real, late, last} & found.keys()
    assert {sequence: text in found[sequence] for sequence, text in attacks.items()} == dict.fromkeys(attacks, True)
    incidents = (await served.client.get("/v1/incidents")).json()["incidents"]
    assert {each["kind"] for each in incidents} == {"refused_fact"}
    assert (await served.client.get("/readyz")).json()["status"] == "ok"
    report = await replay(service(), served.running.settings, served.running.database)
    assert report.equal, report.faults


async def _all(served, attacks) -> dict[int, str]:
    found = await refused(served)
    return found if attacks.keys() <= found.keys() else {}
