"""Signing keys of tests: the same for all tests, so that any test can publish facts as any service."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid5
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of

from paybill_runtime.security.identity import make_identity
from paybill_runtime.security.signing_identity import SigningIdentity, certified
from paybill_runtime.telemetry import child

SIGNING = ("tenant", "billing", "provisioner", "agent-gateway")
_NAMES = UUID("6d1c0f9e-5a51-4d3c-8f0e-2b7a4c9d1e10")
_announced: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()


def key(name: str) -> Ed25519PrivateKey:
    """Returns the key with this name, which is always the same."""
    return Ed25519PrivateKey.from_private_bytes(sha256(f"test {name}".encode()).digest())


@lru_cache
def signing_identity(name: str) -> SigningIdentity:
    """Returns the signing identity of a service in tests."""
    return certified(name, key(name), key("root"))


def make_test_identity(directory: Path, name: str) -> None:
    """Creates the identity of `name`, with the signing key of tests for a service."""
    make_identity(directory, name)
    if name in SIGNING:
        (directory / f"{name}.signing-key").write_bytes(signing_identity(name).file())
        (directory / "signing-root.pub").write_bytes(key("root").public_key().public_bytes_raw())


def signed(name: str, subject: str, headers: Mapping[str, str], payload: bytes) -> dict[str, str]:
    """Returns headers with the signature of the service `name`."""
    return {**headers, SIGNATURE_HEADER: signing_identity(name).sign([leaf_of(subject, headers, payload)])[0]}


async def publish_fact(client: Client, event: Event, headers: Mapping[str, str]) -> int:
    """Publishes an event as its owner, signed; returns its sequence."""
    return await publish_signed(client, event.OWNER, subject_of(event), headers, encode(event))


async def publish_signed(client: Client, owner: str, subject: str, headers: Mapping[str, str], payload: bytes) -> int:
    """Publishes a message with the signature of a service, whose key is published first; returns its sequence."""
    known = _announced.setdefault(client, set())
    if owner not in known:
        announcement = signing_identity(owner).announcement
        id_ = str(uuid5(_NAMES, owner))
        # The stream drops it when another client of the same test was first.
        fact = Fact(announcement, id_, announcement.valid_since, 1, Origin(id_, id_, f"service:{owner}", child("")))
        await _publish(client, owner, subject_of(announcement), headers_of(fact), encode(announcement))
        known.add(owner)
    return await _publish(client, owner, subject, headers, payload)


async def _publish(client: Client, owner: str, subject: str, headers: Mapping[str, str], payload: bytes) -> int:
    sent = signed(owner, subject, headers, payload)
    return (await client.jetstream().publish(subject, payload, headers=sent)).seq
