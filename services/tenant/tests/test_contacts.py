"""Contact digests: equal for one mailbox, useless without the key, and forgotten after their time."""

from dataclasses import replace
from datetime import timedelta

import pytest
from paybill_contracts.tenant import ContactForgotten
from paybill_tenant.domain import offboarding
from paybill_tenant.domain.contacts import contact_digest, normalised
from paybill_tenant.domain.tenants import evolve
from tenant_samples import ACTIVE, ID, NOW, RETAINED

KEY = bytes(32)


@pytest.mark.parametrize(
    "address", ["ada@acme.example", " Ada@ACME.example ", "ada+trial@acme.example", "ADA+2@acme.example"]
)
def test_forms_of_one_mailbox_are_one_address(address) -> None:
    assert normalised(address) == "ada@acme.example"
    assert contact_digest(KEY, address) == contact_digest(KEY, "ada@acme.example")


def test_other_addresses_and_other_keys_have_other_digests() -> None:
    digests = {
        contact_digest(KEY, "ada@acme.example"),
        contact_digest(KEY, "bob@acme.example"),
        contact_digest(KEY, "ada@other.example"),
        contact_digest(bytes(31) + b"1", "ada@acme.example"),
    }

    assert len(digests) == 4


@pytest.mark.parametrize("tenant", [ACTIVE, RETAINED])
def test_a_digest_is_forgotten_after_its_time(tenant) -> None:
    known = replace(tenant, contact_digest="d" * 64, contact_until=NOW, due=NOW)

    assert offboarding.on_time(known, NOW - timedelta(seconds=1)) == []
    (event,) = offboarding.on_time(known, NOW)
    assert event == ContactForgotten(tenant_id=ID)
    assert evolve(known, event) == tenant


async def test_tenants_are_found_by_address_without_storing_it(tenant, log, sign_up) -> None:
    first = (await tenant.client.post("/v1/tenants", json=sign_up)).json()
    await tenant.client.post("/v1/tenants", json=sign_up | {"slug": "other", "contact_email": "x@other.example"})
    address = sign_up["contact_email"].replace("@", "+tag@").upper()

    found = (await tenant.client.get("/v1/tenants", params={"email": address})).json()["tenants"]
    nobody = (await tenant.client.get("/v1/tenants", params={"email": "nobody@x.example"})).json()["tenants"]
    requested = (await log.facts("tenant.tenant_requested"))[0].event

    assert [each["id"] for each in found] == [first["id"]]
    assert nobody == []
    assert requested.contact_until is not None
    assert len(requested.contact_digest) == 64
