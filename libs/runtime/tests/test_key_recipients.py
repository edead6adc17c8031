"""Subscribers that may open personal data: the keys are encrypted for them, and no longer after a withdrawal."""

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from paybill_contracts.key_copies import copy_for, decrypt
from paybill_contracts.personal import unseal
from paybill_runtime.messaging.streams import KEYS, connect
from paybill_runtime.testing import until

EMAIL = "un.likely@acme.example"
ROUTE = "/v1/operations/key-recipients"
PRIVATE = X25519PrivateKey.generate()
BODY = {"public_key": b64encode(PRIVATE.public_key().public_bytes_raw()).decode()}


@pytest.fixture
async def copies(nats):
    """`await copies(sealed)` returns the message of the key bucket with the copies of its key."""
    client = await connect(nats.url, "tenant", nats.password("tenant"))

    async def get(sealed) -> bytes:
        subject = f"$KV.keys.{sealed.key.replace('/', '.')}"
        return (await client.jetstream().get_last_msg(KEYS, subject, direct=True)).data

    yield get
    await client.close()


async def test_earlier_and_later_keys_are_encrypted_for_a_recipient_until_it_is_removed(
    served, sign_up, log, copies
) -> None:
    await sign_up(served, "earlier")
    await log.facts("tenant.tenant_requested")
    shared = await served.client.put(f"{ROUTE}/crm", json=BODY)
    again = await served.client.put(f"{ROUTE}/crm", json=BODY)
    await sign_up(served, "later")
    facts = await log.facts("tenant.tenant_requested", at_least=2)
    sealed = [fact.event.contact_email for fact in facts]

    async def has_copies(count: int) -> bool:
        return sum([copy_for("crm", await copies(value)) is not None for value in sealed]) == count

    await until(lambda: has_copies(2))
    opened = [unseal(value, decrypt(copy_for("crm", await copies(value)), PRIVATE, "crm")) for value in sealed]
    withdrawn = await served.client.delete(f"{ROUTE}/crm")
    await until(lambda: has_copies(0))

    assert opened == [EMAIL, EMAIL]
    assert (shared.json(), again.json(), withdrawn.json()) == (["crm"], ["crm"], [])
    assert all([copy_for("billing", await copies(value)) for value in sealed])
    changes = await log.facts("tenant.data_keys_shared", "tenant.data_keys_withdrawn", at_least=2)
    assert [(fact.event.TYPE, fact.revision, fact.event.recipient) for fact in changes] == [
        ("tenant.data_keys_shared", 1, "crm"),
        ("tenant.data_keys_withdrawn", 2, "crm"),
    ]


@pytest.mark.parametrize(
    ("name", "key", "code"),
    [
        ("billing", BODY["public_key"], "unusable_key"),
        ("tenant", BODY["public_key"], "unusable_key"),
        ("crm", b64encode(bytes(32)).decode(), "unusable_key"),
        ("crm", "A" * 43, "invalid_request"),
        ("Crm", BODY["public_key"], "invalid_request"),
    ],
    ids=["recipient", "owner", "low order", "no key", "no name"],
)
async def test_a_name_of_a_service_or_an_unusable_key_is_refused(served, name, key, code) -> None:
    answer = await served.client.put(f"{ROUTE}/{name}", json={"public_key": key})

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (await served.client.get(ROUTE)).json() == []
